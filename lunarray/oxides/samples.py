"""Training samples: spectra of a cube and oxides of reference maps at the points of a lattice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, GridError, InputError, require_number
from lunarray.geo import geobox_of, spatial_dims
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.lattice import Places, lattice_points
from lunarray.sp import spectra_of
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT

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

#: A share so small that one pixel is more, so that at least one is needed.
_ANY = 1e-9


@dataclass(frozen=True)
class Screen:
    """A second map, against which samples are screened: points where it disagrees with the reference are left out.

    Attributes
    ----------
    maps : Dataset or DataArray, or several of them
        The oxide in wt%, on (y, x) or (lat, lon).
    oxide : str
        The oxide that is compared.
    window : int
        The mean is taken over the nearest window × window pixels.
    tolerance : float
        Greatest ``|a - b| / min(a, b)`` of the two abundances a and b; at it, a point is already out.

    Raises
    ------
    InputError
        If the window or the tolerance makes no sense.

    Examples
    --------
    >>> import lunarray as la
    >>> la.oxides.Screen(None).oxide
    'FeO'
    """

    maps: Any
    oxide: str = "FeO"
    window: int = 2
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        _whole(self.window, "window")
        require_number("tolerance", self.tolerance, 0, strictly=True)


@typed
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
    min_spectra: float = 0.25,
    min_reference: float = 0.5,
    oxides: Sequence[str] | None = None,
    reference_std: Mapping[str, float] | None = None,
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
    screen : Screen, Dataset or DataArray, or several maps, optional
        A second map of FeO, or a :class:`Screen` with another oxide, window or tolerance. Points where the two maps
        disagree are screened out.
    lon, lat : tuple of float or array-like
        A tuple (first, last, step) in degrees, or the values themselves. The defaults are those of [1]_.
    mirror : bool
        Take the latitudes with the other sign as well, after those given.
    spectra_window, reference_window : int
        The mean is taken over the nearest window × window pixels of the cube and the reference; of two rows or columns
        equally near, the later.
    min_spectra, min_reference : float
        Least share of the window's pixels that must be valid: `min_spectra` for spectra (all bands finite) and the
        screening map, `min_reference` for the reference. Whatever the share, one pixel must be.
    oxides : sequence of str, optional
        Oxides taken from the reference; all six by default.
    reference_std : mapping of str to float, optional
        Standard deviation of the error that the mean of the reference's window is left with, wt%, for some or all
        oxides: what its makers state, or half of what two references differ by. Intervals of a model trained on the
        samples are then narrower by as much (:func:`lunarray.oxides.uncertainty.calibrate`).

    Returns
    -------
    Dataset
        On all points of the lattice, lazy where the maps are: ``reflectance`` (sample, wavelength), the oxides
        (sample), ``<oxide>_std`` (sample) where `reference_std` says it, ``<oxide>_screen`` (sample) where there is a
        screen, and ``status`` (sample), 0 where the sample is used and else the first step (:data:`STATUS`) at which it
        was lost; with coordinates ``lon`` and ``lat``. Of what lies outside a map or has too few valid pixels, the
        values are NaN or those of the pixels there are. :func:`select_samples` computes it, keeps the used ones and
        counts the losses.

    Raises
    ------
    InputError
        If oxides are missing, a window or share makes no sense, or no point lies on all maps.
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

    Examples
    --------
    >>> import lunarray as la
    >>> globe = la.simulate.moon(resolution=30_000)
    >>> cubes, where = [globe.north, globe.south], {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples(cubes, globe.reference, **where)
    >>> sorted(samples.sizes)
    ['sample', 'wavelength']
    """
    names = tuple(OXIDES if oxides is None else oxides)
    given = _Maps(
        _cubes(cube),
        _maps(reference, names, "reference"),
        screen if screen is None or isinstance(screen, Screen) else Screen(screen),
        (_whole(spectra_window, "spectra_window"), _whole(reference_window, "reference_window")),
        (_share(min_spectra, "min_spectra"), _share(min_reference, "min_reference")),
    )
    errors = _reference_errors(reference_std, names)
    result = given.at(*lattice_points(lon, lat, mirror), names)
    for oxide, value in errors.items():
        text = f"standard deviation of the reference's {oxide}"
        values = np.full(result.sizes["sample"], value, np.float32)
        result[f"{oxide}_std"] = _of_samples(values, text)
    return stamp(
        result,
        f"build_samples(spectra_window={spectra_window}, reference_window={reference_window}, "
        f"screen={'none' if given.screen is None else given.screen.tolerance})",
    )


