"""Months of CLASS frames to abundances, day by day: opened, chosen, co-added, given their Suns, fitted, and put by."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine import progress_bar
from lunarray.errors import InputError, LunarrayError, LunarrayWarning, StoreConflictError
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.versions import numeric_versions
from lunarray.xrf.api import fit_elements
from lunarray.xrf.class_files import read_spectrum
from lunarray.xrf.coadd import coadd
from lunarray.xrf.frames import described
from lunarray.xrf.io import class_files, frame_name, open_class
from lunarray.xrf.response import Response
from lunarray.xrf.selection import FRAME_FLAGS, flag_frames, night_background
from lunarray.xrf.settings import FATAL, FIT_FLAGS
from lunarray.xrf.sun_files import SunFiles, day_of, xsm_by_day
from lunarray.xrf.window_suns import SUN_MODES, SUN_SOURCES, window_suns

__all__ = ["elements_to_zarr"]

#: Windows whose Suns are held at a time: whole batches of the fit, so that results are those of all at once.
_WINDOWS = 512
_UNKNOWNS = (
    *(f"sun:{name}" for name in SUN_MODES), "width", "slope", "offset", "area", "ratio", "background",
)  # fmt: skip


@typed
def elements_to_zarr(
    paths: Any,
    store: str | os.PathLike[str],
    response: Response,
    background: xr.Dataset | None = None,
    *,
    solar: xr.Dataset | None = None,
    xsm: Any = None,
    goes: xr.Dataset | None = None,
    calibration: xr.Dataset | Literal["auto", "none"] = "auto",
    windows: Mapping[str, Any] | None = None,
    errors: Literal["raise", "skip"] = "raise",
    max_workers: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Fit the elements of months of CLASS frames, day by day, into a store that grows.

    Each day's frames are opened, those of night, bursts and geotail left out (:func:`flag_frames`), the rest co-added
    (:func:`coadd`), given a Sun each (:func:`window_suns`) and fitted (:func:`fit_elements`); what was fitted is put
    behind what the store holds. A call that was stopped goes on behind the last whole day, and the same call with more
    files takes in the new days. One day is held in memory at a time. A window belongs to the day in which it begins and
    may reach into the next, where the frames of that one are given, too; no day takes again what another has taken.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        CLASS Level 1 as PRADAN hands it out: the tree ``cla/data/calibrated/YYYY/MM/DD``, monthly zips, files packed by
        gzip or not. A frame that is there twice, in a zip and in the tree say, is taken once.
    store : path or URL
        Of what was fitted. Beside it, as ``NAME-days.zarr``, is written what became of each day.
    response : Response
        As of :func:`fit_elements`.
    background : Dataset, optional
        As of :func:`fit_elements`; by default that of each day's night (:func:`night_background`). A day without night
        is left out then.
    solar : Dataset, optional
        Solar models of days or intervals (:func:`open_solar_models`), or one for all; by default each window gets the
        best Sun that there is (:func:`window_suns`).
    xsm : path, folder, glob pattern, or iterable of these, optional
        Files of XSM, of level 2 and below: spectra (``.pha``), their areas (``.arf``), light curves (``.lc``), in a
        tree, in PRADAN's daily zips, or not; by the day in their names.
    goes : Dataset, optional
        Of :func:`lunarray.xrf.goes.open_goes_xrs`, of the whole time.
    calibration : Dataset or {"auto", "none"}
        As of :func:`fit_elements`.
    windows : mapping, optional
        Options of :func:`coadd`, such as ``{"strategy": "running"}`` or ``{"window": 1}``, which takes single frames.
        By default windows of 96 s, and what there is of shorter stretches.
    errors : {"raise", "skip"}
        What to do about a file, or a whole day, that is damaged or makes no sense: raise the error, or go on without it
        and say so in the account of the day.
    max_workers : int, optional
        Threads that read headers.
    progress : bool, optional
        Show a progress bar, by days; by default where standard error is a terminal.

    Returns
    -------
    Dataset
        What was fitted, as :func:`fit_elements` gives it, windows without a result left out, with ``date`` and, without
        `solar`, ``sun_source`` (time,); lazy. And, along ``day``, what was used, and what was not and why: numbers of
        ``files``, ``files_skipped``, ``frames``, ``frames_left_out`` (day, frame_flag; a frame may have several
        reasons), ``windows_lit``, ``windows_left_out`` (day, fit_flag), ``windows_fitted``, ``suns`` (day,
        sun_origin), ``background_exposure`` (s), and ``problem``, in words. :func:`grid_footprints` makes maps of it.

    Raises
    ------
    InputError
        If nothing matches `paths`, or what is given does not fit together.
    ProductFormatError
        If a file is damaged.
    StoreConflictError
        If `store` holds what was fitted in another way: other response, background, Sun, windows or version.
    StoreError
        If it cannot be written, or is something else.

    Warns
    -----
    LunarrayWarning
        Of days that have other files now than when they were fitted: they stay as they are.

    References
    ----------
    Kumar, R., et al., 2025. arXiv:2508.15563.

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["class_flare"].files
    >>> response, sun = la.simulate.class_response(2048), la.simulate.thermal_spectrum(1.1, 3e-5)
    >>> fit = la.xrf.elements_to_zarr(files, "months.zarr", response, solar=sun)
    """

    options = {"min_frames": 1} | dict(windows or {})
    days = _by_day(class_files(paths), errors)
    sun = SunFiles({} if xsm is None else xsm_by_day(xsm), goes, errors)
    way = _Way(response, background, solar, sun, calibration, options, errors, max_workers)
    return _grow(days, store, way, progress)


