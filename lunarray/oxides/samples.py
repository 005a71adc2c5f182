"""Training samples: spectra of a cube and oxides of reference maps at the points of a lattice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, GridError, InputError
from lunarray.geo import geobox_of, period_of, pixel_of, project, spatial_dims, wrap_longitude
from lunarray.oxides.constants import OXIDES
from lunarray.sp.api import resample_bands, spectra_of
from lunarray.store.provenance import stamp

#: What became of a point of the lattice, in the order of the steps: the values of the variable `status`.
STATUS = (
    "used",
    "outside_spectra",
    "outside_reference",
    "outside_screen",
    "no_spectrum",
    "no_reference",
    "no_screen",
    "screened_out",
)

#: Samples whose pixels are gathered by one task.
_SAMPLES_A_TASK = 4096


def build_samples(
    cube: xr.Dataset | xr.DataArray | Sequence[Any] | Mapping[str, Any],
    reference: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset],
    *,
    screen: Any = None,
    lon: Any = (-170.0, 170.0, 5.0),
    lat: Any = (51.0, 64.0, 1.0),
    mirror: bool = True,
    spectra_window: int = 2,
    reference_window: int = 17,
    screen_window: int = 2,
    screen_tolerance: float = 0.1,
    screen_oxide: str = "FeO",
    min_spectra: float = 0.25,
    min_reference: float = 0.5,
    oxides: Sequence[str] | None = None,
    reference_std: Mapping[str, float] | None = None,
    wavelengths: Any = None,
) -> xr.Dataset:
    """Pair the spectra of a cube with the oxides of reference maps, at the points of a lattice.

    The maps may lie on different grids and in different projections: nothing is resampled, the windows are taken on
    each map's own pixels. Windows run on across ±180° where a map holds the whole turn, and across a pole. A place that
    the lattice names twice (as -180° and 180°, or a pole at several longitudes) is one sample.

    Parameters
    ----------
    cube : Dataset or DataArray, or several of them
        Reflectance (wavelength, y, x) or (wavelength, lat, lon); of a Dataset the variable ``reflectance``. Of several
        cubes (a sequence or a mapping, say of north and south), a point takes the first that holds it.
    reference : Dataset, or several of them
        Oxides by name in wt%, on (y, x) or (lat, lon).
    screen : Dataset or DataArray, or several of them, optional
        A second map of `screen_oxide`. Points where the two maps disagree are screened out.
    lon, lat : tuple of float or array-like
        A tuple (first, last, step) in degrees, or the values themselves. The defaults are those of [1]_.
    mirror : bool
        Take the latitudes with the other sign as well, after those given.
    spectra_window, reference_window, screen_window : int
        The mean is taken over the nearest window × window pixels of the cube, reference and screening map; of two
        rows or columns equally near, the later.
    screen_tolerance : float
        Greatest |a - b| / min(a, b) of the two abundances a and b; at it, a point is already out.
    screen_oxide : str
        The oxide that is compared.
    min_spectra, min_reference : float
        Least share of the window's pixels that must be valid: `min_spectra` for spectra (all bands finite) and the
        screening map, `min_reference` for the reference. Whatever the share, one pixel must be.
    oxides : sequence of str, optional
        Oxides taken from the reference; all six by default.
    reference_std : mapping of str to float, optional
        Standard deviation of the error that the mean of the reference's window is left with, wt%, for some or all
        oxides: what its makers state, or half of what two references differ by. Intervals of a model trained on the
        samples are then narrower by as much (:func:`lunarray.oxides.uncertainty.calibrate`).
    wavelengths : array-like, optional
        Resample the spectra to these (nm), with :func:`lunarray.sp.resample_bands`; by default they stay as they are.

    Returns
    -------
    Dataset
        On all points of the lattice, lazy where the maps are: ``reflectance`` (sample, wavelength), the oxides
        (sample), ``<oxide>_std`` (sample) where `reference_std` says it, ``<oxide>_screen`` (sample) where there is a
        screen, and ``status`` (sample), 0 where the sample is
        used and else the first step (:data:`STATUS`) at which it was lost; with coordinates ``lon`` and ``lat``. Of
        what lies outside a map or has too few valid pixels, the values are NaN or those of the pixels there are.
        :func:`select_samples` computes it, keeps the used ones and counts the losses.

    Raises
    ------
    InputError
        If oxides are missing, a window, share or tolerance makes no sense, or no point lies on all maps.
    BandMismatchError
        If the cubes have different wavelengths.
    GridError
        If something is not a map, or has no coordinate reference system.
    BodyMismatchError
        If a map is of another body.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 2.2. The window on the screening map is
       not given there; its map is made of SP data, so it is that of the spectra by default.
    """
    for name, window in (
        ("spectra_window", spectra_window),
        ("reference_window", reference_window),
        ("screen_window", screen_window),
    ):
        if not (window >= 1 and float(window).is_integer()):
            raise InputError(f"{window} pixels", where=name, remedy="give a positive integer")
    spectra_window, reference_window = int(spectra_window), int(reference_window)
    screen_window = int(screen_window)
    for name, share in (("min_spectra", min_spectra), ("min_reference", min_reference)):
        if not 0 <= share <= 1:
            raise InputError(f"a share of {share}", where=name, remedy="give 0 to 1")
    # Python's float takes on the float32 of the shares that it is compared with: 0.7 is then not less than 0.7.
    least_spectra, least_reference = max(float(min_spectra), _ANY), max(float(min_reference), _ANY)
    if not screen_tolerance > 0:
        raise InputError(
            f"a tolerance of {screen_tolerance}",
            where="screen_tolerance",
            remedy="give a positive ratio, 0.1 say",
        )
    names = tuple(OXIDES if oxides is None else oxides)
    errors = dict(reference_std or {})
    unknown = sorted(set(errors) - set(names))
    if unknown or not all(0 <= float(value) < np.inf for value in errors.values()):
        raise InputError(
            f"no oxide {', '.join(unknown)}" if unknown else f"not a standard deviation: {errors}",
            where="reference_std",
            remedy=f"give wt% of some of {', '.join(names)}, 0 or more",
        )
    spectra = _cubes(cube, wavelengths)
    maps = _maps(reference, names, "reference")
    second = None if screen is None else _maps(screen, (screen_oxide,), "screen")
    if second is not None and screen_oxide not in names:
        raise InputError(
            f"screening by {screen_oxide}, which is not among the oxides taken",
            where="screen_oxide",
            remedy=f"choose from {', '.join(names)}",
        )

    lons, lats = wrap_longitude(_lattice(lon, "lon")), _lattice(lat, "lat")
    lons, lats = _once(lons), _once(np.concatenate([lats, -lats]) if mirror else lats)
    at_lat, at_lon = (axis.ravel() for axis in np.meshgrid(lats, lons, indexing="ij"))
    distinct = (np.abs(at_lat) < 90) | (at_lon == lons[0])
    at_lat, at_lon = at_lat[distinct], at_lon[distinct]

    places = [_Places(spectra, at_lon, at_lat, spectra_window)]
    places.append(_Places([m[0] for m in maps], at_lon, at_lat, reference_window))
    if second is not None:
        places.append(_Places([m[0] for m in second], at_lon, at_lat, screen_window))
    inside = [place.which >= 0 for place in places]
    if not np.logical_and.reduce(inside).any():
        held = " and ".join(
            f"{int(i.sum())} in {name}"
            for i, name in zip(inside, ("the spectra", "the reference", "the screen"), strict=False)
        )
        raise InputError(
            f"no point of the lattice lies on all maps: of {at_lon.size} points, {held}",
            where="build_samples",
            remedy="check that the maps overlap, and choose lon and lat where they do",
        )

    values, share = places[0].mean([cube.data for cube in spectra])
    result = xr.Dataset(
        coords={
            "wavelength": spectra[0]["wavelength"].variable,
            "lon": ("sample", at_lon, {"units": "degrees_east", "standard_name": "longitude"}),
            "lat": ("sample", at_lat, {"units": "degrees_north", "standard_name": "latitude"}),
        }
    )
    result["reflectance"] = (
        ("sample", "wavelength"),
        values.T,
        {
            "long_name": f"mean reflectance of {spectra_window} × {spectra_window} pixels",
            "units": "1",
        },
    )
    lost = [
        np.zeros(at_lon.size, bool),
        ~inside[0],
        ~inside[1],
        np.zeros(at_lon.size, bool) if second is None else ~inside[2],
        share < least_spectra,
    ]
    missing: Any = np.zeros(at_lon.size, bool)
    for index, oxide in enumerate(names):
        values, share = places[1].mean([m[index].data for m in maps])
        missing = missing | (share < least_reference)
        result[oxide] = (
            "sample",
            values[0],
            {
                "long_name": f"mean {oxide} of {reference_window} × {reference_window} pixels",
                "units": "wt%",
            },
        )
    for oxide, value in errors.items():
        result[f"{oxide}_std"] = (
            "sample",
            np.full(at_lon.size, value, np.float32),
            {"long_name": f"standard deviation of the reference's {oxide}", "units": "wt%"},
        )
    lost.append(missing)
    if second is not None:
        values, share = places[2].mean([m[0].data for m in second])
        result[f"{screen_oxide}_screen"] = (
            "sample",
            values[0],
            {"long_name": f"{screen_oxide} of the second map", "units": "wt%"},
        )
        lost.append(share < least_spectra)
        lost.append(_disagree(result[screen_oxide].data, values[0], float(screen_tolerance)))
    status: Any = np.zeros(at_lon.size, np.uint8)
    for step in range(len(lost) - 1, 0, -1):
        where = da.where if any(map(dask.is_dask_collection, (status, lost[step]))) else np.where
        status = where(lost[step], np.uint8(step), status)
    result["status"] = (
        "sample",
        status,
        {
            "long_name": "0 where the sample is used, else the step at which it was lost",
            "units": "1",
            "flag_values": np.arange(len(STATUS), dtype=np.uint8),
            "flag_meanings": " ".join(STATUS),
        },
    )
    result.attrs["lattice_points"] = int(at_lon.size)
    return stamp(
        result,
        f"build_samples(spectra_window={spectra_window}, reference_window={reference_window}, "
        f"screen={'none' if second is None else screen_tolerance})",
    )


#: A share so small that one pixel is more, so that at least one is needed.
_ANY = 1e-9


def select_samples(samples: xr.Dataset) -> xr.Dataset:
    """Compute samples and keep those that can be used.

    Parameters
    ----------
    samples : Dataset
        As of :func:`build_samples`, or any with ``reflectance`` (sample, wavelength) and oxides (sample).

    Returns
    -------
    Dataset
        In memory, without ``status``: the samples that are used by it, whose spectrum and oxides are finite. Its
        attributes count: ``lattice_points``, ``lost_<step>`` for every step of :data:`STATUS` (where there was a
        ``status``), ``lost_not_finite`` for what was dropped besides, and ``samples``, what is left. Selecting again
        changes nothing.

    Raises
    ------
    InputError
        If none is left, or there are no spectra.
    """
    spectra = _sampled(samples, "select_samples")
    if samples["reflectance"].dims != spectra.dims:
        samples = samples.assign(reflectance=spectra)
    (result,) = dask.compute(samples)
    total = result.sizes["sample"]
    counts = {"lattice_points": int(result.attrs.get("lattice_points", total))}
    if "status" in result:
        states = np.bincount(result["status"].values, minlength=len(STATUS))
        counts |= {f"lost_{name}": int(states[i]) for i, name in enumerate(STATUS) if i}
        result = result.isel(sample=result["status"].values == 0).drop_vars("status")
    keep = np.isfinite(result["reflectance"].values).all(axis=1)
    for oxide in OXIDES:
        if oxide in result:
            keep &= np.isfinite(result[oxide].values)
    if not keep.all():
        before = int(result.attrs.get("lost_not_finite", 0))
        counts["lost_not_finite"] = before + int((~keep).sum())
        result = result.isel(sample=keep)
    if result.sizes["sample"] == 0:
        why = ", ".join(
            f"{n} {name.removeprefix('lost_')}"
            for name, n in counts.items()
            if name.startswith("lost_") and n
        )
        raise InputError(
            f"no usable sample is left of {total}" + (f" ({why})" if why else ""),
            where="samples",
            remedy="check the maps for missing data, or loosen min_spectra, min_reference or screen_tolerance",
        )
    return result.assign_attrs({**counts, "samples": int(result.sizes["sample"])})


def band_correlation(samples: xr.Dataset, *, oxides: Sequence[str] | None = None) -> xr.DataArray:
    """Correlate the reflectance of every band with the abundance of every oxide.

    Parameters
    ----------
    samples : Dataset
        ``reflectance`` (sample, wavelength) and oxides (sample); samples whose ``status`` is not 0 are left out.
    oxides : sequence of str, optional
        By default those of the six that are there.

    Returns
    -------
    DataArray
        Pearson's R (oxide, wavelength), float32, lazy where the samples are. Each R is of the samples in which both
        are finite; NaN where these are fewer than two, or the band or the oxide is the same in all of them.

    Raises
    ------
    InputError
        If these are not samples, or an oxide is missing.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, equation 1 and figure 2.
    """
    reflectance = _sampled(samples, "band_correlation")
    names = oxides_of(samples, oxides, "band_correlation")
    x = reflectance.data
    y = [samples[oxide].data for oxide in names]
    status = samples["status"].data if "status" in samples else np.zeros(x.shape[0], np.uint8)
    if any(map(dask.is_dask_collection, (x, status, *y))):
        whole = [
            da.asarray(a).rechunk(-1) for a in (x, da.stack([da.asarray(a) for a in y]), status)
        ]
        data: Any = da.blockwise(
            _pearson,
            "ob",
            whole[0],
            "sb",
            whole[1],
            "os",
            whole[2],
            "s",
            concatenate=True,
            dtype=np.float32,
            meta=np.empty((0, 0), np.float32),
        )
    else:
        data = _pearson(x, np.stack(y), status)
    return xr.DataArray(
        data,
        {"oxide": list(names), "wavelength": reflectance["wavelength"]},
        ("oxide", "wavelength"),
        "R",
        {"long_name": "Pearson correlation of reflectance and abundance", "units": "1"},
    )


def _sampled(samples: Any, where: str) -> xr.DataArray:
    """Spectra of samples as (sample, wavelength)."""
    if not isinstance(samples, xr.Dataset):
        raise InputError(
            f"a {type(samples).__name__} is not a Dataset",
            where=where,
            remedy="give samples with spectra and oxides (build_samples)",
        )
    spectra = spectra_of(samples, where)
    if set(spectra.dims) != {"sample", "wavelength"}:
        raise InputError(
            f"the reflectance has dimensions {tuple(map(str, spectra.dims))}, not ('sample', 'wavelength')",
            where=where,
            remedy="take samples from maps first (build_samples), or name the dimension 'sample'",
        )
    return spectra.transpose("sample", "wavelength")


def oxides_of(samples: xr.Dataset, oxides: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Choose the oxides to work on: those asked for, which must be there, or those that are."""
    names = (
        tuple(oxide for oxide in OXIDES if oxide in samples) if oxides is None else tuple(oxides)
    )
    missing = [oxide for oxide in names if oxide not in samples]
    if missing or not names:
        raise InputError(
            f"no variable {' and '.join(missing) or ' or '.join(OXIDES)}",
            where=where,
            remedy="give samples with the oxides by name (build_samples)",
        )
    return names