class _Maps(NamedTuple):
    """What samples are taken from: windows and least shares are those of spectra and reference."""

    spectra: list[xr.DataArray]
    reference: list[list[xr.DataArray]]
    screen: Screen | None
    windows: tuple[int, int]
    least: tuple[float, float]

    def at(self, lon: np.ndarray, lat: np.ndarray, names: Sequence[str]) -> xr.Dataset:
        """Samples at some points, without the reference's errors."""
        screen = self.screen
        second = [] if screen is None else _screens(screen, names)
        wanted = [
            (self.spectra, self.windows[0]),
            ([m[0] for m in self.reference], self.windows[1]),
        ]
        if screen is not None:
            wanted.append((second, _whole(screen.window, "window")))
        places = [Places(maps, lon, lat, window) for maps, window in wanted]
        inside = [place.which >= 0 for place in places]
        _require_overlap(inside)

        coords = {
            "wavelength": self.spectra[0]["wavelength"].variable,
            "lon": ("sample", lon, {"units": "degrees_east", "standard_name": "longitude"}),
            "lat": ("sample", lat, {"units": "degrees_north", "standard_name": "latitude"}),
        }
        result = xr.Dataset(coords=coords, attrs={"lattice_points": int(lon.size)})
        own, theirs = (f"{window} × {window} pixels" for window in self.windows)
        values, share = places[0].mean([cube.data for cube in self.spectra])
        result["reflectance"] = _of_samples(values.T, f"mean reflectance of {own}", "1")
        lost = {"outside_spectra": ~inside[0], "outside_reference": ~inside[1]}
        lost["no_spectrum"] = share < self.least[0]
        missing: Any = np.zeros(lon.size, bool)
        for index, oxide in enumerate(names):
            values, share = places[1].mean([m[index].data for m in self.reference])
            missing = missing | (share < self.least[1])
            result[oxide] = _of_samples(values[0], f"mean {oxide} of {theirs}")
        lost["no_reference"] = missing
        if screen is not None:
            name = screen.oxide
            values, share = places[2].mean([m.data for m in second])
            result[f"{name}_screen"] = _of_samples(values[0], f"{name} of the second map")
            lost["outside_screen"] = ~inside[2]
            lost["no_screen"] = share < self.least[0]
            lost["screened_out"] = _disagree(result[name].data, values[0], screen.tolerance)
        result["status"] = _status(lost, lon.size)
        return result


