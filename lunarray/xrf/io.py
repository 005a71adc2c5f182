"""Reading Chandrayaan-2 CLASS Level 1 spectra."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, ProductFormatError
from lunarray.geo import lonlat_of, unit_vectors, wrap_longitude
from lunarray.readers import (
    find_files,
    is_zip,
    lazy_array,
    members,
    read_all,
    reads,
    warn_skipped,
)
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.class_files import (
    CLASS_DETECTORS,
    GEOMETRY,
    PRODUCT,
    Spectrum,
    read_counts,
    read_spectrum,
)
from lunarray.xrf.fits import damaged, quiet_astropy
from lunarray.xrf.frames import described

__all__ = ["CLASS_DETECTORS", "class_to_zarr", "open_class", "read_background"]

_SUFFIXES = (".fits", ".fit", ".pha", ".fits.gz")
_ARCHIVES = (*_SUFFIXES, ".zip")
_CHUNK_BYTES = 16 * 2**20

_COUNTS_ATTRS = {"units": "1", "long_name": "counts", "comment": "events in a channel, not a rate"}


class _Reader:
    """Counts of many files as one array-like of shape (time, channel)."""

    ndim = 2
    dtype = np.dtype("f4")

    def __init__(self, spectra: list[Spectrum], token: str) -> None:
        self.spectra = [
            s if os.path.isabs(s.path) else replace(s, path=os.path.abspath(s.path))
            for s in spectra
        ]
        self.shape = (len(spectra), spectra[0].table.rows)
        self._token = token

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("lunarray.xrf.io._Reader", self._token)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        rows, channels = key if isinstance(key, tuple) else (key, slice(None))
        index = np.arange(self.shape[0])[rows]
        block = np.empty((np.size(index), self.shape[1]), self.dtype)
        for out, i in zip(block, np.atleast_1d(index), strict=True):
            out[:] = read_counts(self.spectra[i])
        block = block[:, channels]
        return block[0] if np.ndim(index) == 0 else block


@typed
@reads
def open_class(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    chunks: Literal["auto"] | int | None = "auto",
    errors: Literal["raise", "skip"] = "raise",
    max_workers: int | None = None,
) -> xr.Dataset:
    """Open Chandrayaan-2 CLASS Level 1 spectra as one lazy dataset.

    Native frames of 8 s and added files, of 1024 or 2048 channels, as PRADAN hands them out: single files, packed by
    gzip or not, its tree of years, months and days, and its zips. Headers are read now, in threads, and cards that
    break the FITS standard are mended; counts are read when they are computed, chunk by chunk.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        One spectrum in each file. Of a folder without spectra, those in the folders below are taken.
    chunks : {"auto"}, int or None
        Dask chunks along ``time``: ``"auto"`` makes them of 16 MB, a number is of spectra. None reads everything now.
    errors : {"raise", "skip"}
        What to do with a file that is damaged or something else: raise an error that names it, or leave it out with a
        warning and a record in ``attrs["skipped_files"]``.
    max_workers : int, optional
        Threads that read headers.

    Returns
    -------
    xarray.Dataset
        ``counts`` (time, channel), float32. Coordinates: ``time`` (UTC, the middle of the spectrum; the spectra are
        sorted by it), ``channel``, and for each spectrum ``start``, ``end``, ``exposure`` (s), ``gain`` (keV per
        channel), ``detectors`` (flags of the detectors used), ``n_detectors`` (NaN where the file does not say),
        ``lat``, ``lon`` (degrees, the boresight; in added files, which do not tell it, the centre of the corners),
        ``corner_lat``, ``corner_lon`` (time, corner; in order around the footprint), ``incidence`` (solar angle),
        ``emission``, ``phase`` (degrees), ``altitude`` (km), ``temperature``, ``file``. Longitudes are in [-180,
        180). What a header lacks is NaN. The exposure is that of the whole area: AREASCAL is part of it. Where a file
        has a BACKSCAL other than 1 there is ``background_scale``, which fits heed. A column RATE gives counts by the
        exposure. Channels that QUALITY calls bad are NaN, and ``bad_channel`` (time, channel) is
        there where there are any.

    Raises
    ------
    InputError
        If nothing matches `paths`, or an argument is not one of those above.
    ProductFormatError
        If a file is damaged, truncated, of another instrument, or has another number of channels than the first; also
        at compute time if it has changed since.

    References
    ----------
    Pillai, N. S., et al., 2021. Chandrayaan-2 Large Area Soft X-ray Spectrometer (CLASS): calibration, in-flight
    performance and first results. Icarus 363, 114436.

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["class_flare"].files
    >>> la.open_class(files)["counts"].shape
    (12, 2048)
    """
    from dask.base import tokenize

    files = class_files(paths)
    with quiet_astropy():
        spectra, skipped = read_all(
            files, read_spectrum, PRODUCT, errors=errors, check=_same_binning, workers=max_workers
        )
    warn_skipped(skipped, len(files), PRODUCT)
    starts = np.array([s.start for s in spectra])
    spectra = [spectra[i] for i in np.argsort(starts, kind="stable")]
    token = tokenize([s.file for s in spectra])
    n, channels = len(spectra), spectra[0].table.rows
    counts = lazy_array(
        _Reader(spectra, token), _chunks(n, channels, chunks), f"class-counts-{token}"
    )
    coords = _coordinates(spectra)
    scale = np.array([s.background_scale for s in spectra])
    if np.any(scale != 1.0):
        words = {"units": "1", "long_name": "factor on the background (BACKSCAL)"}
        coords["background_scale"] = ("time", scale, words)
    if any(s.bad for s in spectra):
        bad = np.zeros((n, channels), bool)
        for row, spectrum in zip(bad, spectra, strict=True):
            row[list(spectrum.bad)] = True
        coords["bad_channel"] = (("time", "channel"), bad, {"long_name": "bad by QUALITY"})
    ds = xr.Dataset(
        {"counts": (("time", "channel"), counts, dict(_COUNTS_ATTRS))},
        coords,
        {
            "mission": "Chandrayaan-2",
            "instrument": "Large Area Soft X-ray Spectrometer (CLASS)",
            "processing_level": "L1",
        },
    )
    if skipped:
        ds.attrs["skipped_files"] = skipped
    names = [os.path.basename(s.path) for s in spectra]
    listed = names[0] if n == 1 else f"{n} files, {names[0]} ... {names[-1]}"
    return stamp(ds, f"open_class, {n} files", source=f"Chandrayaan-2 CLASS Level 1: {listed}")


def class_files(paths: Any) -> list[Path]:
    """Files of frames, those in zips among them, each name once."""
    found: dict[str, Path] = {}
    for path in find_files(paths, _ARCHIVES, PRODUCT):
        inside = members(path, _SUFFIXES) if is_zip(path) else [path]
        if not inside:
            raise InputError("no spectra in the zip", where=path, remedy=f"Give {PRODUCT}")
        for file in inside:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def frame_channels(paths: Any) -> int:
    """Number of channels that the first of the frames that can be read has."""
    files = class_files(paths)
    for path in files:
        try:
            return read_spectrum(path).table.rows
        except (InputError, OSError):
            continue
    return read_spectrum(files[0]).table.rows  # raises what is wrong with it


def frame_name(path: str | os.PathLike[str]) -> str:
    """Name by which a frame is known, packed or not."""
    name = os.path.basename(path)
    return name[:-3] if name.lower().endswith(".gz") else name


def _same_binning(first: Spectrum, other: Spectrum) -> str | None:
    a, b = first.table.rows, other.table.rows
    return None if a == b else f"{b} channels, where {os.path.basename(first.path)} has {a}"


def _chunks(n: int, channels: int, chunks: Any) -> tuple[int, ...] | None:
    if chunks is None:
        return None
    if chunks == "auto":
        size = max(1, _CHUNK_BYTES // (4 * channels))
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        size = chunks
    else:
        raise InputError(
            f"chunks={chunks!r}",
            where="open_class",
            remedy="Give 'auto', a positive number of spectra, or None to read everything now",
        )
    return tuple(min(size, n - at) for at in range(0, n, size))


def _coordinates(spectra: list[Spectrum]) -> dict[str, Any]:
    start = np.array([s.start for s in spectra], "M8[ns]")
    end = np.array([s.end for s in spectra], "M8[ns]")
    corner_lat = np.array([s.corner_lat for s in spectra], "f8")
    corner_lon = wrap_longitude(np.array([s.corner_lon for s in spectra], "f8"))
    corner_lat, corner_lon = _in_order(corner_lat, corner_lon)
    detectors = np.array([s.detectors for s in spectra], "u2")
    number = np.array([s.detectors.bit_count() or np.nan for s in spectra], "f4")
    first = spectra[0].first_channel
    scd = {
        "long_name": "detectors used",
        "flag_masks": (1 << np.arange(CLASS_DETECTORS)).astype("u2"),
        "flag_meanings": " ".join(f"scd_{i}" for i in range(CLASS_DETECTORS)),
    }
    # Objects, so that strings of different length cost no padding.
    files = np.array([frame_name(s.path) for s in spectra], object)
    channel = np.arange(first, first + spectra[0].table.rows, dtype="i4")
    exposure, gain = (
        np.array([getattr(s, n) for s in spectra], "f8") for n in ("exposure", "gain")
    )
    utc = {"standard_name": "time", "long_name": "middle of the spectrum (UTC)"}
    corner = {"long_name": "latitude of the footprint's corners", "units": "degrees_north"}
    across = {"long_name": "longitude of the footprint's corners", "units": "degrees_east"}
    coords: dict[str, Any] = {
        "time": ("time", start + (end - start) // 2, utc),
        "channel": ("channel", channel, {"units": "1", "long_name": "pulse height channel"}),
        "start": ("time", start, {"long_name": "start of the spectrum (UTC)"}),
        "end": ("time", end, {"long_name": "end of the spectrum (UTC)"}),
        "exposure": ("time", exposure, {"units": "s", "long_name": "exposure"}),
        "gain": ("time", gain, {"units": "keV", "long_name": "energy per channel"}),
        "detectors": ("time", detectors, scd),
        "n_detectors": ("time", number, {"units": "1", "long_name": "number of detectors used"}),
        "corner_lat": (("time", "corner"), corner_lat, corner),
        "corner_lon": (("time", "corner"), corner_lon, across),
        "file": ("time", files, {"long_name": "file"}),
    }
    table = np.array([s.geometry for s in spectra], "f8").reshape(len(spectra), -1)
    for i, (name, (_, dtype, _, attrs)) in enumerate(GEOMETRY.items()):
        coords[name] = ("time", table[:, i].astype(dtype), dict(attrs))
    lon, lat = lonlat_of(unit_vectors(corner_lon, corner_lat).mean(axis=1))
    for name, centre in (("lat", lat), ("lon", lon)):
        own = coords[name][1]
        coords[name] = ("time", np.where(np.isfinite(own), own, centre), coords[name][2])
    coords["lon"] = ("time", wrap_longitude(coords["lon"][1]), coords["lon"][2])
    return coords


def _in_order(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners in order around each footprint: near the poles some files list them crosswise."""
    points = unit_vectors(lon, lat)
    centre = points.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = centre / np.linalg.norm(centre, axis=-1, keepdims=True)
        # Any direction that is not the centre's spans the plane of the horizon with it.
        axis = np.where(np.abs(centre[..., 2:]) < 0.9, [[[0.0, 0.0, 1.0]]], [[[1.0, 0.0, 0.0]]])
        east = np.cross(axis, centre)
        north = np.cross(centre, east)
        angle = np.arctan2((points * north).sum(-1), (points * east).sum(-1))
    step = np.roll(angle, -1, axis=1) - angle
    step = (step + np.pi) % (2 * np.pi) - np.pi
    crossed = np.isfinite(angle).all(axis=1) & ~((step > 0).all(axis=1) | (step < 0).all(axis=1))
    order = np.where(crossed[:, None], np.argsort(angle, axis=1), np.arange(4))
    return np.take_along_axis(lat, order, axis=1), np.take_along_axis(lon, order, axis=1)


