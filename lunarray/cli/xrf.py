"""Commands of X-ray fluorescence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from lunarray.cli.console import console, picture, say, tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset
from lunarray.cli.options import Grid, Output, Overwrite, Quicklook, SkipBadFiles, folder
from lunarray.errors import LunarrayWarning

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.xrf.response import Response


class PhotonsPer(StrEnum):
    """Unit of a solar model's third column."""

    keV = "keV"
    bin = "bin"


class Strategy(StrEnum):
    """How spectra are co-added."""

    sliding = "sliding"
    running = "running"
    combined = "combined"
    none = "none"


Frames = Annotated[
    list[str],
    Argument(
        metavar="INPUT...",
        help="CLASS L1 files (.fits, .gz, zips; folders, trees of years, months and days, and quoted patterns too), or "
        "one Zarr store of such.",
        show_default=False,
    ),
]
Rmf = Annotated[
    Path | None,
    Option(
        help="Redistribution matrix (OGIP RMF); without it a description of CLASS that comes with lunarray, area and "
        "all, which is approximate."
    ),
]
Arf = Annotated[Path | None, Option(help="Effective area (OGIP ARF), of --rmf.")]
Solar = Annotated[
    list[str] | None,
    Option(
        help="Solar model as three-column text, or a folder of such, named by day. May be repeated. Without it every "
        "window gets the best Sun that there is: of --xsm, of --goes, or what its own lines tell."
    ),
]
SolarPer = Annotated[
    PhotonsPer, Option(help="Whether the solar model holds photons per keV or per bin.")
]
Xsm = Annotated[
    list[str] | None,
    Option(
        help="Files of XSM, or their folder, tree or daily zips: spectra (.pha, type I or II), areas (.arf), light "
        "curves (.lc), by the day in their names. May be repeated."
    ),
]
Goes = Annotated[
    list[str] | None,
    Option(help="Files of GOES XRS fluxes (.nc), or their folder. May be repeated."),
]
Background = Annotated[
    Path | None,
    Option(help="Background spectrum; by default the sum of the night-side frames given."),
]
Calibration = Annotated[
    str,
    Option(
        help='Width and gain of the lines: "auto" (a table of 2020-2024), "none" (the RMF as it is), or the file of '
        "what lunarray.xrf.calibrate_response gave (Zarr or netCDF)."
    ),
]
HowAdded = Annotated[
    Strategy,
    Option(
        help="Co-add a sliding window, or until three lines fit well, or both; none: each spectrum as it is, for files "
        "that were co-added already and for single frames of bright flares."
    ),
]
Window = Annotated[int, Option(min=1, help="Frames of 8 s in a sliding window.")]
Footprints = Annotated[
    Path | None, Option(help="Footprints with abundances to write (.gpkg or .parquet).")
]


