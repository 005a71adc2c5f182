"""Reflectance spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import geobox_of, great_circle_distance, pixel_of, spatial_dims
from lunarray.plot.drawing import (
    LINE_COLOURS,
    Output,
    chosen,
    decimate,
    degrees,
    finish,
    lay_grid,
    name_of,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More spectra than this are drawn as median and band.
_MAX_LINES = 12
_MAX_SPECTRA = 20_000


def spectra(
    ds: xr.Dataset | xr.DataArray,
    *,
    variable: str = "reflectance",
    at: Sequence[tuple[float, float]] | None = None,
    by: str | None = "orbit",
    quantiles: tuple[float, float] = (0.16, 0.84),
    **output: Unpack[Output],
) -> Figure:
    """Draw spectra: each one if they are few, their median and a band of quantiles if they are many.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Tracks (observation, wavelength), maps (wavelength, y, x), or one spectrum.
    variable : str, optional
        Which variable of a Dataset.
    at : sequence of (lon, lat), optional
        Places (degrees) whose spectra to draw: the pixel of a map that holds each, the nearest footprint of tracks.
    by : str, optional
        Coordinate along ``observation`` that groups tracks, if it has no more than seven values.
    quantiles : tuple of float, optional
        Ends of the band.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no spectra, or none at a place that is asked for.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> figure = la.plot.spectra(spectra)
    """
    array = ds if isinstance(ds, xr.DataArray) else ds[chosen([variable], ds)[0]]
    if "wavelength" not in array.dims or "wavelength" not in array.coords:
        raise InputError(
            f"there is no spectral axis: the dimensions are {tuple(map(str, array.dims))}",
            where=str(array.name),
            remedy="Give data with dimension and coordinate 'wavelength' (nm)",
        )
    # Each group: label, spectra (n, wavelength), number it stands for.
    groups = _at_places(array, at) if at is not None else _grouped(array, by)
    wavelength = np.asarray(array["wavelength"].values, dtype=np.float64)
    pieces = _pieces(array, wavelength)

    figure = new_figure(7.4, 4.6)
    axes = figure.subplots()
    for number, (label, values) in enumerate(groups):
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        _draw_group(axes, wavelength, pieces, values, quantiles, label=label, color=colour)
    finite = np.concatenate([values[np.isfinite(values)] for _, values in groups])
    if finite.size:
        low, high = np.percentile(finite, (0.2, 99.8))
        pad = 0.08 * max(high - low, 1e-6)
        axes.set_ylim(max(low - pad, 0.0) if low >= 0 else low - pad, high + pad)
    axes.set_xlabel("wavelength (nm)", fontsize=10.5)
    units = array.attrs.get("units", "1")
    quantity = name_of(array)
    axes.set_ylabel(quantity if units in ("1", "") else f"{quantity} ({units})", fontsize=10.5)
    axes.margins(x=0.01)
    lay_grid(axes, ticks=9, hide=("top", "right"))
    many = any(values.shape[0] > 1 for _, values in groups)
    legend_title = f"median, {quantiles[0]:.0%} to {quantiles[1]:.0%}" if many else None
    if len(groups) > 1 or many:
        axes.legend(frameon=False, fontsize=9, title=legend_title, title_fontsize=8.5, loc="best")
    return finish(figure, output, axes=axes)


def _draw_group(
    axes: Any,
    wavelength: np.ndarray,
    pieces: list[np.ndarray],
    values: np.ndarray,
    quantiles: tuple[float, float],
    *,
    label: str,
    color: str,
) -> None:
    """One spectrum as a line; several as their median with a band, the lines faint where they are few."""
    line, band = values[0], None
    if values.shape[0] > 1:
        low, line, high = _quantiles(values, (quantiles[0], 0.5, quantiles[1]))
        band = low, high
    for piece in pieces:
        at = wavelength[piece]
        if band is not None:
            low, high = (end[piece] for end in band)
            axes.fill_between(at, low, high, color=color, alpha=0.22, linewidth=0)
            if values.shape[0] <= 60:
                axes.plot(at, values[:, piece].T, color=color, alpha=0.14, linewidth=0.5)
        first = piece is pieces[0]
        axes.plot(at, line[piece], color=color, linewidth=1.6, label=label if first else None)


def _grouped(array: xr.DataArray, by: str | None) -> list[tuple[str, np.ndarray]]:
    if (dims := spatial_dims(array)) is not None:
        y, x = dims
        pixels = array.sizes[y] * array.sizes[x]
        values = (
            decimate(array, _MAX_SPECTRA)
            .transpose(y, x, "wavelength")
            .values.reshape(-1, array.sizes["wavelength"])
        )
        values = values[np.isfinite(values).any(axis=1)]
        if not values.size:
            raise InputError(
                "every pixel is missing", where=str(array.name), remedy="Choose another region"
            )
        shown = f"{values.shape[0]} pixels" + ("" if values.shape[0] == pixels else f" of {pixels}")
        return [(shown, values)]
    if array.dims == ("wavelength",):
        return [(str(array.name or "spectrum"), array.values[None])]
    others = [dim for dim in array.dims if dim != "wavelength"]
    if others != ["observation"]:
        raise InputError(
            f"spectra along {tuple(map(str, others))} cannot be drawn",
            where=str(array.name),
            remedy="Give tracks, a map, or one spectrum",
        )
    step = max(1, -(-array.sizes["observation"] // _MAX_SPECTRA))
    array = array.transpose("observation", "wavelength").isel(observation=slice(None, None, step))
    values = array.compute().values
    some = np.isfinite(values).any(axis=1)
    if not some.any():
        raise InputError(
            "every spectrum is missing", where=str(array.name), remedy="Check the quality mask"
        )
    if by is not None and by in array.coords and array.coords[by].dims == ("observation",):
        keys = array.coords[by].values
        kinds = np.unique(keys[some])
        if kinds.size <= len(LINE_COLOURS):
            return [
                (f"{by} {kind} ({(some & (keys == kind)).sum()})", values[some & (keys == kind)])
                for kind in kinds
            ]
    values = values[some]
    if values.shape[0] <= _MAX_LINES:
        lat, lon = (
            array.coords[name].values[some] if name in array.coords else None
            for name in ("lat", "lon")
        )
        labels = [
            _place(lon[i], lat[i]) if lat is not None and lon is not None else f"{i}"
            for i in range(len(values))
        ]
        return [(label, value[None]) for label, value in zip(labels, values, strict=True)]
    return [(f"{values.shape[0]} spectra", values)]


def _at_places(
    array: xr.DataArray, places: Sequence[tuple[float, float]]
) -> list[tuple[str, np.ndarray]]:
    groups = []
    dims = spatial_dims(array)
    for lon, lat in places:
        if dims is not None:
            row, column = pixel_of(geobox_of(array), lon, lat)
            if row[0] < 0:
                raise InputError(
                    f"{_place(lon, lat)} is outside the map",
                    where="at",
                    remedy="Give (lon, lat) in degrees",
                )
            one = array.isel({dims[0]: int(row[0]), dims[1]: int(column[0])})
        elif "observation" in array.dims and "lat" in array.coords and "lon" in array.coords:
            distance = great_circle_distance(array["lon"].values, array["lat"].values, lon, lat)
            one = array.isel(observation=int(np.nanargmin(distance)))
        else:
            raise InputError(
                "the spectra have no places",
                where="at",
                remedy="Give a map, or tracks with lon and lat",
            )
        groups.append((_place(lon, lat), one.compute().values[None]))
    return groups


def _pieces(array: xr.DataArray, wavelength: np.ndarray) -> list[np.ndarray]:
    """Runs of channels to join by a line: each detector by itself, and only rising wavelengths."""
    if "detector" in array.coords and array.coords["detector"].dims == ("wavelength",):
        detector = array.coords["detector"].values
        return [np.flatnonzero(detector == name) for name in dict.fromkeys(detector.tolist())]
    breaks = np.flatnonzero(np.diff(wavelength) <= 0) + 1
    return list(np.split(np.arange(wavelength.size), breaks))


def _quantiles(values: np.ndarray, at: Sequence[float]) -> Any:
    """Quantiles over the finite values of each channel; NaN where there are none."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN", category=RuntimeWarning)
        return np.nanquantile(np.where(np.isfinite(values), values, np.nan), at, axis=0)


def _place(lon: float, lat: float) -> str:
    return f"{degrees(lat, 'NS', '.2f')}, {degrees(lon, 'EW', '.2f')}"