def _grow(
    days: dict[str, list[Path]],
    store: str | os.PathLike[str],
    way: _Way,
    progress: bool | None,
) -> xr.Dataset:
    """Fit the days that the stores lack, one after the other, and open what is there then."""
    from lunarray.store import open_zarr
    from lunarray.store.append import appending

    token, account = way.token(), days_store(store)
    with ExitStack() as stack:
        rows = stack.enter_context(appending(store, "time"))
        done = stack.enter_context(appending(account, "day"))
        for end in (rows, done):
            _require_same_way(end, token)
        fitted, told = rows.held("date"), done.held("day")
        new = [day for day in days if day not in told]
        _warn_of_changes(done, days, told)
        with progress_bar("Fitting elements", len(new), show=progress) as step:
            for day in new:
                found = _fit_day(_Day.among(days, day, way, rows), way)
                # A call that was stopped between the two has put the day's windows by already.
                if found.rows is not None and day not in fitted:
                    rows.append(found.rows.assign_attrs(way_of_fit=token), progress=False)
                done.append(found.account(day).assign_attrs(way_of_fit=token), progress=False)
                step()
    days_done = open_zarr(account)
    if not int(days_done["windows_fitted"].sum()):
        return days_done
    return open_zarr(store).merge(days_done, combine_attrs="override")


def days_store(store: str | os.PathLike[str]) -> str:
    """Name of the store with what became of each day."""
    stem = os.fspath(store).rstrip("/")
    return f"{stem.removesuffix('.zarr')}-days.zarr"


@dataclass(frozen=True)
class _Way:
    """How every day is fitted."""

    response: Response
    background: xr.Dataset | None
    solar: xr.Dataset | None
    suns: SunFiles
    calibration: Any
    windows: dict[str, Any]
    errors: Any
    workers: int | None

    @property
    def reach(self) -> int:
        """Frames of the next day that a window may reach into."""
        name, usual = ("window", 12) if self.strategy == "sliding" else ("max_frames", 48)
        return int(self.windows.get(name, usual)) - 1

    @property
    def strategy(self) -> str:
        """How frames are co-added."""
        return str(self.windows.get("strategy", "sliding"))

    def token(self) -> str:
        """Another one for whatever gives other numbers."""
        from dask.base import tokenize

        given = [
            None if ds is None else ds.compute()
            for ds in (self.background, self.solar, self.suns.goes)
        ]
        calibration = self.calibration
        if isinstance(calibration, xr.Dataset):
            calibration = calibration.compute()
        parts = (
            "windows that pass midnight", self.response.digest,
            *(_numbers(ds) for ds in (*given, calibration)), bool(self.suns.files),
            sorted(self.windows.items()), numeric_versions(("xrf",)),
        )  # fmt: skip
        return hashlib.sha256(str(tokenize(*parts)).encode()).hexdigest()[:16]


