"""Adding up CLASS frames: the three strategies of section III-D of the paper."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, LunarrayWarning, require_choice
from lunarray.geo import footprint_area, lonlat_of, unit_vectors
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.frames import (
    described,
    flag_attrs,
    frame_bounds,
    is_lazy,
    read_apart,
    require_frames,
    without_bad_channels,
)
from lunarray.xrf.selection import FRAME_FLAGS
from lunarray.xrf.threelines import fit_three_lines

__all__ = ["coadd"]

Strategy = Literal["sliding", "running", "combined"]

#: Windows that are summed at a time, where that is lazy: enough to share the frames they have in common, and so few
#: that they are small beside the frames' own chunks.
_GROUP = 512

#: Columns of the table of coordinates that are averaged by exposure.
_MEANS = ("gain", "incidence", "emission", "phase", "altitude", "temperature", "background_scale")


# ---------- windows
def _segments(begin: np.ndarray, finish: np.ndarray, max_gap: float) -> list[tuple[int, int]]:
    """Runs of frames that follow one another without a gap."""
    if np.any(np.diff(begin) < np.timedelta64(0)):
        raise InputError(
            "the frames are not in order of time",
            where="coadd",
            remedy="Sort them first: ds.sortby('time')",
        )
    gap = (begin[1:] - finish[:-1]) / np.timedelta64(1, "s")
    # Frames that overlap (added files, the same file twice) would be counted twice.
    if np.any(gap < -0.5):
        i = int(np.argmin(gap))
        raise InputError(
            f"frames overlap: one ends at {finish[i]}, the next begins at {begin[i + 1]}",
            where="coadd",
            remedy="Give native frames, each once; spectra that are added already need no coadd",
        )
    cuts = np.flatnonzero(gap > max_gap) + 1
    edges = [0, *cuts.tolist(), begin.size]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def _sliding_windows(
    segments: list[tuple[int, int]], window: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    first, last = [np.empty(0, "i8")], [np.empty(0, "i8")]
    for a, b in segments:
        if b - a >= window:
            own = np.arange(a, b - window + 1)
            first.append(own)
            last.append(own + window)
        elif b - a >= least:
            first.append(np.array([a]))
            last.append(np.array([b]))
    return np.concatenate(first), np.concatenate(last)


class _Rows:
    """Accepted counts row by row, of which a few blocks are held."""

    def __init__(self, counts: xr.DataArray, block: int) -> None:
        self.counts, self.block = counts, block
        self.held: dict[int, np.ndarray] = {}

    def __getitem__(self, i: int) -> np.ndarray:
        number = i // self.block
        if number not in self.held:
            for old in [k for k in self.held if k < number - 1]:
                del self.held[old]
            part = self.counts[number * self.block : (number + 1) * self.block]
            self.held[number] = np.asarray(part.values, "f8")
        return self.held[number][i - number * self.block]


def _checked_windows(
    ds: xr.Dataset,
    segments: list[tuple[int, int]],
    *,
    combined: bool,
    chi2_range: tuple[float, float],
    min_significance: float,
    most: int,
    enough: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows closed when three Gaussians and a continuum fit well, and their reduced chi-square."""
    import dask

    seen: list[tuple[float, float]] = []

    flags, gain, exposure = dask.compute(
        ds["flags"].data if "flags" in ds.variables else np.zeros(ds.sizes["time"], "u2"),
        ds["gain"].data,
        ds["exposure"].data,
    )
    channel = int(ds["channel"].values[0])
    counts = ds["counts"].transpose("time", "channel")
    block = counts.data.chunks[0][0] if is_lazy(counts) else 2048
    rows = _Rows(counts, max(int(block), most))

    def windows() -> Iterator[tuple[int, int, float]]:
        for a, b in segments:
            begin = a
            while begin < b:
                total: np.ndarray | float = 0.0
                added, closed = 0, None
                for i in range(begin, min(b, begin + most)):
                    if flags[i] or not exposure[i] > 0 or not np.isfinite(rows[i]).all():
                        continue
                    total, added = total + rows[i], added + 1
                    fit = fit_three_lines(total, float(gain[i]), channel)
                    seen.append((fit["significance"], fit["reduced_chi2"]))
                    good = chi2_range[0] <= fit["reduced_chi2"] <= chi2_range[1]
                    if fit["significance"] >= (min_significance if good else enough):
                        closed = i + 1
                        yield begin, closed, fit["reduced_chi2"]
                        break
                if closed is None and not combined:
                    # Nothing fits from here within the longest set: skip it whole, as what is dropped is not fit to
                    # be used.
                    closed = min(b, begin + most)
                begin = begin + 1 if combined or closed is None else closed

    found = list(windows())
    if not found and seen:
        significance, chi2 = max(seen)
        warnings.warn(
            f"coadd: no window of {ds.sizes['time']} frames. The brightest set has lines of {significance:.1f} times "
            f"their error and a reduced chi-square of {chi2:.1f}; sets are closed at {min_significance:g} times with "
            f"{chi2_range[0]:g} to {chi2_range[1]:g}, or at {enough:g} times with any",
            LunarrayWarning,
            stacklevel=4,
        )
    first, last = (np.array([w[k] for w in found], "i8") for k in (0, 1))
    return first, last, np.array([w[2] for w in found], "f8")


