"""Reading Chandrayaan-2 CLASS Level 1 spectra."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError, ProductFormatError
from lunarray.geo import wrap_longitude
from lunarray.store.products import find_files, lazy_array, read_all, warn_skipped

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CLASS_DETECTORS", "class_to_zarr", "open_class", "read_background"]

#: Swept charge devices of CLASS. The effective area is that of all of them; SCD_USED says which a spectrum is of.
CLASS_DETECTORS = 16

#: Full scale of the CLASS spectrum (keV): 2048 channels of 13.5 eV or 1024 of 27 eV. Added files have no GAIN card.
_FULL_SCALE = 27.648

_PRODUCT = "CLASS Level 1 files"
_SUFFIXES = (".fits", ".fit", ".pha", ".fits.gz")
_BLOCK = 2880
_CHUNK_BYTES = 16 * 2**20

#: Our name -> (card, dtype, largest possible magnitude, attributes).
_GEOMETRY: dict[str, tuple[str, str, float, dict[str, str]]] = {
    "lat": (
        "BORE_LAT",
        "f8",
        90.0,
        {"units": "degrees_north", "standard_name": "latitude", "long_name": "boresight latitude"},
    ),
    "lon": (
        "BORE_LON",
        "f8",
        360.0,
        {"units": "degrees_east", "standard_name": "longitude", "long_name": "boresight longitude"},
    ),
    "incidence": (
        "SOLARANG",
        "f4",
        180.0,
        {
            "units": "degree",
            "standard_name": "solar_zenith_angle",
            "long_name": "solar angle from the surface normal",
        },
    ),
    "emission": (
        "EMISNANG",
        "f4",
        180.0,
        {"units": "degree", "standard_name": "sensor_zenith_angle", "long_name": "emission angle"},
    ),
    "phase": ("PHASEANG", "f4", 180.0, {"units": "degree", "long_name": "phase angle"}),
    "altitude": ("SAT_ALT", "f4", 1e6, {"units": "km", "long_name": "spacecraft altitude"}),
    "temperature": (
        "TEMP",
        "f4",
        1e3,
        {"units": "degree_Celsius", "long_name": "detector temperature"},
    ),
}
_COUNTS_ATTRS = {"units": "1", "long_name": "counts", "comment": "events in a channel, not a rate"}


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the COUNTS column of a spectrum is, and how its rows are stored."""

    offset: int
    rows: int
    stride: int
    column: int
    dtype: str
    scale: float = 1.0
    zero: float = 0.0


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """What is read from one file when it is opened: all but the counts."""

    path: str
    size: int
    mtime_ns: int
    table: _Table
    first_channel: int
    start: np.datetime64
    end: np.datetime64
    exposure: float
    gain: float
    detectors: int
    geometry: tuple[float, ...]
    corner_lat: tuple[float, ...]
    corner_lon: tuple[float, ...]