def _pearson(x: np.ndarray, y: np.ndarray, status: np.ndarray) -> np.ndarray:
    """R of bands (sample, band) with oxides (oxide, sample), shape (oxide, band), over pairs that are finite."""
    used = status == 0
    x, y = x[used].astype(np.float64), y[:, used].astype(np.float64)
    return np.stack([_pearson_columns(x, column) for column in y]).astype(np.float32)


def _pearson_columns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """R of the columns of x (sample, band) with y (sample); in two passes, since pairs differ from band to band."""
    pairs = np.isfinite(x) & np.isfinite(y)[:, None]
    n = pairs.sum(axis=0)

    def about_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not pairs.shape[0]:
            return np.zeros(pairs.shape), np.zeros(n.size, bool)
        least = np.where(pairs, values, np.inf).min(axis=0)
        # A constant is told by its range: rounding in the mean leaves it some variance.
        varies = np.where(pairs, values, -np.inf).max(axis=0) > least
        mean = np.where(pairs, values, 0.0).sum(axis=0) / np.maximum(n, 1)
        return np.where(pairs, values - mean, 0.0), varies

    with np.errstate(invalid="ignore"):  # inf in what is left out
        (dx, x_varies), (dy, y_varies) = about_mean(x), about_mean(y[:, None])
    size = np.sqrt((dx**2).sum(axis=0)) * np.sqrt((dy**2).sum(axis=0))
    r = (dx * dy).sum(axis=0) / np.where(size > 0, size, 1.0)
    return np.where(x_varies & y_varies & (size > 0), np.clip(r, -1, 1), np.nan)


