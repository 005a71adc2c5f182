"""How a notebook shows a grid: odc-geo's own way asks for longitudes of the Earth, which no grid of the Moon has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lunarray.engine.notebook import shell
from lunarray.engine.tables import html_table
from lunarray.geo.crs import body_of, crs_code

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def grid_html(grid: GeoBox) -> str:
    """A grid as a small table; that of a body that is not ours as odc-geo shows it."""
    if body_of(grid.crs) is None:
        return str(grid._ui._repr_html_())
    box = grid.boundingbox
    degrees = grid.crs is not None and grid.crs.geographic
    unit = "°" if degrees else "m"
    dx, dy = abs(grid.transform.a), abs(grid.transform.e)
    rows = [
        ("CRS", f"{crs_code(grid.crs) or 'no code'} {grid.crs.proj.name if grid.crs else ''}"),
        ("Rows × columns", f"{grid.shape[0]:,} × {grid.shape[1]:,}"),
        ("Pixel", f"{dx:g} {unit}" if dx == dy else f"{dx:g} × {dy:g} {unit}"),
        ("x", f"{box.left:,g} to {box.right:,g} {unit}"),
        ("y", f"{box.bottom:,g} to {box.top:,g} {unit}"),
    ]
    return html_table((), rows, caption="Grid")


def _drawing(grid: GeoBox) -> str | None:
    """odc-geo's drawing on a map of the Earth, of grids that lie there."""
    return str(grid._repr_svg_()) if body_of(grid.crs) is None else None


def register() -> None:
    """Have the notebook that runs, if one does, show grids so."""
    formatters = getattr(getattr(shell(), "display_formatter", None), "formatters", {})
    for kind, show in (("text/html", grid_html), ("image/svg+xml", _drawing)):
        if kind in formatters:
            formatters[kind].for_type_by_name("odc.geo.geobox", "GeoBox", show)