def _numbers(ds: Any) -> Any:
    """What of a Dataset makes results: not when and by whom it was made."""
    if not isinstance(ds, xr.Dataset):
        return ds
    return {str(name): (v.dims, np.asarray(v.values).tolist()) for name, v in ds.variables.items()}


def _require_same_way(end: Any, token: str) -> None:
    """Refuse to mix what was fitted in two ways."""
    from lunarray.store import open_zarr

    place = end.place if end.place.exists() else end.path
    if not place.exists():
        return
    if open_zarr(place, incomplete=True).attrs.get("way_of_fit") != token:
        raise StoreConflictError(
            "it holds what was fitted in another way: with another response, background, Sun, windows or version",
            where=end.path,
            remedy="Choose another path, or remove it and what lies beside it",
        )


def _by_day(files: list[Path], errors: str) -> dict[str, list[Path]]:
    """Files of each day, in order; each frame once, by its name."""
    frames: dict[str, Path] = {}
    for path in files:
        frames.setdefault(frame_name(path), path)
    days: dict[str, list[Path]] = {}
    for name, path in frames.items():
        days.setdefault(day_of(name) or _day_within(path, errors), []).append(path)
    return dict(sorted(days.items()))


def _day_within(path: Path, errors: str) -> str:
    """Day that a file tells; that of no time in particular where it cannot be read and files may be left out."""
    try:
        return str(read_spectrum(path).start)[:10]
    except (InputError, OSError):
        if errors == "raise":
            raise
        return "0000-00-00"


def _warn_of_changes(done: Any, days: Mapping[str, list[Path]], told: set[str]) -> None:
    """Say which days have other files than those that they were fitted from."""
    from lunarray.store import open_zarr

    place = done.place if done.place.exists() else done.path
    if not told & set(days):
        return
    ds = open_zarr(place, incomplete=True)
    number = dict(zip(ds["day"].values.tolist(), ds["files"].values.tolist(), strict=False))
    changed = [day for day in sorted(told & set(days)) if number.get(day) != len(days[day])]
    if changed:
        listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        warnings.warn(
            f"{listed}: other files than when they were fitted; what was fitted stays. Fit them to another store to "
            "see what the new ones change",
            LunarrayWarning,
            stacklevel=5,
        )


# ---------- days
@dataclass(frozen=True)
class _Day:
    """A day, its files, and those of the days beside it that follow on without a gap."""

    name: str
    files: list[Path]
    before: list[Path]
    after: list[Path]
    taken: np.datetime64  # until when windows of the day before have taken its frames

    @classmethod
    def among(cls, days: Mapping[str, list[Path]], name: str, way: _Way, rows: Any) -> _Day:
        """One of many days; `rows`: the end of what was fitted."""
        files = sorted(days[name], key=frame_name)
        names = list(days)
        place = names.index(name)
        earlier, later = (
            sorted(days[names[k]], key=frame_name) if 0 <= k < len(names) else []
            for k in (place - 1, place + 1)
        )
        gap, reach, taken = float(way.windows.get("max_gap", 4.0)), way.reach, _NEVER
        if way.strategy == "running" and place:
            taken = _taken(rows, names[place - 1])
        # Short stretches are windows only where there is no whole one: for that the frames before have to be known.
        back = earlier[::-1][:reach] if way.strategy == "sliding" else []
        before = _following(files[0], back, gap, -1)[::-1]
        return cls(name, files, before, _following(files[-1], later[:reach], gap, 1), taken)


_NEVER: np.datetime64 = np.datetime64("1900-01-01", "ns")


def _taken(rows: Any, day: str) -> np.datetime64:
    """When the last window that begins on a day ends."""
    from lunarray.store import open_zarr

    place = rows.place if rows.place.exists() else rows.path
    if not place.exists():
        return _NEVER
    ds = open_zarr(place, incomplete=True)
    return max(ds["end"].values[ds["date"].values == day], default=_NEVER)