@typed
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

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> "sample" in la.oxides.select_samples(samples).sizes
    True
    """
    spectra = sampled_spectra(samples, "select_samples")
    if samples["reflectance"].dims != spectra.dims:
        samples = samples.assign(reflectance=spectra)
    result = samples.compute()
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
            remedy="Check the maps for missing data, or loosen min_spectra, min_reference or the screen's tolerance",
        )
    return result.assign_attrs({**counts, "samples": int(result.sizes["sample"])})


def sampled_spectra(samples: Any, where: str) -> xr.DataArray:
    """Spectra of samples as (sample, wavelength)."""
    if not isinstance(samples, xr.Dataset):
        raise InputError(
            f"a {type(samples).__name__} is not a Dataset",
            where=where,
            remedy="Give samples with spectra and oxides (build_samples)",
        )
    spectra = spectra_of(samples, where)
    if set(spectra.dims) != {"sample", "wavelength"}:
        raise InputError(
            f"the reflectance has dimensions {tuple(map(str, spectra.dims))}, not ('sample', 'wavelength')",
            where=where,
            remedy="Take samples from maps first (build_samples), or name the dimension 'sample'",
        )
    return spectra.transpose("sample", "wavelength")


def _whole(window: float, name: str) -> int:
    require_number(name, window, 1, whole=True)
    return int(window)


def _share(share: float, name: str) -> float:
    """The least share of valid pixels, so that one is needed at least."""
    require_number(name, share, 0, 1)
    # Python's float takes on the float32 of the shares that it is compared with: 0.7 is then not less than 0.7.
    return max(float(share), _ANY)


def _reference_errors(given: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    errors = dict(given or {})
    unknown = sorted(set(errors) - set(names))
    if unknown or not all(0 <= float(value) < np.inf for value in errors.values()):
        raise InputError(
            f"no oxide {', '.join(unknown)}" if unknown else f"not a standard deviation: {errors}",
            where="reference_std",
            remedy=f"Give wt% of some of {', '.join(names)}, 0 or more",
        )
    return errors


def _screens(screen: Screen, names: Sequence[str]) -> list[xr.DataArray]:
    """Maps of the oxide that is compared."""
    maps = [own[0] for own in _maps(screen.maps, (screen.oxide,), "screen")]
    if screen.oxide not in names:
        raise InputError(
            f"screening by {screen.oxide}, which is not among the oxides taken",
            where="screen",
            remedy=f"Choose from {', '.join(names)}",
        )
    return maps


def _require_overlap(inside: Sequence[np.ndarray]) -> None:
    if np.logical_and.reduce(inside).any():
        return
    names = ("the spectra", "the reference", "the screen")
    held = " and ".join(f"{int(i.sum())} in {name}" for i, name in zip(inside, names, strict=False))
    raise InputError(
        f"no point of the lattice lies on all maps: of {inside[0].size} points, {held}",
        where="build_samples",
        remedy="Check that the maps overlap, and choose lon and lat where they do",
    )


def _of_samples(values: Any, long_name: str, units: str = WEIGHT) -> tuple[Any, ...]:
    dims = ("sample", "wavelength")[: values.ndim]
    return dims, values, {"long_name": long_name, "units": units}


def _status(lost: Mapping[str, Any], count: int) -> tuple[Any, ...]:
    """The first step of :data:`STATUS` at which each sample was lost, 0 for none."""
    status: Any = np.zeros(count, np.uint8)
    for step in range(len(STATUS) - 1, 0, -1):
        if STATUS[step] in lost:
            here = lost[STATUS[step]]
            where = da.where if any(map(dask.is_dask_collection, (status, here))) else np.where
            status = where(here, np.uint8(step), status)
    attrs = {
        "long_name": "0 where the sample is used, else the step at which it was lost",
        "units": "1",
        "flag_values": np.arange(len(STATUS), dtype=np.uint8),
        "flag_meanings": " ".join(STATUS),
    }
    return "sample", status, attrs


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
        remedy="Give a Dataset or DataArray, or a list or dict of them",
    )


def _on_grid(obj: xr.DataArray, *before: str) -> xr.DataArray:
    """Put the dimensions in order: those of the grid last."""
    geobox_of(obj)  # it has one
    dims = (*before, *(spatial_dims(obj) or ()))
    if set(obj.dims) != set(dims):
        raise GridError(
            f"it has dimensions {tuple(map(str, obj.dims))} instead of {dims}",
            where=str(obj.name or "map"),
            remedy="Select one of what is more: .isel(...)",
        )
    return obj.transpose(*dims)


def _cubes(given: Any) -> list[xr.DataArray]:
    """Cubes as (wavelength, row, column), all at the same wavelengths."""
    cubes = [_on_grid(spectra_of(obj, "build_samples"), "wavelength") for obj in _several(given)]
    if not cubes:
        raise InputError("no cube", where="cube", remedy="Give one cube or several")
    first = cubes[0]["wavelength"].values
    for cube in cubes[1:]:
        other = cube["wavelength"].values
        if other.shape != first.shape or not np.allclose(other, first, atol=0.1):
            raise BandMismatchError(
                f"cubes of {first.size} and {other.size} bands, or at other wavelengths",
                where="cube",
                remedy="Bring them to the same: .lunar.resample_bands(lunarray.sp.WAVELENGTHS_150)",
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
                remedy="Give a Dataset of oxides by name, or a DataArray with coordinate 'oxide'",
            )
        missing = [name for name in names if name not in obj]
        if missing:
            raise InputError(
                f"no variable {' and '.join(missing)} (it has {', '.join(map(str, obj.data_vars)) or 'none'})",
                where=where,
                remedy="Name the maps by oxide, or take fewer: oxides=(...)",
            )
        result.append([_on_grid(obj[name]) for name in names])
    if not result:
        raise InputError("no map", where=where, remedy="Give one Dataset or several")
    return result


def _disagree(a: Any, b: Any, tolerance: float) -> Any:
    """Where two maps differ by `tolerance` of the lesser or more, as they do where that is not positive."""
    # NaN is dealt with by the steps before.
    return ~(abs(a - b) < np.float32(float(tolerance)) * np.minimum(a, b))
