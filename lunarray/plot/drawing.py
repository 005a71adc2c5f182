"""What all pictures share: colours, limits, names, panels, colour bars, and how a figure is finished."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import GridError, InputError
from lunarray.geo import geobox_of, moon_crs, spatial_dims
from lunarray.units import unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from odc.geo.geobox import GeoBox

#: Colour-blind safe colours for lines (Okabe and Ito 2008), without the yellow that vanishes on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: Perceptually uniform and safe for colour-blind readers; the diverging one is symmetric about white.
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
NAN_COLOUR = "#d4d4d4"
INK, GREY, RED = "#222222", "#9a9a9a", "#c1121f"
#: What is drawn first where nothing is asked for.
OXIDES = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2", "Mg_number")


# --- figures --------------------------------------------------------------------------------------


class Output(TypedDict, total=False):
    """What every picture takes besides what it draws.

    Parameters
    ----------
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format: .png, .pdf, .svg.
    dpi : float, optional
        Resolution of the saved picture; 150 by default.
    """

    title: str | None
    path: str | os.PathLike[str] | None
    dpi: float


def new_figure(width: float, height: float) -> Figure:
    """Figure of a size in inches that no global state knows of; a notebook shows it."""
    from lunarray.plot.picture import Picture

    return Picture(figsize=(width, height), layout="constrained", facecolor="white")


def finish(
    figure: Figure,
    output: Output,
    *,
    axes: Any = None,
    title: str | None = None,
    fontsize: float = 12.0,
) -> Figure:
    """Give a figure its title, or `title` where none is given, and save it where `output` says.

    The title stands above `axes`, or above the whole figure. TypeError for an option that no picture has, InputError
    for a suffix that matplotlib does not write.
    """
    if unknown := set(output) - set(Output.__annotations__):
        raise TypeError(f"pictures have no option {', '.join(map(repr, sorted(unknown)))}")
    given = output.get("title")
    title = title if given is None else given
    if title and axes is not None:
        axes.set_title(title, fontsize=fontsize)
    elif title:
        figure.suptitle(title, fontsize=fontsize)
    save(figure, output.get("path"), output.get("dpi", 150.0))
    return figure


def save(figure: Figure, path: str | os.PathLike[str] | None, dpi: float) -> None:
    """Write a figure under its name at once: a reader never sees half a picture; None writes nothing."""
    if path is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = local_path(path)
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    kind = path.suffix.lower().lstrip(".")
    if kind not in known:
        raise InputError(
            f"pictures are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy="Use .png, .pdf or .svg",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        figure.savefig(name, format=kind, dpi=dpi)
        os.chmod(name, 0o644)  # mkstemp gives the file to its owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# --- panels ---------------------------------------------------------------------------------------


def fill(grid: np.ndarray, names: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """Axes with what goes on them; those that are left over are switched off."""
    for axes, name in zip_longest(grid.flat, names):
        if name is None:
            axes.set_axis_off()
        else:
            yield axes, name


def colour_bar(
    figure: Any,
    image: Any,
    axes: Any,
    label: str,
    *,
    fontsize: float = 10.0,
    ticks: float = 8.0,
    **place: Any,
) -> None:
    """Colour bar with thin outline and label; `place` is what matplotlib takes to lay it out."""
    bar = figure.colorbar(image, ax=axes, **place)
    bar.set_label(label, fontsize=fontsize)
    bar.ax.tick_params(labelsize=ticks)
    bar.outline.set_linewidth(0.6)


def panel_bar(
    figure: Figure,
    axes: Any,
    image: Any,
    array: xr.DataArray,
    extend: str,
    *,
    pad: float,
    note: str = "",
) -> None:
    """Name above a panel, `pad` points away, and its colour bar below, with a note."""
    axes.set_title(name_of(array), fontsize=11, pad=pad)
    colour_bar(
        figure,
        image,
        axes,
        "\n".join(filter(None, (label_of(array), note))),
        fontsize=8.5,
        orientation="horizontal",
        extend=extend,
        shrink=0.8,
        aspect=25,
        pad=0.04,
    )


def lay_grid(
    axes: Any, *, ticks: float = 8.0, hide: Sequence[str] = (), axis: str = "both"
) -> None:
    """Light grid under the data; the sides in `hide` stay open."""
    axes.tick_params(labelsize=ticks)
    axes.grid(True, axis=axis, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in hide:
        axes.spines[side].set_visible(False)


def halo() -> list[Any]:
    """White rim of text on a map."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.0, foreground="white", alpha=0.85)]