def fit_elements(
    inputs: Frames,
    output: Output,
    rmf: Rmf = None,
    solar: Solar = None,
    arf: Arf = None,
    background: Background = None,
    solar_per: SolarPer = PhotonsPer.keV,
    xsm: Xsm = None,
    goes: Goes = None,
    calibration: Calibration = "auto",
    strategy: HowAdded = Strategy.sliding,
    window: Window = 12,
    min_frames: Annotated[
        int | None,
        Option(min=1, help="Frames that a window must hold at least (default: all)."),
    ] = None,
    footprints: Footprints = None,
    reader: ReaderName = None,
    skip_bad_files: SkipBadFiles = False,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit the abundances of eight elements to Chandrayaan-2 CLASS X-ray spectra.

    Frames of the night, of particle bursts and of the geotail are left out; the others are co-added and fitted with
    fluorescence and scattered sunlight. What cannot be fitted is flagged and says why. For months: **map-elements**.
    """
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.xrf.footprints import check_footprints_path

    frames, _ = open_dataset(inputs, reader, otherwise="ch2-class", skip=skip_bad_files)
    if footprints is not None:
        check_footprints_path(footprints, overwrite=overwrite)
    response = _response(rmf, arf, lambda: frames.sizes["channel"])
    shape = _calibration(calibration)
    models = _solar_models(solar, solar_per, frames)
    own = None if background is None else la.xrf.read_background(background)
    dark = frames.lunar.night_background() if own is None else own
    chosen = frames.lunar.flag_frames()
    if strategy is Strategy.none:
        windows = chosen.isel(time=(chosen["flags"] == 0).compute().values)
    else:
        windows = chosen.lunar.coadd(strategy.value, window=window, min_frames=min_frames)
    if not windows.sizes["time"]:
        why = (
            f"among {frames.sizes['time']:,} frames no {min_frames or window} follow one another"
            if strategy is Strategy.sliding
            else f"of {frames.sizes['time']:,} frames none is to be used"
        )
        raise InputError(
            f"no window: {why}",
            where="--window" if strategy is Strategy.sliding else "--strategy",
            remedy="Take shorter ones: --min-frames 1 fits what there is of each",
        )
    sun = models if models is not None else _window_suns(windows, xsm, goes, skip_bad_files)
    result = windows.lunar.fit_elements(sun, response, dark, calibration=shape)
    result = result.lunar.to_zarr(output, overwrite=overwrite, description="Fitting elements")
    _elements_summary(frames.sizes["time"], result)
    if footprints is not None:
        la.xrf.write_footprints(result, footprints, overwrite=overwrite)
        wrote("Footprints", footprints)
    picture(la.plot.footprints, result, "Al", path=quicklook)
    wrote("Store", output)


def _response(rmf: Path | None, arf: Path | None, channels: Callable[[], int]) -> Response:
    """The response of files, or the one that comes with lunarray."""
    from lunarray.errors import InputError
    from lunarray.xrf.class_response import class_response
    from lunarray.xrf.response_files import read_response

    tell(response="built-in" if rmf is None else str(rmf))
    if rmf is not None:
        return read_response(rmf, arf)
    if arf is not None:
        raise InputError(
            "an effective area without its matrix",
            where="--arf",
            remedy="Give --rmf too, or neither: a description of CLASS comes with lunarray",
        )
    response = class_response(channels())
    say("Response   built in, approximate (no --rmf)")
    return response


def _calibration(name: str) -> Any:
    """What is known of the lines: words, or what a file holds."""
    return name if name in ("auto", "none") else open_dataset([name], None)[0].load()


def _solar_models(
    solar: Sequence[str] | None, per: PhotonsPer, frames: xr.Dataset | None = None
) -> xr.Dataset | None:
    """Solar models of days; refused where none of them is of a day of the frames, before anything is computed."""
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.xrf.solar import match_solar

    if not solar:
        return None
    models = la.xrf.open_solar_models(solar, per=per.value)
    if frames is not None and not (match_solar(frames, models).values >= 0).any():
        told = sorted({str(day)[:10] for day in models["start"].values})
        raise InputError(
            f"no model for {_days(frames['time'].values)}, but for {_days(told)}",
            where="--solar",
            remedy="Give models of the days of the frames, or leave --solar out: every window then gets the best Sun "
            "that there is",
        )
    return models


def _days(moments: Any) -> str:
    """A few days in words."""
    days = sorted({str(moment)[:10] for moment in moments})
    more = f" and {len(days) - 3} more days" if len(days) > 3 else ""
    return f"{', '.join(days[:3])}{more}"


def _sun_files(xsm: Sequence[str] | None, goes: Sequence[str] | None, skip: bool) -> Any:
    """Files of XSM and GOES, as a window's Sun is made of them."""
    from lunarray.xrf.goes import open_goes_xrs
    from lunarray.xrf.sun_files import SunFiles, xsm_by_day

    files = xsm_by_day(xsm) if xsm else {}
    fluxes = open_goes_xrs(goes) if goes else None
    return SunFiles(files, fluxes, "skip" if skip else "raise")


def _window_suns(
    windows: xr.Dataset, xsm: Sequence[str] | None, goes: Sequence[str] | None, skip: bool
) -> xr.Dataset:
    """A Sun for each window, and a word on where they come from."""
    import lunarray as la

    files = _sun_files(xsm, goes, skip)
    days = {str(day)[:10] for day in windows["time"].values}
    suns = la.xrf.window_suns(windows, **files.of_days(days))
    _say_suns(suns["sun_source"].values)
    return suns


def _say_suns(sources: Any) -> None:
    from lunarray.xrf.window_suns import SUN_SOURCES

    numbers = {name: int((sources == bit).sum()) for name, bit in SUN_SOURCES.items()}
    told = ", ".join(f"{name} {n:,}" for name, n in numbers.items() if n)
    tell(suns=numbers)
    say(f"Suns       {told or 'none'}")


def map_elements(
    inputs: Frames,
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            callback=folder,
            show_default=False,
            help="Folder for stores and pictures. An interrupted one goes on where it stopped; more frames are added.",
        ),
    ],
    rmf: Rmf = None,
    arf: Arf = None,
    background: Annotated[
        Path | None, Option(help="Background spectrum; by default that of each day's night.")
    ] = None,
    solar: Solar = None,
    solar_per: SolarPer = PhotonsPer.keV,
    xsm: Xsm = None,
    goes: Goes = None,
    calibration: Calibration = "auto",
    strategy: HowAdded = Strategy.sliding,
    window: Window = 12,
    min_frames: Annotated[int, Option(min=1, help="Frames that a window must hold at least.")] = 1,
    grid: Annotated[Grid, Option(help="Of the maps.")] = Grid.geographic,
    resolution: Annotated[
        float | None,
        Option(help="Pixel of the maps, degrees or m (default: 0.175 degrees or 5300 m)."),
    ] = None,
    ratio: Annotated[
        list[str] | None,
        Option(
            help="Ratio of abundances to map, such as Mg/Si. May be repeated (default: those of the terranes)."
        ),
    ] = None,
    footprints: Footprints = None,
    skip_bad_files: SkipBadFiles = False,
    overwrite: Overwrite = False,
) -> None:
    """Map the elements of months of Chandrayaan-2 CLASS frames, from an archive's folder to maps with errors.

    Day by day, frames are chosen and co-added, and each window is fitted with a Sun of its own. The folder then holds
    elements.zarr (what was fitted), elements-days.zarr (what became of each day), maps.zarr (abundances and their
    ratios, with errors), and pictures of both.
    """
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.xrf.footprint_maps import RATIOS
    from lunarray.xrf.footprints import check_footprints_path
    from lunarray.xrf.io import frame_channels

    if footprints is not None:
        check_footprints_path(footprints, overwrite=overwrite)
    response = _response(rmf, arf, lambda: frame_channels(inputs))
    store = output / "elements.zarr"
    if overwrite:
        _remove_stores(output)
    suns = _sun_files(None, goes, skip_bad_files)
    options: dict[str, Any] = {
        "strategy": strategy.value,
        "window": window,
        "min_frames": min(min_frames, window),
    }
    if strategy is Strategy.none:
        options = {"window": 1}
    result = la.xrf.elements_to_zarr(
        inputs,
        store,
        response,
        None if background is None else la.xrf.read_background(background),
        solar=_solar_models(solar, solar_per),
        xsm=xsm or None,
        goes=suns.goes,
        calibration=_calibration(calibration),
        windows=options,
        errors="skip" if skip_bad_files else "raise",
    )
    _account(result)
    if "abundance" not in result:
        raise InputError(
            "no window was fitted, for the reasons above",
            where=output,
            remedy="Give frames of flares by day; --strategy none takes single frames",
        )
    flat = grid is not Grid.geographic
    pixel = resolution or (5300.0 if flat else 0.175)
    rows = result.drop_dims("day").load()
    maps = la.xrf.grid_footprints(rows, grid.value, pixel, ratios=ratio or RATIOS)
    maps.lunar.to_zarr(output / "maps.zarr", overwrite=True, description="Mapping")
    _pictures(maps, output)
    if footprints is not None:
        la.xrf.write_footprints(rows, footprints, overwrite=overwrite)
        wrote("Footprints", footprints)
    wrote("Fits", store)
    wrote("Days", output / "elements-days.zarr")
    wrote("Maps", output / "maps.zarr")