def _following(path: Path, others: list[Path], gap: float, sign: int) -> list[Path]:
    """Those of `others`, from the first on, that follow (1) or come before (-1) each other and `path`."""
    found: list[Path] = []
    if not others:
        return found
    try:
        last = read_spectrum(path)
        for other in others:
            one = read_spectrum(other)
            apart = one.start - last.end if sign > 0 else last.start - one.end
            if (
                not -0.5 <= apart / np.timedelta64(1, "s") <= gap
                or one.table.rows != last.table.rows
            ):
                break
            found.append(other)
            last = one
    except (InputError, OSError):
        # What is wrong with a file is said when its own day is fitted.
        pass
    return found


@dataclass
class _Fitted:
    """What became of a day."""

    rows: xr.Dataset | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def account(self, day: str) -> xr.Dataset:
        """One row of the account."""
        variables = {}
        for name, (dims, zero, units, words) in _ACCOUNT.items():
            value = np.asarray(self.numbers.get(name, zero))[None]
            variables[name] = described(("day", *dims), value, units, words)
        variables["problem"] = (
            "day",
            np.array([self.problem], object),
            {"long_name": "why the day was left out"},
        )
        coords = {
            "day": ("day", np.array([day], object), {"long_name": "day (UTC)"}),
            "frame_flag": np.array(list(FRAME_FLAGS), object),
            "fit_flag": np.array(list(FIT_FLAGS), object),
            "sun_origin": np.array(list(SUN_SOURCES), object),
        }
        return stamp(
            xr.Dataset(variables, coords), "elements_to_zarr", source="Chandrayaan-2 CLASS Level 1"
        )


def _none(names: Any) -> np.ndarray:
    return np.zeros(len(names), "i4")


_ACCOUNT: dict[str, tuple[tuple[str, ...], Any, str, str]] = {
    "files": ((), np.int32(0), "1", "files of the day"),
    "files_skipped": ((), np.int32(0), "1", "files that could not be read"),
    "frames": ((), np.int32(0), "1", "frames that were read"),
    "frames_left_out": (("frame_flag",), _none(FRAME_FLAGS), "1", "frames that were not used, by reason"),
    "windows_lit": ((), np.int32(0), "1", "windows by day of what frames are used"),
    "windows_left_out": (("fit_flag",), _none(FIT_FLAGS), "1", "lit windows by what the fit says of them"),
    "windows_fitted": ((), np.int32(0), "1", "windows with a result"),
    "suns": (("sun_origin",), _none(SUN_SOURCES), "1", "fitted windows by where their Suns come from"),
    "background_exposure": ((), np.float64(0.0), "s", "exposure of the background"),
}  # fmt: skip


def _fit_day(day: _Day, way: _Way) -> _Fitted:
    """Fit one day; what is wrong with a day as a whole ends in its account where files may be left out."""
    found = _Fitted(numbers={"files": np.int32(len(day.files))})
    try:
        with warnings.catch_warnings():
            # What the account tells is not said again for each day.
            warnings.filterwarnings("ignore", message="coadd: no window", category=LunarrayWarning)
            _fit_frames(day, way, found)
    except LunarrayError as error:
        if way.errors == "raise":
            raise
        found.rows, found.problem = None, str(error)
    return found


