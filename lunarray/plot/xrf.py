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
    """Draw count rates in time, coloured by why frames are used or not.

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
    return finish(figure, output)


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