# --- Maps and windows -----------------------------------------------------------------------------


def _several(given: Any) -> list[Any]:
    if isinstance(given, xr.Dataset | xr.DataArray):
        return [given]
    if isinstance(given, Mapping):
        return list(given.values())
    if isinstance(given, list | tuple):
        return list(given)
    raise InputError(
        f"a {type(given).__name__} is neither a map nor several",
        where="build_samples",
        remedy="give a Dataset or DataArray, or a list or dict of them",
    )


def _on_grid(obj: xr.DataArray, *before: str) -> xr.DataArray:
    """Put the dimensions in order: those of the grid last."""
    geobox_of(obj)  # it has one
    dims = (*before, *(spatial_dims(obj) or ()))
    if set(obj.dims) != set(dims):
        raise GridError(
            f"it has dimensions {tuple(map(str, obj.dims))} instead of {dims}",
            where=str(obj.name or "map"),
            remedy="select one of what is more: .isel(...)",
        )
    return obj.transpose(*dims)


def _cubes(given: Any, wavelengths: Any) -> list[xr.DataArray]:
    """Cubes as (wavelength, row, column), all at the same wavelengths."""
    cubes = []
    for obj in _several(given):
        spectra = spectra_of(obj, "build_samples")
        if wavelengths is not None:
            spectra = resample_bands(spectra, wavelengths)
        cubes.append(_on_grid(spectra, "wavelength"))
    if not cubes:
        raise InputError("no cube", where="cube", remedy="give one cube or several")
    first = cubes[0]["wavelength"].values
    for cube in cubes[1:]:
        other = cube["wavelength"].values
        if other.shape != first.shape or not np.allclose(other, first, atol=0.1):
            raise BandMismatchError(
                f"cubes of {first.size} and {other.size} bands, or at other wavelengths",
                where="cube",
                remedy="bring them to the same: wavelengths=lunarray.sp.WAVELENGTHS_150",
            )
    return cubes


