"""How a model of oxides comes about: where its samples lie, and what the network looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.geo import geobox_of, pixel_of, spatial_dims
from lunarray.plot.drawing import (
    INK,
    LINE_COLOURS,
    RED,
    SEQUENTIAL,
    Output,
    colour_bar,
    decimate,
    finish,
    label_of,
    limits,
    new_figure,
)
from lunarray.plot.mapping import draw_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USED, _LOST = LINE_COLOURS[0], RED
#: Channels of the network's blocks in units of those of the first.
_CHANNELS = (1, 1, 2, 2, 4)


def sample_map(
    samples: xr.Dataset,
    maps: xr.DataArray | Sequence[xr.DataArray],
    *,
    cmap: str = SEQUENTIAL,
    max_pixels: int = 1_000_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw where samples lie on the maps that they were taken from.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 1.

    Parameters
    ----------
    samples : Dataset
        With ``lon`` and ``lat`` (sample), degrees, such as of :func:`lunarray.oxides.build_samples`; samples whose
        ``status`` is not 0 are drawn as lost.
    maps : DataArray or sequence of DataArray
        A panel for each: an oxide of the reference, the reflectance of a cube in one band. Of spectra, the mean of the
        bands is drawn.
    cmap : str
        Colour map of matplotlib.
    max_pixels : int
        Maps of more pixels are thinned out before they are read.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Samples without places, or no map.
    GridError
        A map without grid.

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> figure = la.plot.sample_map(samples, [globe.reference["FeO"]])
    """
    given = [maps] if isinstance(maps, xr.DataArray) else list(maps)
    if not given or not {"lon", "lat"} <= set(samples.coords):
        raise InputError(
            "no map" if not given else "samples without coordinates lon and lat",
            where="sample_map",
            remedy="Give the samples of build_samples, and the maps they were taken from",
        )
    lon, lat = (np.asarray(samples[name].values, np.float64) for name in ("lon", "lat"))
    status = samples["status"].values if "status" in samples else np.zeros(lon.size, np.uint8)
    figure = new_figure(5.4 * len(given), 4.8)
    for axes, array in zip(figure.subplots(1, len(given), squeeze=False)[0], given, strict=True):
        if "wavelength" in array.dims:
            array = array.mean("wavelength", keep_attrs=True)
        box = geobox_of(array)
        shown = decimate(array, max_pixels).load()
        scale = limits([shown.values], None, None)
        image = draw_map(axes, shown, scale, cmap)
        rows, columns = pixel_of(box, lon, lat)
        inside = rows >= 0
        to_ground = box.affine
        x = to_ground.a * (columns[inside] + 0.5) + to_ground.b * (rows[inside] + 0.5) + to_ground.c
        y = to_ground.d * (columns[inside] + 0.5) + to_ground.e * (rows[inside] + 0.5) + to_ground.f
        unit = 1e-3 if spatial_dims(array) == ("y", "x") else 1.0
        lost = status[inside] != 0
        for chosen, colour, label in ((~lost, _USED, "used"), (lost, _LOST, "lost")):
            text = f"{int(chosen.sum())} {label}"
            axes.scatter(
                x[chosen] * unit, y[chosen] * unit, s=5, color=colour, linewidth=0, label=text
            )
        axes.legend(loc="upper right", fontsize=7, framealpha=0.9)
        colour_bar(figure, image, axes, label_of(array), extend=scale[2], shrink=0.7, pad=0.05)
    return finish(figure, output)


def network_diagram(
    n: int = 32,
    bands: int = 150,
    outputs: Sequence[str] = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2"),
    **output: Unpack[Output],
) -> Figure:
    """Draw the one-dimensional convolutional network of oxides.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 3.

    Parameters
    ----------
    n : int
        Channels of the first block.
    bands : int
        Bands of the spectra.
    outputs : sequence of str
        What the network gives.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        A number that is not positive, or nothing that is given.

    Examples
    --------
    >>> import lunarray as la
    >>> figure = la.plot.network_diagram()
    """
    require_number("n", n, 1, whole=True)
    require_number("bands", bands, 1, whole=True)
    if not outputs:
        raise InputError("no outputs", where="outputs", remedy="Name what the network gives")
    figure = new_figure(9.6, 3.6)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 10.4)
    axes.set_ylim(-0.2, 4.4)
    channels = [factor * n for factor in _CHANNELS]
    parts: list[tuple[str, str, float]] = [("spectrum", f"{bands} × 1", 2.6)]
    parts += [(f"block {i + 1}", f"{bands} × {c}", 2.6) for i, c in enumerate(channels)]
    parts += [("flattened", f"{bands * channels[-1]:,}", 3.2), ("", "", 0.36 * len(outputs))]
    for number, (name, size, height) in enumerate(parts):
        x, last = 0.2 + 1.3 * number, number == len(parts) - 1
        width = 0.25 + 0.6 * (channels[number - 1] / channels[-1] if 0 < number < 6 else 0.1)
        low = 2.1 - height / 2
        colour = LINE_COLOURS[0 if 0 < number < 6 else 1]
        _box(axes, x, low, width, height, colour)
        axes.text(x + width / 2, low + height + 0.1, name, ha="center", fontsize=8, color=INK)
        axes.text(x + width / 2, low - 0.3, size, ha="center", fontsize=8, color=INK)
        if last:
            for row, oxide in enumerate(outputs):
                y = low + height * (1 - (row + 0.5) / len(outputs))
                axes.text(x + width + 0.1, y, oxide, va="center", fontsize=8, color=INK)
        else:
            axes.annotate(
                "", (x + 1.27, 2.1), (x + width + 0.03, 2.1),
                arrowprops={"arrowstyle": "->", "color": INK, "lw": 0.8},
            )  # fmt: skip
    text = "a block: convolution (3 wide, stride 1, zeros at the ends), batch normalisation, ReLU"
    axes.text(0.2, -0.1, f"{text}; last a fully connected layer", fontsize=8, color=INK)
    return finish(figure, output)


def _box(axes: Any, x: float, y: float, width: float, height: float, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=INK, alpha=0.75
        )
    )