@typed
def class_to_zarr(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    store: Any,
    *,
    errors: Literal["raise", "skip"] = "raise",
    max_workers: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Write CLASS spectra to a Zarr store, or append those that it does not hold yet.

    Files are known by their names: those that the store holds are not even opened, so the same call with the same
    folder takes in what is new. An interrupted call loses at most the batch it was writing, and the next one goes on.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        As in :func:`open_class`. Appended spectra come after those that are there, whatever their time: sort by
        ``time`` after opening where files came out of order.
    store : path, URL, zarr Store or icechunk Session
        A new store, or one that this function wrote. Rows are appended in an object store to a copy of the store.
    errors : {"raise", "skip"}
        As in :func:`open_class`.
    max_workers : int, optional
        Threads that read headers.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily.

    Raises
    ------
    InputError, ProductFormatError
        As :func:`open_class` does; nothing is written of the batch at fault.
    StoreError
        If `store` is something else, or cannot be written.

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["class_flare"].files
    >>> la.xrf.class_to_zarr(files, "frames.zarr", progress=False).sizes["time"]
    12
    """
    from lunarray.store import open_zarr
    from lunarray.store.append import appending, held

    files = class_files(paths)
    if {frame_name(path) for path in files} <= held(store, "file", complete=True):
        return open_zarr(store)
    # Asked again under the lock: another writer may have been appending the same files.
    with appending(store, "time") as end:
        have = end.held("file")
        new = [path for path in files if frame_name(path) not in have]
        if new:
            ds = open_class(new, errors=errors, max_workers=max_workers)
            end.append(ds, progress=progress)
    return open_zarr(store)


@typed
@reads
def read_background(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a CLASS background spectrum.

    Parameters
    ----------
    path : path
        A spectrum in counts, such as the long background that comes with CLASS, or one added from night-side frames.

    Returns
    -------
    xarray.Dataset
        ``counts`` (channel,), float64, and scalars ``exposure`` (s; AREASCAL and BACKSCAL are part of it), ``gain``
        (keV per channel) and ``n_detectors`` (NaN where the file does not say): what
        :func:`lunarray.xrf.fit_elements` takes as `background`.

    Raises
    ------
    ProductFormatError
        If it is no CLASS spectrum in counts.

    Examples
    --------
    >>> import lunarray as la
    >>> background = la.xrf.read_background("background_allevents.fits")  # doctest: +SKIP
    """
    try:
        with quiet_astropy():
            spectrum = read_spectrum(Path(path), timed=False)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    counts = read_counts(spectrum).astype("f8")
    if not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise damaged("negative or missing counts", path)
    first = spectrum.first_channel
    ds = xr.Dataset(
        {
            "counts": ("channel", counts, dict(_COUNTS_ATTRS, long_name="background counts")),
            "exposure": described(
                (), spectrum.exposure * spectrum.background_scale, "s", "exposure"
            ),
            "gain": described((), spectrum.gain, "keV", "energy per channel"),
            "n_detectors": described(
                (), spectrum.detectors.bit_count() or np.nan, "1", "number of detectors used"
            ),
        },
        {"channel": np.arange(first, first + counts.size, dtype="i4")},
    )
    return stamp(ds, "read_background", source=os.path.basename(spectrum.path))