# ---------- headers
@contextmanager
def _quiet_astropy() -> Iterator[None]:
    """No warnings of astropy about cards that are mended; entered outside of the threads, for filters are global."""
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def _value(header: Any, key: str) -> Any:
    """Value of a card, mended where it is not FITS standard (CLASS files write EMISNANG with a small e); None if
    absent."""
    if key not in header:
        return None
    from astropy.io.fits.verify import VerifyError

    try:
        return header[key]
    except VerifyError:
        card = header.cards[key]
    try:
        card.verify("silentfix")
        return card.value
    except (VerifyError, ValueError):
        # What astropy cannot mend is the number before the comment, if there is one.
        match = re.match(r"\s*([-+0-9.eEdD]+)", card.image[10:])
        return _float(match.group(1).replace("D", "E").replace("d", "e")) if match else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _spectrum_header(stream: Any, where: Path) -> tuple[Any, int]:
    """Header of the SPECTRUM extension and the offset of its table."""
    from astropy.io import fits

    while True:
        try:
            header = fits.Header.fromfile(stream, endcard=True, padding=False)
        except EOFError:
            raise ProductFormatError(
                "it has no SPECTRUM extension", where=where, remedy=f"Give {_PRODUCT}"
            ) from None
        except (OSError, ValueError, fits.VerifyError) as error:
            raise ProductFormatError(
                f"not a FITS file, or a damaged one ({error})", where=where, remedy="Fetch it again"
            ) from error
        if not ({"SIMPLE", "XTENSION"} & set(header[:1].keys())):
            raise ProductFormatError(
                "not a FITS file, or a damaged one", where=where, remedy="Fetch it again"
            )
        # Header.fromfile leaves the stream at the end of the last block that it read.
        here = stream.tell()
        if str(_value(header, "EXTNAME")).strip().upper() == "SPECTRUM":
            return header, here
        stream.seek(here + -(-_data_bytes(header) // _BLOCK) * _BLOCK)


def _data_bytes(header: Any) -> int:
    axes = [
        int(_value(header, f"NAXIS{i + 1}") or 0) for i in range(int(_value(header, "NAXIS") or 0))
    ]
    if not axes:
        return 0
    if min(axes) < 0:
        raise ValueError(f"axes of {axes}")
    groups, heap = int(_value(header, "GCOUNT") or 1), int(_value(header, "PCOUNT") or 0)
    return abs(int(_value(header, "BITPIX") or 8)) // 8 * groups * (heap + int(np.prod(axes)))


_TFORM = re.compile(r"^\s*(\d*)([LXBIJKAEDCMPQ])")
_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_WIDTHS = {
    "L": 1,
    "B": 1,
    "I": 2,
    "J": 4,
    "K": 8,
    "A": 1,
    "E": 4,
    "D": 8,
    "C": 8,
    "M": 16,
    "P": 8,
    "Q": 16,
}


def _counts_table(header: Any, offset: int, where: Path) -> _Table:
    """Find the COUNTS column."""
    at = 0
    for number in range(1, int(_value(header, "TFIELDS") or 0) + 1):
        form = _TFORM.match(str(_value(header, f"TFORM{number}")))
        if form is None:
            break
        repeat, kind = int(form.group(1) or 1), form.group(2)
        if str(_value(header, f"TTYPE{number}")).strip().upper() == "COUNTS":
            if kind not in _TYPES or repeat != 1:
                break
            if at + _WIDTHS[kind] > int(_value(header, "NAXIS1") or 0):
                break
            scale, zero = (_value(header, f"{key}{number}") for key in ("TSCAL", "TZERO"))
            return _Table(
                offset,
                int(_value(header, "NAXIS2") or 0),
                int(_value(header, "NAXIS1") or 0),
                at,
                _TYPES[kind],
                1.0 if scale is None else float(scale),
                float(zero or 0.0),
            )
        at += -(-repeat // 8) if kind == "X" else repeat * _WIDTHS[kind]
    raise ProductFormatError(
        "its SPECTRUM extension has no COUNTS column of numbers",
        where=where,
        remedy="Give spectra in counts (HDUCLAS3 COUNT), one in each file",
    )


def _detector_mask(used: Any) -> int:
    """Bits of the detectors in a SCD_USED card; 0 where it does not say."""
    mask = 0
    for word in str(used or "").split(","):
        if word.strip().isdigit() and int(word) < CLASS_DETECTORS:
            mask |= 1 << int(word)
    return mask


def _moment(value: Any) -> np.datetime64:
    try:
        return np.datetime64(str(value).strip().rstrip("Z").replace(" ", "T"), "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")


def _read_spectrum(path: Path, *, timed: bool = True) -> _Spectrum:
    from astropy.io.fits.verify import VerifyError

    try:
        return _parse_spectrum(path, timed)
    except (ValueError, TypeError, ArithmeticError, LookupError, VerifyError) as error:
        if isinstance(error, InputError):
            raise
        # Bytes that make no sense as numbers or sizes.
        raise ProductFormatError(
            f"a damaged header ({error})", where=path, remedy="Fetch it again"
        ) from error


def _parse_spectrum(path: Path, timed: bool) -> _Spectrum:
    if path.name.lower().endswith(".gz"):
        raise ProductFormatError(
            "compressed files cannot be read in part", where=path, remedy="Decompress it (gunzip)"
        )
    with open(path, "rb") as stream:
        status = os.fstat(stream.fileno())
        header, offset = _spectrum_header(stream, path)
    instrument = str(_value(header, "INSTRUME") or "").strip().upper()
    if instrument != "CLASS":
        raise ProductFormatError(
            f"a spectrum of {instrument or 'an unknown instrument'}, not of CLASS",
            where=path,
            remedy=f"Give {_PRODUCT}; XSM spectra are read by lunarray.xrf.xsm.read_xsm_spectrum",
        )
    table = _counts_table(header, offset, path)
    needed = offset + table.rows * table.stride
    if status.st_size < needed or table.rows < 1:
        raise ProductFormatError(
            f"truncated: {status.st_size} bytes, its header needs {needed}",
            where=path,
            remedy="Fetch it again",
        )
    start, end = (_moment(_value(header, key)) for key in ("STARTIME", "ENDTIME"))
    exposure = _float(_value(header, "EXPOSURE"))
    if timed and (np.isnat(start) or np.isnat(end) or end < start):
        raise ProductFormatError(
            f"it does not say when it was taken: STARTIME {_value(header, 'STARTIME')}, "
            f"ENDTIME {_value(header, 'ENDTIME')}",
            where=path,
            remedy="Give frames with ISO times; a background is read by lunarray.xrf.read_background",
        )
    if not 0 < exposure < np.inf:
        raise ProductFormatError(
            f"EXPOSURE is {_value(header, 'EXPOSURE')}", where=path, remedy="Fetch it again"
        )
    gain = _float(_value(header, "GAIN")) / 1e3
    geometry = []
    for card, _, limit, _ in _GEOMETRY.values():
        number = _float(_value(header, card))
        geometry.append(number if abs(number) <= limit else float("nan"))
    corners = []
    for card, limit in (("LAT", 90.0), ("LON", 360.0)):
        numbers = [_float(_value(header, f"V{i}_{card}")) for i in range(4)]
        corners.append(tuple(n if abs(n) <= limit else float("nan") for n in numbers))
    return _Spectrum(
        path=str(path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        table=table,
        first_channel=int(
            _float(_value(header, "TLMIN1")) if _value(header, "TLMIN1") is not None else 0
        ),
        start=start,
        end=end,
        exposure=exposure,
        gain=gain if gain > 0 else _FULL_SCALE / table.rows,
        detectors=_detector_mask(_value(header, "SCD_USED")),
        geometry=tuple(geometry),
        corner_lat=corners[0],
        corner_lon=corners[1],
    )


# ---------- counts
def _read_counts(path: str, table: _Table) -> np.ndarray:
    """Counts of one file, as float32."""
    try:
        with open(path, "rb") as stream:
            stream.seek(table.offset)
            data = stream.read(table.rows * table.stride)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read any more ({error.strerror or error})",
            where=path,
            remedy="Open the files again with open_class",
        ) from error
    if len(data) < table.rows * table.stride:
        raise ProductFormatError(
            "truncated since it was opened", where=path, remedy="Fetch it again, then open it again"
        )
    row = np.dtype(
        {
            "names": ["c"],
            "formats": [table.dtype],
            "offsets": [table.column],
            "itemsize": table.stride,
        }
    )
    counts = np.frombuffer(data, row)["c"].astype("f8")
    return (counts * table.scale + table.zero).astype("f4")


class _Reader:
    """Counts of many files as one array-like of shape (time, channel)."""

    ndim = 2
    dtype = np.dtype("f4")

    def __init__(self, spectra: list[_Spectrum], token: str) -> None:
        self.paths = [s.path for s in spectra]
        self.tables = [s.table for s in spectra]
        self.shape = (len(spectra), spectra[0].table.rows)
        self._token = token

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("lunarray.xrf.io._Reader", self._token)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        rows, channels = key if isinstance(key, tuple) else (key, slice(None))
        index = np.arange(self.shape[0])[rows]
        block = np.empty((np.size(index), self.shape[1]), self.dtype)
        for out, i in zip(block, np.atleast_1d(index), strict=True):
            out[:] = _read_counts(self.paths[i], self.tables[i])
        block = block[:, channels]
        return block[0] if np.ndim(index) == 0 else block


def open_class(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    chunks: Literal["auto"] | int | None = "auto",
    errors: Literal["raise", "skip"] = "raise",
    max_workers: int | None = None,
) -> xr.Dataset:
    """Open Chandrayaan-2 CLASS Level 1 spectra as one lazy dataset.

    Native frames of 8 s and added files, of 1024 or 2048 channels. Headers are read now, in threads, and cards that
    break the FITS standard are mended; counts are read when they are computed, chunk by chunk.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        One spectrum in each file.
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
        180). What a header lacks is NaN.

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
    """
    import xarray as xr
    from dask.base import tokenize

    from lunarray.store.provenance import stamp

    files = find_files(paths, _SUFFIXES, _PRODUCT)
    with _quiet_astropy():
        spectra, skipped = read_all(
            files, _read_spectrum, _PRODUCT, errors=errors, check=_same_binning, workers=max_workers
        )
    warn_skipped(skipped, len(files), _PRODUCT)
    starts = np.array([s.start for s in spectra])
    spectra = [spectra[i] for i in np.argsort(starts, kind="stable")]
    token = tokenize([(os.path.abspath(s.path), s.mtime_ns, s.size) for s in spectra])
    n, channels = len(spectra), spectra[0].table.rows
    counts = lazy_array(
        _Reader(spectra, token), _chunks(n, channels, chunks), f"class-counts-{token}"
    )
    ds = xr.Dataset(
        {"counts": (("time", "channel"), counts, dict(_COUNTS_ATTRS))},
        _coordinates(spectra),
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


def _same_binning(first: _Spectrum, other: _Spectrum) -> str | None:
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


def _coordinates(spectra: list[_Spectrum]) -> dict[str, Any]:
    start = np.array([s.start for s in spectra], "M8[ns]")
    end = np.array([s.end for s in spectra], "M8[ns]")
    corner_lat = np.array([s.corner_lat for s in spectra], "f8")
    corner_lon = wrap_longitude(np.array([s.corner_lon for s in spectra], "f8"))
    corner_lat, corner_lon = _in_order(corner_lat, corner_lon)
    detectors = np.array([s.detectors for s in spectra], "u2")
    number = np.array([bin(s.detectors).count("1") or np.nan for s in spectra], "f4")
    first = spectra[0].first_channel
    coords: dict[str, Any] = {
        "time": (
            "time",
            start + (end - start) // 2,
            {"standard_name": "time", "long_name": "middle of the spectrum (UTC)"},
        ),
        "channel": (
            "channel",
            np.arange(first, first + spectra[0].table.rows, dtype="i4"),
            {"units": "1", "long_name": "pulse height channel"},
        ),
        "start": ("time", start, {"long_name": "start of the spectrum (UTC)"}),
        "end": ("time", end, {"long_name": "end of the spectrum (UTC)"}),
        "exposure": (
            "time",
            np.array([s.exposure for s in spectra], "f8"),
            {"units": "s", "long_name": "exposure"},
        ),
        "gain": (
            "time",
            np.array([s.gain for s in spectra], "f8"),
            {"units": "keV", "long_name": "energy per channel"},
        ),
        "detectors": (
            "time",
            detectors,
            {
                "long_name": "detectors used",
                "flag_masks": (1 << np.arange(CLASS_DETECTORS)).astype("u2"),
                "flag_meanings": " ".join(f"scd_{i}" for i in range(CLASS_DETECTORS)),
            },
        ),
        "n_detectors": ("time", number, {"units": "1", "long_name": "number of detectors used"}),
        "corner_lat": (
            ("time", "corner"),
            corner_lat,
            {"units": "degrees_north", "long_name": "latitude of the footprint's corners"},
        ),
        "corner_lon": (
            ("time", "corner"),
            corner_lon,
            {"units": "degrees_east", "long_name": "longitude of the footprint's corners"},
        ),
        # Objects, so that strings of different length cost no padding.
        "file": (
            "time",
            np.array([os.path.basename(s.path) for s in spectra], object),
            {"long_name": "file"},
        ),
    }
    table = np.array([s.geometry for s in spectra], "f8").reshape(len(spectra), -1)
    for i, (name, (_, dtype, _, attrs)) in enumerate(_GEOMETRY.items()):
        coords[name] = ("time", table[:, i].astype(dtype), dict(attrs))
    lat, lon = _centre(corner_lat, corner_lon)
    for name, centre in (("lat", lat), ("lon", lon)):
        own = coords[name][1]
        coords[name] = ("time", np.where(np.isfinite(own), own, centre), coords[name][2])
    coords["lon"] = ("time", wrap_longitude(coords["lon"][1]), coords["lon"][2])
    return coords


def _centre(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean direction of corners (row, corner); NaN where a corner is missing."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    x = (np.cos(phi) * np.cos(lam)).mean(-1)
    y = (np.cos(phi) * np.sin(lam)).mean(-1)
    z = np.sin(phi).mean(-1)
    return np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x))


def _in_order(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners in order around each footprint: near the poles some files list them crosswise."""
    from lunarray.geo import unit_vectors

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


def class_to_zarr(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    store: str | os.PathLike[str],
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
    store : path
        A new store, or one that this function wrote.
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
    """
    from lunarray.store.append import append_zarr, held

    files = find_files(paths, _SUFFIXES, _PRODUCT)
    have = held(store, "file")
    new = [path for path in files if path.name not in have]
    if not new and have:
        from lunarray.store import open_zarr

        return open_zarr(store)
    ds = open_class(new, errors=errors, max_workers=max_workers)
    return append_zarr(ds, store, dim="time", progress=progress)


def read_background(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a CLASS background spectrum.

    Parameters
    ----------
    path : path
        A spectrum in counts, such as the long background that comes with CLASS, or one added from night-side frames.

    Returns
    -------
    xarray.Dataset
        ``counts`` (channel,), float64, and scalars ``exposure`` (s), ``gain`` (keV per channel) and ``n_detectors``
        (NaN where the file does not say): what :func:`lunarray.xrf.fit_elements` takes as `background`.

    Raises
    ------
    ProductFormatError
        If it is no CLASS spectrum in counts.
    """
    import xarray as xr

    from lunarray.store.provenance import stamp

    try:
        with _quiet_astropy():
            spectrum = _read_spectrum(Path(path), timed=False)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    counts = _read_counts(spectrum.path, spectrum.table).astype("f8")
    if not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise ProductFormatError("negative or missing counts", where=path, remedy="Fetch it again")
    first = spectrum.first_channel
    ds = xr.Dataset(
        {
            "counts": ("channel", counts, dict(_COUNTS_ATTRS, long_name="background counts")),
            "exposure": ((), spectrum.exposure, {"units": "s", "long_name": "exposure"}),
            "gain": ((), spectrum.gain, {"units": "keV", "long_name": "energy per channel"}),
            "n_detectors": (
                (),
                float(bin(spectrum.detectors).count("1")) or np.nan,
                {"units": "1", "long_name": "number of detectors used"},
            ),
        },
        {"channel": np.arange(first, first + counts.size, dtype="i4")},
    )
    return stamp(ds, "read_background", source=os.path.basename(spectrum.path))