def _remove_stores(output: Path) -> None:
    """Take away what an earlier run wrote, for it is not gone on with."""
    import shutil

    for name in ("elements.zarr", "elements-days.zarr", "maps.zarr"):
        for path in (output / name, *output.glob(f".{name}*")):
            shutil.rmtree(path, ignore_errors=True)


def _account(ds: xr.Dataset) -> None:
    """Print what was used, and what was not and why."""
    days = ds[[name for name in ds.data_vars if "day" in ds[name].dims]].load()
    total = days.drop_vars("problem").sum("day")
    tell(days=days.sizes["day"], totals={n: v.values for n, v in total.items() if not v.dims})
    say(
        f"{days.sizes['day']:,} days, {int(total['files']):,} files, {int(total['frames']):,} frames, "
        f"{int(total['windows_lit']):,} windows by day, {int(total['windows_fitted']):,} fitted"
    )
    for what, flag in (("frames", "frame_flag"), ("windows", "fit_flag"), ("suns", "sun_origin")):
        numbers = total[what if what == "suns" else f"{what}_left_out"]
        told = ", ".join(
            f"{name} {int(n):,}" for name, n in zip(numbers[flag].values, numbers.values, strict=True) if n
        )  # fmt: skip
        tell(**{what if what == "suns" else f"{what}_left_out": numbers.to_series().to_dict()})
        if told:
            word = {
                "frames": "Left out   frames: ",
                "windows": "Flagged    windows: ",
                "suns": "Suns       ",
            }
            say(f"{word[what]}{told}")
    if skipped := int(total["files_skipped"]):
        say(f"Skipped    {skipped:,} files that could not be read")
    problems = [
        (str(d), str(p))
        for d, p in zip(days["day"].values, days["problem"].values, strict=True)
        if p
    ]
    tell(problems=dict(problems))
    for day, problem in problems[:5]:
        say(f"Left out   {day}: {problem}")
    if problems[5:]:
        say(f"           and {len(problems) - 5} more days")


