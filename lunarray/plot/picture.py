"""A figure that a notebook shows."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A Figure that IPython shows as the last line of a cell.

    Matplotlib teaches IPython to draw figures when pyplot is set up for notebooks. Those of lunarray know nothing of
    pyplot, so they bring their own picture; where pyplot is set up too, its way of drawing goes first.
    """

    def _repr_png_(self) -> bytes:
        file, canvas = io.BytesIO(), self.canvas
        try:
            FigureCanvasAgg(self).print_figure(file, format="png", dpi=self.dpi)
        finally:
            self.set_canvas(canvas)  # the one that a window may have given it
        return file.getvalue()