# ---------- sums
def _sum_rows(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Sums of rows first:last, always in the same order, so that they do not depend on how the rows are chunked."""
    total = np.zeros((first.size, *values.shape[1:]))
    length = last - first
    for k in range(int(length.max(initial=0))):
        own = length > k
        if own.all():
            total += values[first + k]
        else:
            total[own] += values[first[own] + k]
    return total


def _counts_kernel(counts: Any, weight: Any, *, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    weight = np.asarray(weight).reshape(-1, 1) > 0
    return _sum_rows(np.where(weight, counts, 0.0), first, last).astype("f4")


def _finite_kernel(counts: Any) -> np.ndarray:
    return np.isfinite(counts).all(axis=1, keepdims=True).astype("f8")


def _table_columns(ds: xr.Dataset) -> dict[str, Any]:
    """Coordinates that are needed, by name, (time,); arrays of NaN where they are missing."""
    missing = np.full(ds.sizes["time"], np.nan)
    names = ["exposure", "n_detectors", "lat", "lon", *_MEANS]
    columns = {name: ds[name].data if name in ds.variables else missing for name in names}
    columns["flags"] = (
        ds["flags"].data if "flags" in ds.variables else np.zeros(ds.sizes["time"], "u2")
    )
    for axis in ("corner_lon", "corner_lat"):
        for k in range(4):
            columns[f"{axis}{k}"] = ds[axis].data[:, k] if axis in ds.variables else missing
    return columns


_TABLE = (
    "exposure", "n_detectors", "lat", "lon", *_MEANS, "flags",
    *(f"corner_lon{k}" for k in range(4)), *(f"corner_lat{k}" for k in range(4)), "finite",
)  # fmt: skip
_RESULT = (
    "n_frames", "exposure", "n_detectors", "lat", "lon", *_MEANS, "flags",
    *(f"corner_lon{k}" for k in range(4)), *(f"corner_lat{k}" for k in range(4)),
)  # fmt: skip


def _weights(table: np.ndarray) -> np.ndarray:
    """1 for the frames to be added, 0 for those rejected, (time, 1)."""
    exposure = table[:, _TABLE.index("exposure")]
    flags = table[:, _TABLE.index("flags")]
    return ((flags == 0) & (exposure > 0) & (table[:, -1] > 0)).astype("f8")[:, None]


def _table_kernel(table: np.ndarray, *, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Coordinates of windows from those of their accepted frames."""
    column = {name: table[:, i] for i, name in enumerate(_TABLE)}
    accepted = _weights(table)[:, 0]
    time = accepted * np.where(column["exposure"] > 0, column["exposure"], 0.0)
    result = dict.fromkeys(_RESULT, np.full(first.size, np.nan))
    result["n_frames"] = _sum_rows(accepted, first, last)
    result["exposure"] = _sum_rows(time, first, last)

    def mean(values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        top = _sum_rows(np.where(known, time * np.where(known, values, 0.0), 0.0), first, last)
        bottom = _sum_rows(np.where(known, time, 0.0), first, last)
        return np.divide(top, bottom, out=np.full(first.size, np.nan), where=bottom > 0)

    for name in ("n_detectors", *_MEANS):
        result[name] = mean(column[name])
    direction = unit_vectors(column["lon"], column["lat"])
    centre = np.stack([mean(direction[:, k]) for k in range(3)], axis=-1)
    result["lon"], result["lat"] = lonlat_of(centre)
    flags = column["flags"].astype("u2")
    result["flags"] = sum(
        bit * (_sum_rows(((flags & bit) > 0).astype("f8"), first, last) > 0)
        for bit in FRAME_FLAGS.values()
    ) + np.where(
        _sum_rows(1.0 - column["finite"], first, last) > 0, FRAME_FLAGS["bad_counts"], 0
    ) * (_sum_rows(((flags & FRAME_FLAGS["bad_counts"]) > 0).astype("f8"), first, last) == 0)
    lon = np.stack([column[f"corner_lon{k}"] for k in range(4)], axis=-1)
    lat = np.stack([column[f"corner_lat{k}"] for k in range(4)], axis=-1)
    ends = _ends(accepted * np.isfinite(lon).all(-1) * np.isfinite(lat).all(-1), first, last)
    lon, lat = _merge_corners(lon, lat, *ends)
    for k in range(4):
        result[f"corner_lon{k}"], result[f"corner_lat{k}"] = lon[:, k], lat[:, k]
    return np.stack([result[name] for name in _RESULT], axis=-1)


def _ends(
    accepted: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last accepted row of each window; -1 where there is none."""
    begin = np.full(first.size, -1)
    end = np.full(first.size, -1)
    for k in range(int((last - first).max(initial=0))):
        row = np.minimum(first + k, last - 1)
        good = (first + k < last) & (accepted[row] > 0)
        begin = np.where(good & (begin < 0), row, begin)
        end = np.where(good, row, end)
    return begin, end


def _merge_corners(
    lon: np.ndarray, lat: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Quadrilateral from the far edges of the first and the last frame: what the field of view sweeps over.

    Which corners of a frame lead depends on the direction of flight and on the spacecraft's attitude: of the four
    ways of joining an edge of the one to the opposite edge of the other, that of the largest area is it.
    """
    if not begin.size:
        return np.empty((0, 4)), np.empty((0, 4))
    pick = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0]])
    safe = np.maximum(np.stack([begin, end]), 0)
    corner = np.arange(4)
    choices_lon = np.stack([lon[safe[own].T, corner] for own in pick])
    choices_lat = np.stack([lat[safe[own].T, corner] for own in pick])
    area = np.nan_to_num(footprint_area(choices_lon, choices_lat), nan=-1.0)
    best = np.argmax(area, axis=0)
    rows = np.arange(begin.size)
    out = choices_lon[best, rows], choices_lat[best, rows]
    for values in out:
        values[begin < 0] = np.nan
    return out