def _maps(given: Any, names: Sequence[str], where: str) -> list[list[xr.DataArray]]:
    """For each map its oxides, as (row, column)."""
    result = []
    for obj in _several(given):
        if isinstance(obj, xr.DataArray):
            if "oxide" in obj.coords and "oxide" in obj.dims:
                obj = obj.to_dataset("oxide")
            elif len(names) == 1:
                obj = obj.to_dataset(name=names[0])
        if not isinstance(obj, xr.Dataset):
            raise InputError(
                f"a {type(obj).__name__} does not tell the oxides",
                where=where,
                remedy="give a Dataset of oxides by name, or a DataArray with coordinate 'oxide'",
            )
        missing = [name for name in names if name not in obj]
        if missing:
            raise InputError(
                f"no variable {' and '.join(missing)} (it has {', '.join(map(str, obj.data_vars)) or 'none'})",
                where=where,
                remedy="name the maps by oxide, or take fewer: oxides=(...)",
            )
        result.append([_on_grid(obj[name]) for name in names])
    if not result:
        raise InputError("no map", where=where, remedy="give one Dataset or several")
    return result


def _lattice(given: Any, name: str) -> np.ndarray:
    if isinstance(given, tuple) and len(given) == 3:
        first, last, step = map(float, given)
        if not (np.isfinite([first, last, step]).all() and step > 0 and last >= first):
            raise InputError(f"{given}", where=name, remedy="give (first, last, step)")
        values = first + step * np.arange(int(np.floor((last - first) / step + 1e-9)) + 1)
    else:
        values = np.atleast_1d(np.asarray(given, np.float64)).ravel()
    if (
        values.size == 0
        or not np.isfinite(values).all()
        or (name == "lat" and np.abs(values).max() > 90)
    ):
        raise InputError(
            f"{values.size} values that do not make sense", where=name, remedy="give degrees"
        )
    return values