# --- data -----------------------------------------------------------------------------------------


def chosen(
    variables: Sequence[str] | None,
    *datasets: xr.Dataset,
    default: Callable[[xr.Dataset], list[str]] | None = None,
) -> list[str]:
    """Names of what is drawn: those that are asked for, or what `default` picks of what all datasets have.

    By default :func:`map_variables`. InputError if a dataset lacks one of them, or there is none.
    """
    first, *others = datasets
    shared = [name for name in first.data_vars if all(name in ds for ds in others)]
    names = (default or map_variables)(first[shared]) if variables is None else list(variables)
    lacking = [name for name in names if any(name not in ds for ds in datasets)]
    if lacking or not names:
        nothing = "they have no variable in common" if others else "there is nothing to draw"
        raise InputError(
            f"there is no variable {', '.join(map(repr, lacking))}" if lacking else nothing,
            where="variables",
            remedy="Choose among " + (", ".join(map(str, shared)) or "none"),
        )
    return names


def map_variables(ds: xr.Dataset) -> list[str]:
    """Variables worth a panel: the oxides that are there, else every floating map or track, up to twelve."""
    oxides = [name for name in OXIDES if name in ds]
    if oxides:
        return oxides
    dims = spatial_dims(ds) or ("observation",)
    names = [
        str(name)
        for name, variable in ds.data_vars.items()
        if set(variable.dims) == set(dims)
        and variable.dtype.kind in "fiu"
        and not str(name).endswith("_std")
    ]
    return ([name for name in names if name not in ("count", "quality")] or names)[:12]


def all_variables(ds: xr.Dataset) -> list[str]:
    """The oxides that are there, else everything."""
    return [name for name in OXIDES if name in ds] or [str(name) for name in ds.data_vars]


def flat_map(array: xr.DataArray) -> xr.DataArray:
    """A map without axes of length one; InputError if more than two dimensions are left."""
    array = array.squeeze(drop=True) if array.ndim > 2 else array
    if array.ndim != 2:
        raise InputError(
            f"a map has two dimensions, not {tuple(map(str, array.dims))}",
            where=str(array.name),
            remedy="Select one wavelength or layer, .isel(wavelength=0)",
        )
    return array


def map_dims(array: xr.DataArray) -> tuple[str, str]:
    """Spatial dimensions, rows first; InputError if there are none."""
    dims = spatial_dims(array)
    if dims is None:
        raise InputError(
            f"this is no map: its dimensions are {tuple(map(str, array.dims))}",
            where=str(array.name),
            remedy="Give dimensions (y, x) or (lat, lon)",
        )
    return dims


def pole_of(geobox: GeoBox) -> str | None:
    """Pole of a grid, "north" or "south", if it is in polar stereographic projection, else None."""
    operation = moon_crs(geobox.crs).coordinate_operation
    if operation is None or "polar stereographic" not in operation.method_name.lower():
        return None
    latitude = next(float(p.value) for p in operation.params if "latitude" in p.name.lower())
    return "north" if latitude > 0 else "south"


def require_pole(array: xr.DataArray | xr.Dataset) -> str:
    """Pole of a map in polar stereographic projection; GridError for any other."""
    pole = pole_of(geobox_of(array))
    if pole is None:
        raise GridError(
            "the map is not in polar stereographic projection",
            where=str(getattr(array, "name", "atlas")),
            remedy="Use lunarray.plot.maps, or a map in IAU_2015:30130 or 30135",
        )
    return pole