def _windowed(
    kernel: Any, first: np.ndarray, last: np.ndarray, arrays: list[Any], width: int, dtype: str
) -> Any:
    """Apply `kernel` to windows of rows; lazily, a few hundred windows at a time, where the first array is lazy."""
    if not hasattr(arrays[0], "dask"):
        return kernel(*arrays, first=first, last=last)
    if not first.size:
        return np.empty((0, width), dtype)
    from lunarray.engine.graph import Block, assemble

    # One layer, however many groups: slicing and joining with Dask's own functions would be some layers for each.
    edges = np.cumsum((0, *arrays[0].chunks[0]))
    groups = range(0, first.size, _GROUP)

    def needs(index: tuple[int, ...]) -> list[Any]:
        own = slice(groups[index[0]], groups[index[0]] + _GROUP)
        a, b = int(first[own].min()), int(last[own].max())
        i, j = int(np.searchsorted(edges, a, "right")) - 1, int(np.searchsorted(edges, b, "left"))
        blocks = [[Block(array, (k, 0)) for k in range(i, j)] for array in arrays]
        rows = slice(a - int(edges[i]), b - int(edges[i]))
        return [kernel, blocks, rows, first[own] - a, last[own] - a]

    sizes = tuple(min(_GROUP, first.size - at) for at in groups)
    return assemble(
        _group_kernel,
        (sizes, (width,)),
        needs=needs,
        dtype=dtype,
        name=kernel.__name__.strip("_"),
        token=(kernel, first, last, [array.name for array in arrays]),
    )


