"""X-ray spectra with their models, and light curves with what was selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.plot.drawing import GREY, INK, LINE_COLOURS, Output, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTS = (
    ("fluorescence", "fluorescence", LINE_COLOURS[1]),
    ("scatter", "scattered sunlight", LINE_COLOURS[2]),
    ("background", "background", GREY),
)


def xrf_spectrum(
    components: xr.Dataset,
    *,
    rebin: int = 1,
    log: bool = True,
    lines: bool = True,
    **output: Unpack[Output],
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
    **output : Output
        ``title`` (by default the time), ``path`` to save the picture, ``dpi``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If `components` has no data or model.

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> fit = windows.lunar.fit_elements(sun, response)
    >>> parts = la.xrf.spectrum_components(windows, fit, sun, response, index=0)
    >>> figure = la.plot.xrf_spectrum(parts)
    """
    missing = {"data", "data_std", "model", "energy", "residual"} - set(components.variables)
    if missing:
        raise InputError(
            f"no {', '.join(sorted(missing))}",
            where="xrf_spectrum",
            remedy="Give what lunarray.xrf.spectrum_components gives",
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
    points: dict[str, Any] = {"fmt": ".", "ms": 3, "lw": 0.8, "color": INK, "zorder": 3}
    top.errorbar(energy, ds["data"].values, ds["data_std"].values, label="CLASS", **points)
    model: dict[str, Any] = {"color": LINE_COLOURS[0], "lw": 1.4, "zorder": 4}
    top.step(energy, ds["model"].values, where="mid", label="model", **model)
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
    bottom.plot(energy, ds["residual"].values, ".", ms=3, color=INK)
    bottom.set_ylabel("residual (σ)")
    bottom.set_xlabel("energy (keV)")
    reach = max(4.0, float(np.nanmax(np.abs(ds["residual"].values), initial=0.0)) * 1.1)
    bottom.set_ylim(-reach, reach)
    when = str(ds["time"].values)[:19] if "time" in ds.coords else ""
    return finish(figure, output, title=when)


def _name_lines(axes: Any, lines: dict[str, float], energy: np.ndarray) -> None:
    for name, at in lines.items():
        if name.endswith("Ka") and energy.min() < at < energy.max():
            axes.axvline(at, color=GREY, lw=0.6, ls=":", zorder=0)
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
    **output: Unpack[Output],
) -> Figure:
    """Draw count rates over time, coloured by whether frames are used, and why not.

    Parameters
    ----------
    ds : xarray.Dataset
        CLASS frames after :func:`lunarray.xrf.flag_frames`.
    xsm : xarray.Dataset, optional
        Solar light curve of :func:`lunarray.xrf.xsm.read_light_curve`.
    goes : xarray.Dataset, optional
        Solar fluxes of :func:`lunarray.xrf.goes.open_goes_xrs`.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        The figure: rates of CLASS in 0.9-2.2 keV (lines of Mg, Al and Si) and in 7-16 keV (particles), and of the Sun.

    Raises
    ------
    InputError
        If `ds` has no counts or no flags.

    Examples
    --------
    >>> import lunarray as la
    >>> figure = la.plot.light_curve(la.sample("class_flare").lunar.flag_frames())
    """
    from lunarray.xrf.selection import particle_rate

    if "counts" not in ds or "flags" not in ds.variables:
        raise InputError(
            "no counts or no flags",
            where="light_curve",
            remedy="Give frames after lunarray.xrf.flag_frames",
        )
    import dask

    soft, hard, flags = dask.compute(
        *(particle_rate(ds, band).variable for band in ((0.9, 2.2), (7.0, 16.0))),
        ds["flags"].variable,
    )
    time = ds["time"].values
    suns = [s for s in (xsm, goes) if s is not None]
    rows, parts = 2 + len(suns), _passes(time)
    figure = new_figure(8.4, 2.1 * rows + 0.6)
    # Each pass as wide as it is long, but wide enough for its dates.
    lengths = np.array([(end - start) / np.timedelta64(1, "s") for start, end in parts]) + 1.0
    widths = np.maximum(lengths / lengths.sum(), 0.6 / len(parts))
    grid = figure.subplots(
        rows, len(parts), sharex="col", sharey="row", squeeze=False, width_ratios=list(widths)
    )
    groups = _reasons(flags)
    for column, (start, end) in enumerate(parts):
        here = (time >= start) & (time <= end)
        for axes, rate in ((grid[0, column], soft), (grid[1, column], hard)):
            for name, own, colour in groups:
                shown = own & here
                axes.plot(
                    time[shown], rate.values[shown], ".", ms=3, color=colour,
                    label=f"{name} ({own.sum()})",
                )  # fmt: skip
        for axes, sun in zip(grid[2:, column], suns, strict=True):
            part = sun.sel(time=slice(start, end))
            name = "rate" if "rate" in part else "xrsb_flux"
            axes.plot(part["time"].values, part[name].values, color=LINE_COLOURS[5], lw=0.8)
            axes.set_yscale("log")
            axes.set_ylabel("XSM (counts/s)" if name == "rate" else "GOES 1–8 Å\n(W/m²)")
    for row, (rate, label) in enumerate(((soft, "0.9–2.2 keV"), (hard, "7–16 keV"))):
        _rate_axis(grid[row, 0], rate.values, label)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", frameon=False, fontsize=7, ncols=4)
    _break_axis(grid)
    figure.supxlabel("UTC", fontsize=10)
    return finish(figure, output)