def decimate(obj: xr.Dataset | xr.DataArray, max_pixels: int) -> Any:
    """Every n-th pixel of a map, in memory, so that no more than `max_pixels` are left.

    Picking, not averaging: what is shown are values of the map, and of a lazy map only one block at a time is read.
    """
    dims = spatial_dims(obj)
    if dims is not None:
        rows, columns = obj.sizes[dims[0]], obj.sizes[dims[1]]
        step = max(1, math.ceil(math.sqrt(rows * columns / max_pixels)))
        if step > 1:
            obj = obj.isel(
                {dims[0]: slice(step // 2, None, step), dims[1]: slice(step // 2, None, step)}
            )
    return obj.compute()


def limits(
    values: Sequence[np.ndarray],
    vmin: float | None,
    vmax: float | None,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> tuple[float, float, str]:
    """Colour limits that are given, or robust percentiles of all values; and which ends of the colour bar are open.

    The limits are never equal; what is not finite is left out.
    """
    finite = np.concatenate(
        [np.asarray(v, dtype=np.float64)[np.isfinite(v)].ravel() for v in values] or [np.empty(0)]
    )
    if not finite.size:
        return (0.0 if vmin is None else vmin), (1.0 if vmax is None else vmax), "neither"
    low, high = np.percentile(finite, percentiles)
    low, high = (low if vmin is None else float(vmin)), (high if vmax is None else float(vmax))
    if not high > low:
        pad = max(abs(low) * 1e-3, 1e-6)
        low, high = low - pad, high + pad
    below, above = bool((finite < low).any()), bool((finite > high).any())
    return (
        float(low),
        float(high),
        {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above],
    )


def no_finer(
    scale: tuple[float, float, str], error: np.ndarray
) -> tuple[tuple[float, float, str], str]:
    """A colour scale that is no shorter than two typical errors of what it shows, and what there is to say of that.

    A map that is flatter than its own error says so and is nearly of one colour: stretched, it would show noise.
    """
    low, high, extend = scale
    known = error[np.isfinite(error)]
    typical = float(np.median(known)) if known.size else 0.0
    lacking = 2 * typical - (high - low)
    if lacking <= 0:
        return scale, ""
    start = max(low - lacking / 2, 0.0) if low >= 0 else low - lacking / 2
    return (start, start + 2 * typical, extend), f"flatter than its error, ±{typical:.2g}"


def colormap(name: str) -> Any:
    """Colormap with grey for missing values."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=NAN_COLOUR)


# --- words ----------------------------------------------------------------------------------------


def name_of(array: xr.DataArray) -> str:
    """Name of a quantity as print has it: FeO with its 2 of TiO2 below the line."""
    raw = str(array.name) if array.name is not None else ""
    if raw in ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2"):
        return "".join(f"$_{letter}$" if letter.isdigit() else letter for letter in raw)
    if raw == "Mg_number":
        return "Mg#"
    return str(array.attrs.get("long_name", raw)) or "value"


def label_of(array: xr.DataArray) -> str:
    """Name and unit."""
    units = unit_label(array)
    return (
        name_of(array)
        if units in ("1", "", "%") and name_of(array) != "Mg#"
        else f"{name_of(array)} ({units})"
    )


def degrees(value: float, sides: str, form: str = "g") -> str:
    """An angle with the letter of its side: "NS" or "EW"."""
    return f"{abs(value):{form}}° {sides[int(value < 0)]}"


def minus(text: str) -> str:
    """Text with the sign that print has for minus."""
    return text.replace("-", "−")


def nice_length(wanted: float) -> float:
    """Longest of 1, 2, 5, 10, … that is not above what is wanted."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= wanted * 1.0001)
