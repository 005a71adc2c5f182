"""Reading KAGUYA (SELENE) Spectral Profiler Level 2C products."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_choice
from lunarray.readers import find_files, lazy_array, read_all, reads, warn_skipped
from lunarray.sp.bands import WAVELENGTH_ATTRS
from lunarray.sp.products import ANCILLARY, PRODUCT, Product, read_product, read_rows
from lunarray.store.provenance import stamp
from lunarray.typing import typed

__all__ = ["QA_FLAGS", "open_sp"]

#: Bits of the QA word by which values are rejected (:func:`lunarray.sp.mask_quality`). They are **documented**: LISM
#: product format description 1.3, appendix 3, table B1-1, where bits are counted from 1. **Observed** besides, in
#: products of orbits 2358 (v02) and 4184 (v03): bit 4 (no_value: the signal less the dark is negative) stands exactly
#: where 0 is stored; bit 14 (detector_end) also on the NIR2 channels that face NIR1 (1702.1 and 1709.8 nm); bit 15
#: (overlap) on VIS from 956.6 nm and NIR1 up to 947.4 nm, which the joined spectrum leaves out; bit 16 (bad_channel, a
#: dead pixel) on 1003.6 and 1942.0 nm. On 1003.6 and 1676.0 nm, where bit 16 or 14 stands, the low byte is no quality:
#: it changes from footprint to footprint by ones.
QA_FLAGS: dict[str, int] = {
    "no_value": 0x0008,
    "saturated": 0x0010,
    "detector_end": 0x2000,
    "overlap": 0x4000,
    "bad_channel": 0x8000,
}

#: What the other bits say, of the same table: mask, and the meaning of each value of the field from 0 on. There is no
#: ordinary word: 0x120, which most values of both products have, is a VIS wavelength shift of 0.3-0.6 channels and a
#: factor of 1.1-1.2 between VIS and NIR1; 0x140 is a shift of 0.6-0.9, and 0xc0 that and a factor of 1.0-1.1.
_QA_FIELDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (
        0x0007,
        (
            *("vis_dark_at_both_ends", "vis_dark_at_end", "vis_dark_at_beginning", "no_vis_dark"),
            *("all_vis_dark", "vis_dark_anomalous"),
        ),
    ),
    (0x0060, tuple(f"vis_shift_{of}_channels" for of in ("0_0.3", "0.3_0.6", "0.6_0.9", "0.9_up"))),
    (
        0x0180,
        tuple(f"vis_nir1_factor_{of}" for of in ("0.9_1.0", "1.0_1.1", "1.1_1.2", "other")),
    ),
    (
        0x0600,
        tuple(f"nir1_nir2_factor_{of}" for of in ("below_0.9", "0.9_1.0", "1.0_1.1", "above_1.1")),
    ),
)


def _qa_attrs() -> dict[str, Any]:
    """Say in the words of CF what the bits are: a meaning holds where word & mask == value."""
    rows = [(mask, mask, name) for name, mask in QA_FLAGS.items()]
    for mask, meanings in _QA_FIELDS:
        step = mask & -mask
        rows += [(mask, value * step, meaning) for value, meaning in enumerate(meanings)]
    masks, values, meanings = zip(*sorted(rows), strict=True)
    return {
        "units": "1",
        "long_name": "quality assessment word",
        "flag_masks": np.array(masks, "u2"),
        "flag_values": np.array(values, "u2"),
        "flag_meanings": " ".join(meanings),
        "references": "KAGUYA product format description, LISM, version 1.3, appendix 3, table B1-1",
    }


_VARIABLES = {"radiance": "RAD", "qa": "QA", "raw": "RAW"}
_ATTRS: dict[str, dict[str, Any]] = {
    "reflectance": {"units": "1", "long_name": "reflectance"},
    "radiance": {"units": "W m-2 um-1 sr-1", "long_name": "spectral radiance"},
    "qa": _qa_attrs(),
    "raw": {"units": "1", "long_name": "raw digital number"},
}
_TARGET_CHUNK_BYTES = 16 * 2**20
_CHUNK_BYTES_PER_VALUE = 4


class _Reader:
    """One variable of many files as one array-like of shape (observation, wavelength) that reads what it is asked
    for."""

    ndim = 2

    def __init__(self, products: list[Product], field: str, dtype: str, token: str) -> None:
        self.paths = [os.path.abspath(p.path) for p in products]
        self.files = [p.file for p in products]
        self.arrays = [p.arrays[field] for p in products]
        self.starts = np.concatenate([[0], np.cumsum([p.rows for p in products])])
        self.dtype = np.dtype(dtype)
        self.shape = (int(self.starts[-1]), self.arrays[0].samples)
        self._token = (field, dtype, token)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("lunarray.sp._Reader", *self._token)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        # A reversed slice comes when Dask merges an indexing into the reading.
        index = np.atleast_1d(np.arange(self.shape[0])[rows])
        block = np.empty((index.size, self.shape[1]), self.dtype)
        which = np.searchsorted(self.starts, index, side="right") - 1
        for i in np.unique(which):
            here = np.flatnonzero(which == i)
            local = index[here] - self.starts[i]
            first, last = int(local.min()), int(local.max()) + 1
            self.files[i].require(self.paths[i])
            values = read_rows(self.paths[i], self.arrays[i], first, last, self.dtype)
            block[here] = values[local - first]
        block = block[:, columns]
        return block[0] if np.ndim(np.arange(self.shape[0])[rows]) == 0 else block


# ---- finding files ----
def find_products(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files meant by a path, a folder, a glob pattern, or an iterable of these, in the order given; a pattern or
    folder sorted by name.

    A pattern or folder contributes its ``.spc`` files, and those ``.lbl`` whose ``.spc`` is not there (to be
    reported, not passed over). The ``.lbl`` and ``.spc`` of one product count once.
    """
    files = find_files(paths, (".spc", ".lbl"), PRODUCT)
    stems = [os.path.abspath(path.with_suffix("")) for path in files]
    data = {stem for path, stem in zip(files, stems, strict=True) if path.suffix.lower() == ".spc"}
    found: dict[str, Path] = {}
    for path, stem in zip(files, stems, strict=True):
        if path.suffix.lower() != ".lbl" or stem not in data:
            found.setdefault(stem, path)
    return list(found.values())


