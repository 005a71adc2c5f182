"""X-ray spectra with their models, light curves with what was selected, and footprints on the globe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.plot.drawing import LINE_COLOURS, SEQUENTIAL, colormap, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Flags of frames (lunarray.xrf.FRAME_FLAGS come with the data), in the order in which they are told apart.
_GREY = "#9a9a9a"
_PARTS = (
    ("fluorescence", "fluorescence", LINE_COLOURS[1]),
    ("scatter", "scattered sunlight", LINE_COLOURS[2]),
    ("background", "background", _GREY),
)


def xrf_spectrum(
    components: xr.Dataset,
    *,
    rebin: int = 1,
    log: bool = True,
    lines: bool = True,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw a spectrum with the parts of its model, and the residuals below.

    Parameters
    ----------
    components : xarray.Dataset
        Of :func:`lunarray.xrf.spectrum_components`.
    rebin : int, optional
        Channels drawn as one.
    log : bool, optional
        Logarithmic count rates.
    lines : bool, optional
        Name the K lines.
    title : str, optional
        Above the figure; by default the time.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If `components` has no data or model.
    """
    missing = {"data", "data_std", "model", "energy", "residual"} - set(components.variables)
    if missing:
        raise InputError(
            f"no {', '.join(sorted(missing))}",
            where="xrf_spectrum",
            remedy="give what lunarray.xrf.spectrum_components gives",
        )
    ds = components.compute()
    if rebin > 1:
        std2 = (ds["data_std"] ** 2).coarsen(channel=rebin, boundary="trim").mean() / rebin
        ds = ds.coarsen(channel=rebin, boundary="trim").mean()
        ds["data_std"] = np.sqrt(std2)
        ds["residual"] = (ds["data"] - ds["model"]) / ds["data_std"]
    energy = ds["energy"].values
    figure = new_figure(7.4, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.errorbar(
        energy,
        ds["data"].values,
        ds["data_std"].values,
        fmt=".",
        ms=3,
        lw=0.8,
        color="#222222",
        label="CLASS",
        zorder=3,
    )
    top.step(
        energy,
        ds["model"].values,
        where="mid",
        color=LINE_COLOURS[0],
        lw=1.4,
        label="model",
        zorder=4,
    )
    for name, label, colour in _PARTS:
        if name in ds and float(ds[name].max()) > 0:
            top.step(energy, ds[name].values, where="mid", color=colour, lw=1.1, label=label)
    if log:
        top.set_yscale("log")
        positive = ds["data"].values[ds["data"].values > 0]
        floor = positive.min() / 2 if positive.size else 1e-3
        top.set_ylim(floor, max(float(ds["data"].max()), float(ds["model"].max())) * 3)
    if lines:
        _name_lines(top, components.attrs.get("lines", {}), energy)
    top.set_ylabel("counts / s / keV")
    top.legend(frameon=False, fontsize=8, ncols=2)
    bottom.axhline(0.0, color=LINE_COLOURS[0], lw=1.0)
    bottom.plot(energy, ds["residual"].values, ".", ms=3, color="#222222")
    bottom.set_ylabel("residual (σ)")
    bottom.set_xlabel("energy (keV)")
    reach = max(4.0, float(np.nanmax(np.abs(ds["residual"].values), initial=0.0)) * 1.1)
    bottom.set_ylim(-reach, reach)
    when = str(ds["time"].values)[:19] if "time" in ds.coords else ""
    figure.suptitle(title if title is not None else when)
    save(figure, path, dpi)
    return figure


def _name_lines(axes: Any, lines: dict[str, float], energy: np.ndarray) -> None:
    for name, at in lines.items():
        if name.endswith("Ka") and energy.min() < at < energy.max():
            axes.axvline(at, color=_GREY, lw=0.6, ls=":", zorder=0)
            axes.annotate(
                name.split()[0],
                (at, 0.98),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                fontsize=8,
            )


def light_curve(
    ds: xr.Dataset,
    *,
    xsm: xr.Dataset | None = None,
    goes: xr.Dataset | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw count rates in time, coloured by why frames are used or not.

    Parameters
    ----------
    ds : xarray.Dataset
        CLASS frames after :func:`lunarray.xrf.flag_frames`.
    xsm : xarray.Dataset, optional
        Solar light curve of :func:`lunarray.xrf.read_light_curve`.
    goes : xarray.Dataset, optional
        Solar fluxes of :func:`lunarray.xrf.open_goes_xrs`.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: rates of CLASS in 0.9-2.2 keV (lines of Mg, Al and Si) and in 7-16 keV (particles), and of the Sun.

    Raises
    ------
    InputError
        If `ds` has no counts or no flags.
    """
    from lunarray.xrf import particle_rate

    if "counts" not in ds or "flags" not in ds.variables:
        raise InputError(
            "no counts or no flags",
            where="light_curve",
            remedy="give frames after lunarray.xrf.flag_frames",
        )
    import dask

    soft, hard, flags = dask.compute(
        particle_rate(ds, (0.9, 2.2)), particle_rate(ds, (7.0, 16.0)), ds["flags"].variable
    )
    time = ds["time"].values
    suns = [s for s in (xsm, goes) if s is not None]
    figure = new_figure(8.4, 2.1 * (2 + len(suns)) + 0.6)
    panels = figure.subplots(2 + len(suns), 1, sharex=True)
    groups = _reasons(flags)
    for axes, rate, label in ((panels[0], soft, "0.9–2.2 keV"), (panels[1], hard, "7–16 keV")):
        for name, own, colour in groups:
            axes.plot(
                time[own], rate.values[own], ".", ms=3, color=colour, label=f"{name} ({own.sum()})"
            )
        axes.set_ylabel(f"{label}\n(counts/s)")
        axes.set_yscale("symlog", linthresh=10.0)
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=7, ncols=3)
    for axes, sun in zip(panels[2:], suns, strict=True):
        part = sun.sel(time=slice(time.min(), time.max())) if len(time) else sun
        name = "rate" if "rate" in part else "xrsb_flux"
        axes.plot(part["time"].values, part[name].values, color=LINE_COLOURS[5], lw=0.8)
        axes.set_yscale("log")
        axes.set_ylabel("XSM (counts/s)" if name == "rate" else "GOES 1–8 Å\n(W/m²)")
    panels[-1].set_xlabel("UTC")
    if title:
        figure.suptitle(title)
    save(figure, path, dpi)
    return figure


def _reasons(flags: xr.Variable) -> list[tuple[str, np.ndarray, str]]:
    """Frames by the first flag that they have; those to be used first."""
    values = np.asarray(flags.values).astype("i8")
    masks = np.atleast_1d(flags.attrs.get("flag_masks", [])).astype("i8")
    names = str(flags.attrs.get("flag_meanings", "")).split()
    groups = [("used", values == 0, LINE_COLOURS[0])]
    left = values != 0
    colours = [*LINE_COLOURS[1:], _GREY, "#5b5b5b"]
    for k, (mask, name) in enumerate(zip(masks, names, strict=True)):
        own = left & ((values & mask) > 0)
        if own.any():
            groups.append((name.replace("_", " "), own, colours[k % len(colours)]))
        left = left & ~own
    return [g for g in groups if g[1].any()]


def footprints(
    result: xr.Dataset,
    element: str = "Mg",
    *,
    projection: Literal["orthographic", "equirectangular"] = "orthographic",
    centre: tuple[float, float] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
    background: xr.DataArray | None = None,
    zoom: bool = False,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw footprints coloured by the abundance of an element, on the globe.

    Parameters
    ----------
    result : xarray.Dataset
        Of :func:`lunarray.xrf.fit_elements`. Later footprints lie on top of earlier ones; those without a result are
        outlined.
    element : str, optional
        Which.
    projection : {"orthographic", "equirectangular"}
        The globe from afar, or a map of all of it.
    centre : (lon, lat), optional
        Degrees; by default the middle of the footprints.
    vmin, vmax : float, optional
        Ends of the scale, wt%; by default the 2nd and 98th percentiles.
    cmap : str, optional
        Colour map.
    background : xarray.DataArray, optional
        Map on ``lat`` and ``lon`` (degrees) drawn in grey underneath, an albedo say.
    zoom : bool, optional
        Show the surroundings of the footprints alone.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there are no abundances of that element, or no footprints.
    """
    import dask
    import shapely
    from matplotlib.collections import PolyCollection

    from lunarray.geo import footprint_polygons

    needed = {"abundance", "corner_lon", "corner_lat"}
    if not needed <= set(result.variables) or element not in result["element"].values:
        raise InputError(
            f"no abundance of {element} with corners",
            where="footprints",
            remedy="give what lunarray.xrf.fit_elements gives",
        )
    if projection not in ("orthographic", "equirectangular"):
        raise InputError(
            f"projection={projection!r}",
            where="footprints",
            remedy="give 'orthographic' or 'equirectangular'",
        )
    lon, lat, values = dask.compute(
        result["corner_lon"].values,
        result["corner_lat"].values,
        result["abundance"].sel(element=element).values,
    )
    shapes = footprint_polygons(lon, lat)
    if centre is None:
        centre = _middle(lon, lat)
    rings, colours = [], []
    for shape, value in zip(shapes, values, strict=True):
        for part in shapely.get_parts(shape):
            if part.geom_type != "Polygon" or part.is_empty:
                continue
            dense = shapely.segmentize(part, 1.0)
            xy = _project(np.asarray(dense.exterior.coords), centre, projection)
            if xy is not None:
                rings.append(xy)
                colours.append(value)
    figure = new_figure(6.4, 6.0) if projection == "orthographic" else new_figure(8.6, 4.8)
    axes = figure.subplots()
    if background is not None:
        _grey_map(axes, background, centre, projection)
    _globe(axes, centre, projection)
    known = np.isfinite(colours)
    finite = np.asarray(colours)[known] if len(colours) else np.empty(0)
    low = vmin if vmin is not None else (np.percentile(finite, 2) if finite.size else 0.0)
    high = vmax if vmax is not None else (np.percentile(finite, 98) if finite.size else 1.0)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    drawn = PolyCollection(
        [r for r, k in zip(rings, known, strict=True) if k], cmap=colormap(cmap), lw=0.0, zorder=3
    )
    drawn.set_array(finite)
    drawn.set_clim(low, high)
    axes.add_collection(drawn)
    empty = [r for r, k in zip(rings, known, strict=True) if not k]
    axes.add_collection(PolyCollection(empty, facecolor="none", edgecolor=_GREY, lw=0.4, zorder=2))
    units = result["abundance"].attrs.get("units", "wt%")
    figure.colorbar(drawn, ax=axes, label=f"{element} ({units})", shrink=0.8, extend="both")
    if zoom and rings:
        points = np.concatenate(rings)
        low_xy, high_xy = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
        pad = 0.15 * max(*(high_xy - low_xy), 1e-3)
        axes.set_xlim(low_xy[0] - pad, high_xy[0] + pad)
        axes.set_ylim(low_xy[1] - pad, high_xy[1] + pad)
    if title:
        figure.suptitle(title)
    save(figure, path, dpi)
    return figure


def _middle(lon: np.ndarray, lat: np.ndarray) -> tuple[float, float]:
    from lunarray.geo import lonlat_of, unit_vectors

    vectors = unit_vectors(lon, lat).reshape(-1, 3)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(vectors):
        return 0.0, 0.0
    x, y = lonlat_of(vectors.mean(axis=0)[None])
    return float(x[0]), float(y[0])


def _project(points: np.ndarray, centre: tuple[float, float], projection: str) -> np.ndarray | None:
    """Points (n, 2) in degrees as drawn; None where they are behind the limb."""
    if projection == "equirectangular":
        return points
    lam, phi = np.deg2rad(points[:, 0] - centre[0]), np.deg2rad(points[:, 1])
    at = np.deg2rad(centre[1])
    depth = np.sin(at) * np.sin(phi) + np.cos(at) * np.cos(phi) * np.cos(lam)
    if np.all(depth <= 0):
        return None
    x = np.cos(phi) * np.sin(lam)
    y = np.cos(at) * np.sin(phi) - np.sin(at) * np.cos(phi) * np.cos(lam)
    behind = depth < 0
    size = np.hypot(x, y)
    # What lies behind the limb is drawn on it.
    x, y = (np.where(behind, v / np.maximum(size, 1e-12), v) for v in (x, y))
    return np.stack([x, y], axis=-1)


def _globe(axes: Any, centre: tuple[float, float], projection: str) -> None:
    style = {"color": "#7a7a7a", "lw": 0.4, "alpha": 0.7, "zorder": 1}
    if projection == "equirectangular":
        axes.set_xlim(-180, 180)
        axes.set_ylim(-90, 90)
        axes.set_aspect("equal")
        axes.set_xticks(np.arange(-180, 181, 60))
        axes.set_yticks(np.arange(-90, 91, 30))
        axes.set_xlabel("longitude (°E)")
        axes.set_ylabel("latitude (°N)")
        axes.grid(**style)
        return
    turn = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color="#222222", lw=0.8, zorder=4)
    fine = np.linspace(-180, 180, 361)
    curves = [np.column_stack([fine, np.full(361, p)]) for p in np.arange(-60, 61, 30)]
    curves += [
        np.column_stack([np.full(181, m), np.linspace(-90, 90, 181)])
        for m in np.arange(-180, 180, 30)
    ]
    for curve in curves:
        lam, phi = np.deg2rad(curve[:, 0] - centre[0]), np.deg2rad(curve[:, 1])
        at = np.deg2rad(centre[1])
        depth = np.sin(at) * np.sin(phi) + np.cos(at) * np.cos(phi) * np.cos(lam)
        xy = _project(curve, centre, projection)
        if xy is not None:
            axes.plot(*np.where((depth > 0)[:, None], xy, np.nan).T, **style)
    axes.set_aspect("equal")
    axes.set_xlim(-1.04, 1.04)
    axes.set_ylim(-1.04, 1.04)
    axes.set_axis_off()


def _grey_map(
    axes: Any, raster: xr.DataArray, centre: tuple[float, float], projection: str
) -> None:
    values = raster.transpose("lat", "lon").sortby("lat").sortby("lon")
    data = np.asarray(values.values, "f8")
    lat, lon = values["lat"].values, values["lon"].values
    options: dict[str, Any] = {
        "cmap": "gray",
        "zorder": 0,
        "interpolation": "bilinear",
        "origin": "lower",
    }
    low, high = np.nanpercentile(data, [1, 99])
    if projection == "equirectangular":
        extent = (
            lon[0] - 0.5 * (lon[1] - lon[0]),
            lon[-1] + 0.5 * (lon[1] - lon[0]),
            lat[0],
            lat[-1],
        )
        axes.imshow(data, extent=extent, vmin=low, vmax=high, **options)
        return
    # The globe is resampled point by point: its inverse projection is closed.
    x, y = np.meshgrid(np.linspace(-1, 1, 600), np.linspace(-1, 1, 600))
    r2 = x**2 + y**2
    with np.errstate(invalid="ignore"):
        depth = np.sqrt(1 - r2)
        at = np.deg2rad(centre[1])
        phi = np.arcsin(y * np.cos(at) + depth * np.sin(at))
        lam = np.deg2rad(centre[0]) + np.arctan2(x, depth * np.cos(at) - y * np.sin(at))
    seen = r2 <= 1
    columns = lon[0] + np.mod(np.rad2deg(np.where(seen, lam, 0.0)) - lon[0], 360.0)
    i = np.clip(np.searchsorted(lat, np.rad2deg(np.where(seen, phi, 0.0))), 0, lat.size - 1)
    j = np.clip(np.searchsorted(lon, columns), 0, lon.size - 1)
    image = np.where(seen, data[i, j], np.nan)
    axes.imshow(image, extent=(-1, 1, -1, 1), vmin=low, vmax=high, **options)