def _passes(time: np.ndarray) -> list[tuple[Any, Any]]:
    """First and last time of each run of frames: up to six, parted where the axis would be mostly empty."""
    if not time.size:
        now = np.datetime64("1970-01-01", "ns")
        return [(now, now)]
    time = np.sort(time)
    steps = np.diff(time) / np.timedelta64(1, "s")
    usual = float(np.median(steps)) if steps.size else 0.0
    seen = float(steps[steps <= 10 * usual].sum())
    gaps = np.flatnonzero((steps > 10 * usual) & (steps > 0.25 * seen))
    gaps = np.sort(gaps[np.argsort(steps[gaps])[-5:]])
    starts, ends = np.append(0, gaps + 1), np.append(gaps, time.size - 1)
    return [(time[a], time[b]) for a, b in zip(starts, ends, strict=True)]


def _rate_axis(axes: Any, rate: np.ndarray, label: str) -> None:
    """From zero and logarithmic above 10 counts/s where rates differ tenfold, else as close as they lie."""
    axes.set_ylabel(f"{label}\n(counts/s)")
    known = rate[np.isfinite(rate)]
    if known.size and known.max() > 10 * max(float(known.min()), 1.0):
        axes.set_yscale("symlog", linthresh=10.0)
        axes.set_ylim(0, 2 * float(known.max()))


def _break_axis(grid: np.ndarray) -> None:
    """Dates in few words, and slanted strokes where an axis is broken."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    stroke: dict[str, Any] = {"marker": [(-1, -1.6), (1, 1.6)], "markersize": 7, "linestyle": ""}
    stroke |= {"color": "black", "clip_on": False}
    for row in grid:
        for column, axes in enumerate(row):
            if column:
                axes.spines["left"].set_visible(False)
                axes.tick_params(left=False, which="both")
                axes.set_ylabel("")
                axes.plot([0, 0], [0, 1], transform=axes.transAxes, **stroke)
            if column < len(row) - 1:
                axes.spines["right"].set_visible(False)
                axes.plot([1, 1], [0, 1], transform=axes.transAxes, **stroke)
    for axes in grid[-1]:
        dates = AutoDateLocator(minticks=2, maxticks=max(3, 8 // grid.shape[1]))
        axes.xaxis.set_major_locator(dates)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(dates))
        axes.tick_params(axis="x", labelsize=8)


def _reasons(flags: xr.Variable) -> list[tuple[str, np.ndarray, str]]:
    """Frames by the first flag that they have; those to be used first."""
    values = np.asarray(flags.values).astype("i8")
    masks = np.atleast_1d(flags.attrs.get("flag_masks", [])).astype("i8")
    names = str(flags.attrs.get("flag_meanings", "")).split()
    groups = [("used", values == 0, LINE_COLOURS[0])]
    left = values != 0
    colours = [*LINE_COLOURS[1:], GREY, "#5b5b5b"]
    for k, (mask, name) in enumerate(zip(masks, names, strict=True)):
        own = left & ((values & mask) > 0)
        if own.any():
            groups.append((name.replace("_", " "), own, colours[k % len(colours)]))
        left = left & ~own
    return [g for g in groups if g[1].any()]