def _fit_frames(day: _Day, way: _Way, found: _Fitted) -> None:
    own = open_class(day.files, errors=way.errors, max_workers=way.workers)
    found.numbers["files_skipped"] = np.int32(len(own.attrs.get("skipped_files", ())))
    frames = flag_frames(own).compute()
    found.numbers["frames"] = np.int32(frames.sizes["time"])
    found.numbers["frames_left_out"] = _counted(frames["flags"].values, FRAME_FLAGS)
    used = frames["flags"].values == 0
    if not used.any():
        return
    background = night_background(frames) if way.background is None else way.background
    found.numbers["background_exposure"] = exposure = np.float64(background["exposure"])
    if not exposure > 0:
        found.problem = "no frame of the night for its background, and none was given"
        return
    windows = _windows(day, frames, way)
    del frames
    lit = (windows["n_frames"].values > 0) & (windows["incidence"].values < 90.0)
    windows = windows.isel(time=lit)
    found.numbers["windows_lit"] = np.int32(windows.sizes["time"])
    days = {str(end)[:10] for end in windows["end"].values} | {day.name}
    known = way.suns.of_days(days) if way.solar is None else {}
    parts = [
        _fit_windows(windows.isel(time=slice(at, at + _WINDOWS)), known, background, way)
        for at in range(0, windows.sizes["time"], _WINDOWS)
    ]
    if not parts:
        return
    result = xr.concat(parts, "time", data_vars="minimal", coords="minimal", compat="override")
    quality = result["quality"].values
    found.numbers["windows_left_out"] = _counted(quality, FIT_FLAGS)
    good = (quality & FATAL) == 0
    found.numbers["windows_fitted"] = np.int32(good.sum())
    if "sun_source" in result:
        found.numbers["suns"] = _counted(result["sun_source"].values[good], SUN_SOURCES)
    if good.any():
        dates = np.full(int(good.sum()), day.name, object)
        found.rows = result.isel(time=good).assign_coords(
            date=("time", dates, {"long_name": "day (UTC)"})
        )


def _windows(day: _Day, frames: xr.Dataset, way: _Way) -> xr.Dataset:
    """Windows that begin on a day; some may reach into the next one."""
    begin = frames["start"].values[0]
    if day.taken > begin:
        frames = frames.isel(time=frames["start"].values >= day.taken)
    beside = [*day.before, *day.after]
    if not beside or not frames.sizes["time"]:
        return coadd(frames, **way.windows)
    frames = _joined(frames, open_class(beside, errors=way.errors).compute())
    windows = coadd(frames, **way.windows)
    start = windows["start"].values
    keep = start >= begin
    if day.after:
        keep &= start < frames["start"].values[-len(day.after)]
    return windows.isel(time=keep)


def _joined(frames: xr.Dataset, others: xr.Dataset) -> xr.Dataset:
    """Frames of a day, with the flags that they have, and those beside them, in order of time."""
    known = frames["flags"].values
    for name, like, usual in (
        ("background_scale", "exposure", 1.0),
        ("bad_channel", "counts", False),
    ):
        if name in frames.variables or name in others.variables:
            frames, others = (
                ds if name in ds.variables
                else ds.assign_coords({name: xr.full_like(ds[like], usual, dtype=type(usual)).variable})
                for ds in (frames, others)
            )  # fmt: skip
    parts = [frames.drop_vars(["flags", "particle_rate"], errors="ignore"), others]
    joined = xr.concat(
        parts, "time", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )  # fmt: skip
    order = np.argsort(joined["start"].values, kind="stable")
    joined = flag_frames(joined.isel(time=order))
    flags = joined["flags"].values.copy()
    flags[order < known.size] = known
    return joined.assign_coords(flags=("time", flags, joined["flags"].attrs))


def _counted(flags: np.ndarray, bits: Mapping[str, int]) -> np.ndarray:
    """How many have each flag."""
    return np.array([np.count_nonzero(flags & bit) for bit in bits.values()], "i4")


def _fit_windows(
    windows: xr.Dataset, known: dict[str, Any], background: xr.Dataset, way: _Way
) -> xr.Dataset:
    """Fit some windows with Suns of their own, or those that were given."""
    solar = way.solar
    suns = window_suns(windows, **known) if solar is None else solar
    # In blocks, so that threads, or the workers of a cluster, share them.
    result = fit_elements(
        windows.chunk(time=128), suns, way.response, background, calibration=way.calibration
    ).compute()
    if solar is not None:
        return result
    # Which modes a Sun has hangs on where it comes from: every window has a place for all of them.
    place = [_UNKNOWNS.index(str(name)) for name in result["nuisance_name"].values]
    table = np.full((windows.sizes["time"], len(_UNKNOWNS)), np.nan, "f4")
    table[:, place] = result["nuisance"].values
    attrs = result["nuisance"].attrs
    result = result.drop_vars(["nuisance", "nuisance_name"]).assign(
        nuisance=(("time", "nuisance"), table, attrs), sun_source=suns["sun_source"]
    )
    names = np.array(_UNKNOWNS, object)
    return result.assign_coords(nuisance_name=("nuisance", names, {"long_name": "unknown"}))