def _same_wavelengths(first: Product, other: Product) -> str | None:
    same = np.array_equal(first.wavelength, other.wavelength)
    return None if same else f"its wavelengths are not those of {first.path}"


# ---- opening ----
def _observation_chunks(rows: list[int], samples: int, chunks: Any) -> tuple[int, ...]:
    """Observations per chunk; a file is never split."""
    if chunks == "file":
        target = 1
    elif chunks == "auto":
        target = max(1, _TARGET_CHUNK_BYTES // (samples * _CHUNK_BYTES_PER_VALUE))
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        target = chunks
    else:
        raise InputError(
            f"chunks={chunks!r}",
            where="open_sp",
            remedy="Give 'auto', 'file', a positive number of observations, or None to load",
        )
    sizes: list[int] = []
    current = 0
    for n in rows:
        if current and current + n > target:
            sizes.append(current)
            current = 0
        current += n
    if current or not sizes:
        sizes.append(current)
    return tuple(sizes)


@typed
@reads
def open_sp(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    reflectance: Literal["REF1", "REF2"] = "REF1",
    chunks: Literal["auto", "file"] | int | None = "auto",
    errors: Literal["raise", "skip"] = "raise",
    raw: bool = False,
    calibration: bool = False,
    max_workers: int | None = None,
) -> xr.Dataset:
    """Open KAGUYA Spectral Profiler Level 2C products as one lazy dataset.

    Products of version 02 (PDS3 label attached) and 03 (label beside the data) are read, and told apart by what
    their labels say. Labels and the small tables of position and geometry are read now, the spectra when they are
    computed.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        ``.spc`` files or their ``.lbl``. Observations come in the order of `paths`; those of a folder or pattern
        sorted by file name.
    reflectance : {"REF1", "REF2"}
        Which of the product's two reflectances to take: photometrically corrected to 30/0/30 degrees with the
        function for highlands (``REF1``) or for maria (``REF2``).
    chunks : {"auto", "file"}, int or None
        Dask chunks along ``observation``: ``"auto"`` puts as many whole files into a chunk as make 16 MB,
        ``"file"`` one file, a number about as many observations, never splitting a file. None loads everything now.
    errors : {"raise", "skip"}
        What to do with a file that cannot be read as what it should be: raise an error that names it, or leave it
        out with a warning and a record in ``attrs["skipped_files"]``.
    raw : bool
        Add the raw digital numbers as ``raw``.
    calibration : bool
        Open runs with the lamp and other calibrations as well. Their labels tell them; they show no ground, and are
        files that cannot be read unless this is set.
    max_workers : int, optional
        Threads that read labels.

    Returns
    -------
    xarray.Dataset
        ``reflectance``, ``radiance`` (W m-2 um-1 sr-1), both (observation, wavelength) float32, NaN where the
        product stores 0, and ``qa`` (uint16; see `lunarray.sp.QA_FLAGS`). Coordinates: ``wavelength`` (nm, float32;
        VIS, NIR1, NIR2 one after the other, hence not monotonic), ``detector``, and per observation ``lat``,
        ``lon`` (degrees, longitude in [-180, 180)), ``incidence``, ``emission``, ``phase``, ``solar_azimuth``
        (degrees), ``altitude`` (km), ``time``, ``orbit``, ``file``.

    Raises
    ------
    InputError
        If nothing matches `paths`, or an argument is not one of those above.
    ProductFormatError
        If a file is truncated, has another or no label, or another level, instrument or target, or is a calibration
        run; also at compute time if a file has been truncated or removed since. With ``errors="skip"`` only if no
        file can be read.

    References
    ----------
    Yamamoto, S., et al., 2011. Preflight and in-flight calibration of the Spectral Profiler on board SELENE
    (Kaguya). IEEE Transactions on Geoscience and Remote Sensing 49, 4660-4676.

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["sp_orbit"].files
    >>> la.open_sp(files).sizes["observation"]
    240
    """
    from dask.base import tokenize

    require_choice("reflectance", reflectance, ("REF1", "REF2"))
    fields = {"reflectance": reflectance, **_VARIABLES}
    if not raw:
        del fields["raw"]
    files = find_products(paths)
    products, skipped = read_all(
        files,
        lambda path: read_product(path, fields, calibration=calibration),
        PRODUCT,
        errors=errors,
        check=_same_wavelengths,
        workers=max_workers,
    )
    warn_skipped(skipped, len(files), PRODUCT)

    first = products[0]
    rows = [p.rows for p in products]
    token = tokenize([(p.file, p.arrays) for p in products], fields)
    sizes = None if chunks is None else _observation_chunks(rows, first.wavelength.size, chunks)
    variables = {}
    for name in fields:
        dtype = "f4" if name in ("reflectance", "radiance") else "u2"
        data = lazy_array(_Reader(products, name, dtype, token), sizes, f"sp-{name}-{token}")
        variables[name] = (("observation", "wavelength"), data, dict(_ATTRS[name]))
    variables["reflectance"][2].update(
        sp_reflectance=reflectance,
        photometric_geometry="30 0 30",
        light="flat",
        comment="incidence, emission, phase (degrees) to which the product's photometric correction refers",
    )
    coords = _coordinates(products)
    return stamp(
        xr.Dataset(variables, coords, _attributes(products, skipped)),
        f"open_sp, {len(products)} products, {reflectance}",
        source=_source(products),
    )


def _coordinates(products: list[Product]) -> dict[str, Any]:
    first, rows = products[0], [p.rows for p in products]
    detector = np.repeat(["VIS", "NIR1", "NIR2"], first.detector_sizes)
    utc = {"standard_name": "time", "long_name": "time of observation (UTC)"}
    orbit = np.repeat(np.array([p.orbit for p in products], "i4"), rows)
    # Objects: every observation of a file refers to one and the same string.
    names = np.array([os.path.basename(p.path) for p in products], object)
    coords: dict[str, Any] = {
        "wavelength": ("wavelength", first.wavelength, WAVELENGTH_ATTRS),
        "detector": ("wavelength", detector, {"long_name": "detector"}),
        "time": ("observation", np.concatenate([p.time for p in products]), utc),
        "orbit": ("observation", orbit, {"long_name": "revolution number"}),
        "file": ("observation", np.repeat(names, rows), {"long_name": "product file"}),
    }
    for name, (_, _, described) in ANCILLARY.items():
        values = np.concatenate([p.ancillary[name] for p in products])
        coords[name] = ("observation", values, described)
    return coords


def _attributes(products: list[Product], skipped: Any) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "mission": "SELENE (KAGUYA)",
        "instrument": "Spectral Profiler (SP)",
        "processing_level": "L2C",
        "product_version": ", ".join(sorted({p.version for p in products})),
    }
    if len(products) == 1:
        attrs["product_id"] = products[0].product_id
    if skipped:
        attrs["skipped_files"] = skipped
    return attrs


def _source(products: list[Product]) -> str:
    ids = [p.product_id for p in products]
    listed = ", ".join(ids) if len(ids) <= 5 else f"{len(ids)} products, {ids[0]} ... {ids[-1]}"
    return f"KAGUYA (SELENE) Spectral Profiler Level 2C: {listed}"