def _group_kernel(
    kernel: Any, blocks: list[list[Any]], rows: slice, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Apply `kernel` to `rows` of the arrays that blocks make one after the other."""
    joined = []
    for own in blocks:
        begin, parts = 0, []
        for block in own:
            size = len(block)
            parts.append(block[max(rows.start - begin, 0) : max(rows.stop - begin, 0)])
            begin += size
        joined.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return kernel(*joined, first=first, last=last)


@typed
def coadd(
    ds: xr.Dataset,
    strategy: Strategy = "sliding",
    *,
    window: int = 12,
    min_frames: int | None = None,
    max_gap: float = 4.0,
    chi2_range: tuple[float, float] = (0.8, 2.0),
    min_significance: float = 3.0,
    max_frames: int = 48,
    enough: float = 60.0,
) -> xr.Dataset:
    """Add up consecutive CLASS frames to spectra with enough counts.

    Parameters
    ----------
    ds : Dataset
        Native CLASS frames in order of time (:func:`lunarray.open_class`). Frames that
        :func:`lunarray.xrf.flag_frames` rejected are left out of the sums.
    strategy : {"sliding", "running", "combined"}
        - ``"sliding"``: frames 1-12, 2-13, and so on. A moving sum, lazy where `ds` is.
        - ``"running"``: frames are added until three Gaussians (Mg, Al, Si Kα) and a continuum fit well; the next set
          begins with the next frame.
        - ``"combined"``: as ``"running"``, but the next set begins with the second frame of the last one.

        Which frames belong together is a matter of their counts in the last two: these read the counts once, block by
        block, when called; the sums themselves are lazy all the same.
    window : int
        Frames of the sliding window (12 frames of 8 s are 96 s).
    min_frames : int, optional
        Stretches without a gap that are shorter than the window, but not than this, give one spectrum; by default
        there are none of these.
    max_gap : float
        Frames further apart than this (s) do not follow one another.
    chi2_range : tuple of float
        Reduced chi-square of a good fit.
    min_significance : float
        The three lines together must be so many times their error: any fit to next to nothing is good. 0 is the bare
        rule of the paper.
    max_frames : int
        A set that does not fit well with so many frames is given up.
    enough : float
        Where the three lines together are so many times their error, the set is closed however it fits: in a bright
        flare a single frame tells that lines are no Gaussians and a continuum no straight line. Infinity is the
        paper's rule, which gives no window of such frames.

    Returns
    -------
    Dataset
        As `ds`, a row for each window: ``counts`` (time, channel), float32, with ``exposure`` summed over the frames
        added, ``n_frames``, ``start``, ``end`` and ``time`` (the middle) of the window, means by exposure of the
        position, angles, altitude, gain and number of detectors, and ``corner_lat``, ``corner_lon`` of the ground
        that the frames swept over. ``flags`` tells why frames of the window were left out (any of the bits); windows
        of which none is left have 0 counts and exposure. ``reduced_chi2`` for the last two strategies.

    Raises
    ------
    InputError
        If `ds` has no CLASS counts, frames overlap or are out of order, or an argument is not one of those above.

    Warns
    -----
    LunarrayWarning
        If the last two strategies find no window at all: how many frames there were, and what they lacked.

    References
    ----------
    Section III-D of the paper that this room follows (Lunar elemental analysis and mapping of Chandrayaan-2 CLASS
    data).

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> windows["counts"].shape
    (1, 2048)
    """
    require_frames(ds, "coadd")
    require_choice("strategy", strategy, ("sliding", "running", "combined"))
    least = window if min_frames is None else min_frames
    if not (1 <= least <= window) or max_frames < 1:
        raise InputError(
            f"window={window}, min_frames={min_frames}, max_frames={max_frames}",
            where="coadd",
            remedy="They must be 1 or more, and min_frames not more than window",
        )
    bad = ds["bad_channel"].transpose("time", "channel") if "bad_channel" in ds.variables else None
    ds = without_bad_channels(ds).transpose("time", ...)
    begin, finish = frame_bounds(ds)
    segments = _segments(begin, finish, max_gap)
    chi2 = None
    if strategy == "sliding":
        first, last = _sliding_windows(segments, window, least)
        event = f"coadd(sliding, window={window})"
    else:
        first, last, chi2 = _checked_windows(
            ds, segments, combined=strategy == "combined", chi2_range=chi2_range,
            min_significance=min_significance, most=max_frames, enough=enough,
        )  # fmt: skip
        event = f"coadd({strategy}, chi2 in {chi2_range[0]:g}-{chi2_range[1]:g}, max_frames={max_frames})"
    result = _sum_windows(ds, first, last, begin, finish, bad)
    if chi2 is not None:
        attrs = {"units": "1", "long_name": "reduced chi-square of three lines and a continuum"}
        result = result.assign_coords(reduced_chi2=("time", chi2, attrs))
    return stamp(result, event)


def _sum_windows(
    ds: xr.Dataset, first: np.ndarray, last: np.ndarray, begin: np.ndarray, finish: np.ndarray,
    bad: xr.DataArray | None,
) -> xr.Dataset:  # fmt: skip
    counts = ds["counts"].transpose("time", "channel")
    columns = _table_columns(ds)
    lazy = is_lazy(counts) or any(hasattr(v, "dask") for v in columns.values())
    if lazy:
        import dask.array as da

        data = da.asarray(counts.data).rechunk({1: -1})
        apart = da.asarray(read_apart(ds)["counts"].transpose("time", "channel").data)
        column_of: dict[str, Any] = {
            "chunks": (data.chunks[0], (1,)), "dtype": "f8", "meta": np.empty((0, 0)),
        }  # fmt: skip
        columns["finite"] = apart.rechunk({1: -1}).map_blocks(_finite_kernel, **column_of)[:, 0]
        table = da.stack([da.asarray(columns[name]).astype("f8") for name in _TABLE], axis=1)
        table = table.rechunk((data.chunks[0], -1))
        weight = table.map_blocks(_weights, **column_of)
    else:
        data = counts.values
        columns["finite"] = _finite_kernel(data)[:, 0]
        table = np.stack([np.asarray(columns[name], "f8") for name in _TABLE], axis=1)
        weight = _weights(table)
    summed = _windowed(_counts_kernel, first, last, [data, weight], data.shape[1], "f4")
    if bad is not None:
        # What a sum lacks in a channel that is bad in one of its frames is not known.
        marks = da.asarray(bad.data).rechunk(data.chunks) if lazy else bad.values
        spoilt = _windowed(_counts_kernel, first, last, [marks, weight], data.shape[1], "f4") > 0
    merged = _windowed(_table_kernel, first, last, [table], len(_RESULT), "f8")

    def column(name: str, dtype: str) -> Any:
        return merged[:, _RESULT.index(name)].astype(dtype)

    def corners(axis: str) -> Any:
        at = _RESULT.index(f"{axis}0")
        return merged[:, at : at + 4]

    start, end = begin[first], finish[last - 1]
    middle = {"standard_name": "time", "long_name": "middle of the window (UTC)"}
    coords: dict[str, Any] = {
        "time": ("time", start + (end - start) // 2, middle),
        "channel": ds["channel"],
        "start": ("time", start, {"long_name": "start of the window (UTC)"}),
        "end": ("time", end, {"long_name": "end of the window (UTC)"}),
        "n_frames": described("time", column("n_frames", "i4"), "1", "number of frames added"),
    }
    kept = {"exposure": "f8", "n_detectors": "f4", "lat": "f8", "lon": "f8", "gain": "f8"}
    for name, dtype in {**kept, **dict.fromkeys(_MEANS[1:], "f4")}.items():
        if name in ds.variables or name == "n_detectors":
            attrs = dict(ds[name].attrs) if name in ds.variables else {"units": "1"}
            coords[name] = ("time", column(name, dtype), attrs)
    if {"corner_lon", "corner_lat"} <= set(ds.variables):
        for axis in ("corner_lat", "corner_lon"):
            coords[axis] = (("time", "corner"), corners(axis), dict(ds[axis].attrs))
    attrs = flag_attrs("why frames of the window were left out", FRAME_FLAGS, "u2")
    coords["flags"] = ("time", column("flags", "u2"), attrs)
    coords["exposure"][2]["long_name"] = "exposure of the frames added"
    if bad is not None:
        rows = ("time", "channel")
        summed = xr.Variable(rows, summed).where(~xr.Variable(rows, spoilt)).data
        coords["bad_channel"] = (("time", "channel"), spoilt, dict(bad.attrs))
    variables = {"counts": (("time", "channel"), summed, dict(ds["counts"].attrs))}
    return xr.Dataset(variables, coords, dict(ds.attrs))
