"""Commands of X-ray fluorescence."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from lunarray.cli.console import console, picture, say
from lunarray.cli.inputs import ReaderName, open_dataset
from lunarray.cli.options import Output, Overwrite, Quicklook, SkipBadFiles
from lunarray.errors import LunarrayWarning

if TYPE_CHECKING:
    import xarray as xr


class PhotonsPer(StrEnum):
    """Unit of a solar model's third column."""

    keV = "keV"
    bin = "bin"


class Strategy(StrEnum):
    """How spectra are co-added."""

    sliding = "sliding"
    running = "running"
    combined = "combined"


def fit_elements(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="CLASS L1 files (.fits; folders and quoted patterns too), or one Zarr store of such.",
            show_default=False,
        ),
    ],
    output: Output,
    solar: Annotated[
        list[str],
        Option(
            help="Solar model as three-column text, or a folder of such, named by day. May be repeated.",
            show_default=False,
        ),
    ],
    rmf: Annotated[Path, Option(help="Redistribution matrix (OGIP RMF).", show_default=False)],
    arf: Annotated[Path | None, Option(help="Effective area (OGIP ARF).")] = None,
    background: Annotated[
        Path | None,
        Option(help="Background spectrum; by default the sum of the night-side frames given."),
    ] = None,
    solar_per: Annotated[
        PhotonsPer, Option(help="Whether the solar model holds photons per keV or per bin.")
    ] = PhotonsPer.keV,
    strategy: Annotated[
        Strategy,
        Option(help="Co-add a sliding window, or until three lines fit well, or both."),
    ] = Strategy.sliding,
    window: Annotated[int, Option(min=1, help="Frames of 8 s in a sliding window.")] = 12,
    min_frames: Annotated[
        int | None,
        Option(min=1, help="Frames that a window must hold at least (default: all)."),
    ] = None,
    footprints: Annotated[
        Path | None, Option(help="Footprints with abundances to write (.gpkg or .parquet).")
    ] = None,
    reader: ReaderName = None,
    skip_bad_files: SkipBadFiles = False,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit the abundances of eight elements to Chandrayaan-2 CLASS X-ray spectra.

    Frames of the night, of particle bursts and of the geotail are left out; the others are co-added and fitted with
    fluorescence and scattered sunlight. What cannot be fitted is flagged and says why.
    """
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.xrf.footprints import check_footprints_path

    frames, _ = open_dataset(inputs, reader, otherwise="ch2-class", skip=skip_bad_files)
    if footprints is not None:
        check_footprints_path(footprints, overwrite=overwrite)
    response = la.xrf.read_response(rmf, arf)
    own = None if background is None else la.xrf.read_background(background)
    dark = frames.lunar.night_background() if own is None else own
    windows = frames.lunar.flag_frames().lunar.coadd(
        strategy.value, window=window, min_frames=min_frames
    )
    if not windows.sizes["time"]:
        raise InputError(
            f"no window: among {frames.sizes['time']:,} frames no {min_frames or window} follow one another",
            where="--window",
            remedy="Take shorter ones: --min-frames 1 fits what there is of each",
        )
    result = windows.lunar.fit_elements(
        la.xrf.open_solar_models(solar, per=solar_per.value), response, dark
    )
    result = result.lunar.to_zarr(output, overwrite=overwrite, description="Fitting elements")
    _elements_summary(frames.sizes["time"], result)
    if footprints is not None:
        la.xrf.write_footprints(result, footprints, overwrite=overwrite)
        say(f"Footprints {footprints}")
    picture(la.plot.footprints, result, "Al", path=quicklook)
    say(f"Store      {output}")


def _elements_summary(frames: int, ds: xr.Dataset) -> None:
    """Print mean and spread of the elements, and why windows could not be fitted."""
    from rich.table import Table

    from lunarray.xrf.settings import FIT_FLAGS

    loaded = ds[["abundance", "abundance_std", "quality"]].load()
    fitted = loaded["abundance"].notnull().all("element").values
    say(f"{frames:,} frames, {fitted.size:,} windows, {fitted.sum():,} fitted")
    table = Table("element", "mean ± spread, wt%", "median error, wt%")
    for element in loaded["element"].values:
        part = loaded.sel(element=element).isel(time=fitted)
        if fitted.any():
            value, error = part["abundance"], part["abundance_std"]
            table.add_row(
                str(element),
                f"{float(value.mean()):.1f} ± {float(value.std()):.1f}",
                f"{float(error.median()):.1f}",
            )
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