def _once(values: np.ndarray) -> np.ndarray:
    """Each value where it comes first."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


class _Places:
    """The pixels of one or several maps that make up the window about each point.

    Attributes
    ----------
    which : ndarray, shape (sample,)
        Map that holds the point; -1 for none.
    rows, columns : ndarray, shape (sample, pixel)
        Pixels of that map; -1 where the window is beyond its edge.
    """

    def __init__(self, maps: Sequence[Any], lon: np.ndarray, lat: np.ndarray, window: int) -> None:
        self.which = np.full(lon.size, -1)
        self.rows = np.full((lon.size, window * window), -1)
        self.columns = self.rows.copy()
        for index, obj in enumerate(maps):
            geobox = geobox_of(obj)
            open_ = self.which < 0
            held = open_ & (pixel_of(geobox, lon, lat)[0] >= 0)
            if held.any():
                self.which[held] = index
                self.rows[held], self.columns[held] = _window(geobox, lon[held], lat[held], window)

    def mean(self, arrays: Sequence[Any]) -> tuple[Any, Any]:
        """Mean of the valid pixels, shape (band, sample), float32, and their share (sample)."""
        flat = [a if a.ndim == 3 else a[None] for a in arrays]
        if any(map(dask.is_dask_collection, flat)):
            result: Any = self._mean_lazy([da.asarray(a) for a in flat])
        else:
            parts, slots = [], []
            for index, array in enumerate(flat):
                slot = np.flatnonzero(((self.which == index)[:, None] & (self.rows >= 0)).ravel())
                slots.append(slot)
                parts.append(_pick(array, self.rows.ravel()[slot], self.columns.ravel()[slot]))
            result = _mean(self.rows.shape, flat[0].shape[0], slots, parts)
        return result[:-1], result[-1]

    def _mean_lazy(self, arrays: Sequence[da.Array]) -> da.Array:
        """One small task a block that is touched, so that a block is let go before the next is read."""
        pick, mean = dask.delayed(_pick, pure=True), dask.delayed(_mean, pure=True)
        bands = arrays[0].shape[0]
        blocks = []
        for array in arrays:
            whole = array.rechunk({0: -1})
            edges = [np.concatenate([[0], np.cumsum(c)]) for c in whole.chunks[1:]]
            blocks.append((whole.to_delayed(optimize_graph=False)[0], edges))
        results = []
        for start in range(0, len(self.which), _SAMPLES_A_TASK):
            part = slice(start, start + _SAMPLES_A_TASK)
            rows, columns = self.rows[part].ravel(), self.columns[part].ravel()
            which = np.repeat(self.which[part], self.rows.shape[1])
            parts, slots = [], []
            for index, (delayed, (y, x)) in enumerate(blocks):
                slot = np.flatnonzero((which == index) & (rows >= 0))
                i = np.searchsorted(y, rows[slot], "right") - 1
                j = np.searchsorted(x, columns[slot], "right") - 1
                block = i * (len(x) - 1) + j
                order = np.argsort(block, kind="stable")
                for group in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
                    if group.size:
                        a, b = i[group[0]], j[group[0]]
                        here = slot[group]
                        parts.append(pick(delayed[a, b], rows[here] - y[a], columns[here] - x[b]))
                        slots.append(here)
            size = len(self.which[part])
            shape = (size, self.rows.shape[1])
            results.append(
                da.from_delayed(
                    mean(shape, bands, slots, parts),
                    (bands + 1, size),
                    dtype=np.float32,
                    meta=np.empty((0, 0), np.float32),
                )
            )
        return da.concatenate(results, axis=1)


def _pick(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.asarray(block)[:, rows, columns].astype(np.float32)


def _mean(
    shape: tuple[int, int], bands: int, slots: Sequence[np.ndarray], parts: Sequence[np.ndarray]
) -> np.ndarray:
    """Means of the pixels of each window that are valid in all bands, then the share of these, (band + 1, sample)."""
    pixels = np.full((bands, shape[0] * shape[1]), np.nan, np.float32)
    for slot, part in zip(slots, parts, strict=True):
        pixels[:, slot] = part
    valid = np.isfinite(pixels).all(axis=0)
    pixels[:, ~valid] = 0
    count = valid.reshape(shape).sum(axis=1)
    result = np.empty((bands + 1, shape[0]), np.float32)
    total = pixels.reshape(bands, *shape).sum(axis=2, dtype=np.float64)
    result[:-1] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    result[-1] = count / shape[1]
    return result


def _window(
    geobox: Any, lon: np.ndarray, lat: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the `window` × `window` pixels nearest to each point, -1 beyond the map's edge."""
    row, column = project(geobox, lon, lat)
    height, width = geobox.shape
    offsets = np.arange(window)
    first = [np.floor(p - window / 2 + 0.5).astype(np.int64) for p in (row, column)]
    rows, columns = np.broadcast_arrays(
        (first[0][:, None] + offsets)[:, :, None], (first[1][:, None] + offsets)[:, None, :]
    )
    rows, columns = rows.reshape(lon.size, -1).copy(), columns.reshape(lon.size, -1).copy()
    # Pixels in a turn of longitude; a map may overhang it by parts of pixels.
    period = period_of(_pyproj(geobox.crs))
    turn = 0 if period is None else round(period / abs(geobox.transform.a))
    if 0 < turn <= width:
        for pole in (90.0, -90.0):
            # Beyond a pole the meridian goes on as that at 180° from it.
            at = project(geobox, 0.0, pole)[0][0]
            if -0.5 < at < 1.5:
                over = rows + 0.5 < at
            elif height - 1.5 < at < height + 0.5:
                over = rows + 0.5 > at
            else:  # not on the map, or at infinity
                continue
            rows[over] = round(2 * at) - 1 - rows[over]
            columns[over] += turn // 2
        columns[columns < 0] += turn
        columns[columns >= width] -= turn
    bad = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    rows[bad] = columns[bad] = -1
    return rows, columns


def _pyproj(crs: Any) -> Any:
    from lunarray.geo import moon_crs

    return moon_crs(crs)


def _disagree(a: Any, b: Any, tolerance: float) -> Any:
    """Where two maps differ by `tolerance` of the lesser or more, as they do where that is not positive."""
    # NaN is dealt with by the steps before.
    return ~(abs(a - b) < np.float32(tolerance) * np.minimum(a, b))