def _pictures(maps: xr.Dataset, output: Path) -> None:
    """Pictures of the ratios, their errors, and the abundances that are known best, where there are any."""
    import numpy as np
    import xarray as xr

    import lunarray as la

    seen = maps["n_footprints"].values > 0
    sides = []
    for dim, axis in zip(maps["n_footprints"].dims, (1, 0), strict=True):
        inside = np.flatnonzero(seen.any(axis=axis))
        margin = max(5, inside.size // 10)
        sides.append((dim, slice(max(inside[0] - margin, 0), inside[-1] + margin + 1)))
    part = maps.isel(dict(sides))
    ratio, error = part["abundance_ratio"], part["abundance_ratio_std"]
    elements = [e for e in ("Mg", "Al", "Si", "Ca", "Fe") if e in part["element"].values]
    drawn = {
        "ratios": {str(r): ratio.sel(ratio=r, drop=True) for r in ratio["ratio"].values}
        | {f"{r}, error": error.sel(ratio=r, drop=True) for r in ratio["ratio"].values},
        "elements": {e: part["abundance"].sel(element=e, drop=True) for e in elements}
        | {f"{e}, error": part["abundance_std"].sel(element=e, drop=True) for e in elements},
    }
    for name, arrays in drawn.items():
        panels = xr.Dataset(
            {key: array.assign_attrs(long_name=key) for key, array in arrays.items()}
        )
        picture(
            lambda ds, path: la.plot.maps(ds, variables=list(ds), columns=5, path=path),
            panels,
            path=output / f"{name}.png",
        )


def _elements_summary(frames: int, ds: xr.Dataset) -> None:
    """Print mean and spread of the elements, and why windows could not be fitted."""
    from rich.table import Table

    from lunarray.xrf.settings import FIT_FLAGS

    loaded = ds[["abundance", "abundance_std", "quality"]].load()
    fitted = loaded["abundance"].notnull().all("element").values
    say(f"{frames:,} frames, {fitted.size:,} windows, {fitted.sum():,} fitted")
    elements: dict[str, Any] = {}
    flags = {f: int(((loaded["quality"].values & bit) > 0).sum()) for f, bit in FIT_FLAGS.items()}
    table = Table("element", "mean ± spread, wt%", "median error, wt%")
    for element in loaded["element"].values:
        part = loaded.sel(element=element).isel(time=fitted)
        if fitted.any():
            value, error = part["abundance"], part["abundance_std"]
            elements[str(element)] = {
                "mean": float(value.mean()),
                "spread": float(value.std()),
                "median_error": float(error.median()),
            }
            table.add_row(
                str(element),
                f"{float(value.mean()):.1f} ± {float(value.std()):.1f}",
                f"{float(error.median()):.1f}",
            )
    tell(frames=frames, windows=fitted.size, fitted=fitted.sum(), elements=elements, flagged=flags)
    if fitted.any():
        console().print(table)
    for flag, bit in FIT_FLAGS.items():
        flagged = (loaded["quality"].values & bit) > 0
        if flagged.any():
            known = ""
            if flag == "no_solar_model":
                days = sorted({str(day)[:10] for day in loaded["time"].values[flagged]})
                more = f" and {len(days) - 3} more days" if len(days) > 3 else ""
                known = f": --solar has no model for {', '.join(days[:3])}{more}"
            say(f"Flagged    {flag} {flagged.sum():,}{known}")
    if not fitted.any():
        warnings.warn("no window was fitted, for what is flagged", LunarrayWarning, stacklevel=2)
