"""CLASS spectra of a surface of known composition, under a flare, along an orbit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.geo import RADIUS, lonlat_of, unit_vectors
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.constants import CLASS_FIELD_DEG, ELEMENTS
from lunarray.xrf.frames import described

if TYPE_CHECKING:
    from lunarray.xrf.atomic import AtomicTables
    from lunarray.xrf.response import Response

#: Gravitational parameter (km³/s²), rotation and synodic periods (s) of the Moon.
_GM = 4902.800
_ROTATION = 27.321661 * 86400.0
_SYNODIC = 29.530589 * 86400.0
_RADIUS_KM = RADIUS / 1e3


@typed
def thermal_spectrum(temperature: float = 1.2, goes_flux: float = 1e-5) -> xr.Dataset:
    """A flare's continuum: thermal bremsstrahlung of one temperature, without lines.

    Parameters
    ----------
    temperature : float
        keV.
    goes_flux : float
        Energy flux at 1-8 Å (W/m²), by which flares are classed: 1e-6 is C1, 1e-5 M1.

    Returns
    -------
    xarray.Dataset
        As :func:`lunarray.xrf.read_solar_model` gives it, 3000 bins of 10 eV from 0.1 keV.

    Examples
    --------
    >>> import lunarray as la
    >>> la.simulate.thermal_spectrum(1.2, 1e-5).sizes["energy"] > 100
    True
    """
    from lunarray.xrf.xsm import goes_flux as flux_of
    from lunarray.xrf.xsm import solar_dataset

    edges = 0.1 + 0.01 * np.arange(3001)
    energy = (edges[:-1] + edges[1:]) / 2
    # Free-free photon spectrum with a Gaunt factor of (kT/E)^0.4 (Dennis, 1985).
    shape = energy**-1.4 * np.exp(-energy / temperature)
    flux = shape * (goes_flux / flux_of(edges, shape))
    return stamp(
        solar_dataset(edges, flux), f"thermal_spectrum(kT={temperature:g} keV)", source="simulated"
    )


@typed
def mistaken_sun(solar: xr.Dataset, temperature: float = 0.2) -> xr.Dataset:
    """Give the solar spectrum that one would assume if its temperature were wrong.

    Parameters
    ----------
    solar : Dataset
        The true Sun: ``photon_flux`` (..., energy).
    temperature : float
        By which share the temperature is taken too high; negative where it is too low.

    Returns
    -------
    Dataset
        `solar` with another ``photon_flux`` of the same energy flux at 1-8 Å, and the truth beside it as
        ``photon_flux_true``.

    Examples
    --------
    >>> from lunarray.simulate import mistaken_sun, thermal_spectrum
    >>> from lunarray.xrf.suns import sun_modes
    >>> round(float(sun_modes(mistaken_sun(thermal_spectrum(1.0), 0.2))["slope_temperature"]), 2)
    1.2
    """
    from lunarray.xrf.suns import heated

    require_number("temperature", temperature, -1, strictly=True)
    true = solar["photon_flux"]
    wrong = solar.assign(photon_flux=heated(solar, temperature), photon_flux_true=true)
    return stamp(wrong, f"mistaken_sun({temperature:g})", source=solar.attrs.get("source"))


def flare_profile(time: Any, peak: Any, *, rise: float = 120.0, decay: float = 900.0) -> np.ndarray:
    """Simulate the light curve of a flare: a rise and an exponential decay.

    Parameters
    ----------
    time : array_like of datetime64
    peak : datetime64
    rise, decay : float
        Time scales of the (Gaussian) rise and of the decay (s).

    Returns
    -------
    ndarray
        1 at the peak.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> time = np.array(["2024-01-23T03:30", "2024-01-23T03:45"], "M8[ns]")
    >>> la.simulate.flare_profile(time, time[0]).round(2)
    array([1.  , 0.37])
    """
    dt = (np.asarray(time, "M8[ns]") - np.datetime64(peak, "ns")) / np.timedelta64(1, "s")
    return np.where(dt < 0, np.exp(-0.5 * (dt / rise) ** 2), np.exp(-np.maximum(dt, 0) / decay))


def class_response(
    channels: int = 1024, *, energies: int = 1500, max_area: float = 30.0, fwhm: float = 0.12
) -> Response:
    """Simulate a response like that of CLASS, for when the real one is not at hand.

    Parameters
    ----------
    channels : int
        On 0-27.648 keV.
    energies : int
        Photon energy bins of 10 eV from 0.1 keV.
    max_area : float
        cm².
    fwhm : float
        Resolution at 1.5 keV (keV); its square grows with energy (Fano).

    Returns
    -------
    Response

    Examples
    --------
    >>> import lunarray as la
    >>> la.simulate.class_response(2048, fwhm=0.14).channels
    2048
    """
    from scipy.special import ndtr

    from lunarray.xrf.response import Response

    low = 0.1 + 0.01 * np.arange(energies)
    high = low + 0.01
    energy = (low + high) / 2
    # Aluminised filters close the low energies, the thin depletion layer the high ones.
    area = max_area * np.exp(-((0.9 / energy) ** 3)) / (1.0 + (energy / 7.0) ** 3)
    edges = 27.648 / channels * np.arange(channels + 1)
    sigma = np.sqrt((fwhm / 2.3548) ** 2 + 0.115 * 0.00365 * (energy - 1.5).clip(-1.4))
    row, channel, value = [0], [], []
    for e, s in zip(energy, sigma, strict=True):
        a, b = np.searchsorted(edges, [e - 5 * s, e + 5 * s]) - 1
        a, b = max(int(a), 0), min(int(b) + 1, channels)
        share = np.diff(ndtr((edges[a : b + 1] - e) / s))
        channel.append(np.arange(a, b))
        value.append(share)
        row.append(row[-1] + share.size)
    return Response(
        energy_lo=low,
        energy_hi=high,
        area=area,
        row=np.array(row),
        channel=np.concatenate(channel),
        value=np.concatenate(value),
        channel_lo=edges[:-1],
        channel_hi=edges[1:],
        area_energy=energy,
        area_curve=area,
    )


@typed
def class_orbit(
    start: Any = "2021-08-27T21:00:00",
    frames: int = 100,
    *,
    frame_seconds: float = 8.0,
    altitude: float = 100.0,
    inclination: float = 90.0,
    first_latitude: float = -10.0,
    node_longitude: float = 0.0,
    subsolar_longitude: float = 0.0,
    subsolar_latitude: float = 0.0,
) -> xr.Dataset:
    """Simulate the coordinates of CLASS frames along a circular orbit, looking straight down.

    Parameters
    ----------
    start : datetime64 or str
        Start of the first frame (UTC).
    frames : int
        Number of frames, one after the other.
    frame_seconds : float
        Exposure of each (s).
    altitude : float
        km.
    inclination : float
        Degrees.
    first_latitude : float
        Where the first frame begins, northbound (degrees; not beyond the inclination).
    node_longitude : float
        Longitude of the ascending node at the start (degrees).
    subsolar_longitude, subsolar_latitude : float
        Of the point that has the Sun overhead, at the start (degrees).

    Returns
    -------
    Dataset
        Without data; the coordinates of :func:`lunarray.open_class` but ``channel``, ``gain``, ``detectors`` and
        ``file``.

    Examples
    --------
    >>> import lunarray as la
    >>> la.simulate.class_orbit(frames=3)["corner_lat"].shape
    (3, 4)
    """
    if frames < 1 or frame_seconds <= 0 or altitude <= 0 or abs(first_latitude) > abs(inclination):
        raise InputError(
            f"frames={frames}, frame_seconds={frame_seconds}, altitude={altitude}, first_latitude={first_latitude}",
            where="class_orbit",
            remedy="Give positive numbers, and a latitude that the orbit reaches",
        )
    t = (np.arange(frames) + 0.5) * frame_seconds
    centre, corners = _swept_ground(
        t, frame_seconds, altitude, inclination, first_latitude, node_longitude
    )
    corner_lon, corner_lat = lonlat_of(corners)
    lon, lat = lonlat_of(centre)
    sun = unit_vectors(
        subsolar_longitude - 360.0 * t / _SYNODIC, np.full(frames, subsolar_latitude)
    )
    incidence = np.rad2deg(np.arccos(np.clip(np.sum(sun * centre, -1), -1.0, 1.0)))
    origin = np.datetime64(start, "ns")
    step = np.timedelta64(round(frame_seconds * 1e9), "ns")
    starts = origin + np.arange(frames) * step
    degree = {"units": "degree"}
    return xr.Dataset(
        coords={
            "time": ("time", starts + step // 2, {"standard_name": "time"}),
            "start": ("time", starts),
            "end": ("time", starts + step),
            "exposure": ("time", np.full(frames, float(frame_seconds)), {"units": "s"}),
            "lat": ("time", lat, {"units": "degrees_north"}),
            "lon": ("time", lon, {"units": "degrees_east"}),
            "corner_lat": (("time", "corner"), corner_lat, {"units": "degrees_north"}),
            "corner_lon": (("time", "corner"), corner_lon, {"units": "degrees_east"}),
            "incidence": ("time", incidence.astype("f4"), degree),
            "emission": ("time", np.zeros(frames, "f4"), degree),
            "phase": ("time", incidence.astype("f4"), degree),
            "altitude": ("time", np.full(frames, altitude, "f4"), {"units": "km"}),
        }
    )


def _swept_ground(
    t: np.ndarray, frame_seconds: float, altitude: float, inclination: float, first_latitude: float,
    node_longitude: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Directions of the boresight in the middle of each frame, (time, 3), and of the footprint's corners."""
    a = _RADIUS_KM + altitude
    motion = np.sqrt(_GM / a**3)
    tilt = np.deg2rad(inclination)
    begin = np.arcsin(np.clip(np.sin(np.deg2rad(first_latitude)) / np.sin(tilt), -1.0, 1.0))

    def below(seconds: np.ndarray) -> np.ndarray:
        """Direction of the point below the spacecraft, in the rotating frame."""
        u = begin + motion * seconds
        lat = np.arcsin(np.sin(tilt) * np.sin(u))
        lon = np.arctan2(np.cos(tilt) * np.sin(u), np.cos(u))
        lon = np.deg2rad(node_longitude) + lon - 2 * np.pi * seconds / _ROTATION
        return unit_vectors(np.rad2deg(lon), np.rad2deg(lat))

    centre = below(t)
    ahead = below(t + 0.5) - below(t - 0.5)
    speed = np.linalg.norm(ahead, axis=-1, keepdims=True)
    ahead = ahead - centre * np.sum(ahead * centre, -1, keepdims=True)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    left = np.cross(centre, ahead)
    # The field of view reaches as far again as its half maximum; the frame's motion lengthens what it sweeps.
    half_along = (
        altitude * np.tan(np.deg2rad(CLASS_FIELD_DEG[0])) / _RADIUS_KM + speed * frame_seconds / 2
    )
    half_across = altitude * np.tan(np.deg2rad(CLASS_FIELD_DEG[1])) / _RADIUS_KM
    corners = np.stack(
        [
            centre + f * half_along * ahead + s * half_across * left
            for f, s in ((1, 1), (-1, 1), (-1, -1), (1, -1))
        ],
        axis=1,
    )
    return centre, corners


def _composition_at(composition: Any, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Weight per cent of the elements at points, (..., element)."""
    if callable(composition):
        values = np.asarray(composition(lon, lat), "f8")
    elif isinstance(composition, Mapping):
        one = np.array([float(composition.get(name, 0.0)) for name in ELEMENTS])
        values = np.broadcast_to(one, (*lon.shape, len(ELEMENTS)))
    elif isinstance(composition, xr.DataArray):
        import pandas as pd

        if set(composition.dims) != {"element", "lat", "lon"}:
            raise InputError(
                f"a composition map with dimensions {composition.dims}",
                where="composition",
                remedy="Give (element, lat, lon), in wt%",
            )
        grid = composition.sel(element=list(ELEMENTS)).transpose("lat", "lon", "element")
        i = grid.get_index("lat").get_indexer(pd.Index(lat.ravel()), method="nearest")
        # Nearest on the circle: an index of longitudes knows nothing of ±180°.
        own = np.asarray(grid["lon"].values, "f8")
        apart = np.abs((lon.ravel()[:, None] - own[None, :] + 180.0) % 360.0 - 180.0)
        values = np.asarray(grid.values, "f8")[i, np.argmin(apart, axis=1)]
        values = values.reshape(*lon.shape, len(ELEMENTS))
    else:
        raise InputError(
            f"a composition of type {type(composition).__name__}",
            where="composition",
            remedy="Give a DataArray (element, lat, lon), a mapping of wt%, or a function of lon and lat",
        )
    if (
        values.shape != (*lon.shape, len(ELEMENTS))
        or not np.all(np.isfinite(values))
        or np.any(values < 0)
    ):
        raise InputError(
            "weights that are negative or missing",
            where="composition",
            remedy=f"Give wt% of {', '.join(ELEMENTS)}",
        )
    return values


@typed
def class_counts(
    composition: xr.DataArray | Mapping[str, float] | Callable[[np.ndarray, np.ndarray], Any],
    orbit: xr.Dataset,
    solar: xr.Dataset,
    response: Response,
    *,
    flare: Any = 1.0,
    norm: float = 0.37,
    background: xr.Dataset | None = None,
    n_detectors: Any = 16,
    scatter: bool = True,
    noise: bool = True,
    samples: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Simulate CLASS frames of a surface of known composition.

    Parameters
    ----------
    composition : DataArray, mapping or callable
        Weight per cent of the eight elements: a map (element, lat, lon), one composition for all, or a function of
        longitude and latitude (arrays of degrees) that gives (..., element).
    orbit : Dataset
        Of :func:`class_orbit`, or any with its coordinates (those of real frames, say).
    solar : Dataset
        Photon flux of the Sun as :func:`lunarray.xrf.read_solar_model` gives it.
    response : Response
    flare : array_like
        Factor on the solar flux, one or for each frame.
    norm : float
        Share of what a flat surface sends that is counted: rough ground keeps some, the selection of events more.
        Real spectra have about 0.37.
    background : Dataset, optional
        As :func:`lunarray.xrf.read_background` gives it; scaled by exposure and detectors.
    n_detectors : array_like
        Detectors used, of 16.
    scatter : bool
        Whether there is scattered sunlight.
    noise : bool
        Draw counts from Poisson's distribution; otherwise they are the expected ones.
    samples : int
        Points along each side of the footprint over which spectra are averaged.
    seed : int
        Of the noise.

    Returns
    -------
    Dataset
        Like that of :func:`lunarray.open_class`, with the truth beside it: ``abundance_true`` (time, element), the
        mean over the field of view in wt%, and ``expected`` (time, channel), the counts without noise. Its response
        and Sun are the true ones: what a fit should bear is tried with others (:func:`mistaken_sun`, and
        :func:`class_response` of another width).

    Examples
    --------
    >>> import lunarray as la
    >>> orbit = la.simulate.class_orbit(frames=3)
    >>> sun, response = la.simulate.thermal_spectrum(1.2, 1e-5), la.simulate.class_response()
    >>> frames = la.simulate.class_counts(la.xrf.HIGHLAND, orbit, sun, response)
    >>> frames["counts"].shape
    (3, 1024)
    """
    n = orbit.sizes["time"]
    factor = np.broadcast_to(np.asarray(flare, "f8"), (n,))
    used = np.broadcast_to(np.asarray(n_detectors, "f8"), (n,))
    lon, lat, weight = _field_points(orbit, samples)
    abundance = _composition_at(composition, lon, lat)
    spectra = _surface_spectra(abundance, weight, orbit, solar, response, scatter=scatter)
    field = float(np.prod(np.deg2rad(CLASS_FIELD_DEG)))
    area = used / 16.0 * orbit["exposure"].values
    scale = factor * norm * field / (4 * np.pi)
    expected = response.fold(spectra * scale[:, None]) * area[:, None]
    if background is not None:
        expected = expected + _background_rate(background, response.channels) * area[:, None]
    counts = np.random.default_rng(seed).poisson(expected) if noise else expected
    mean = np.einsum("tpqe,pq->te", abundance, weight)
    gain = np.full(n, float(np.mean(response.channel_hi - response.channel_lo)))

    spectrum, what = ("time", "channel"), "true abundance, mean over the field of view"
    ds = xr.Dataset(
        {
            "counts": described(spectrum, counts.astype("f4"), "1", "counts"),
            "expected": described(spectrum, expected, "1", "expected counts"),
            "abundance_true": described(("time", "element"), mean, WEIGHT, what),
        },
        {
            **orbit.coords,
            "channel": np.arange(response.channels, dtype="i4"),
            "element": np.array(ELEMENTS, object),
            "gain": described("time", gain, "keV", "energy per channel"),
            "n_detectors": described("time", used.astype("f4"), "1", "number of detectors used"),
        },
        {"mission": "Chandrayaan-2", "instrument": "CLASS (simulated)"},
    )
    return stamp(ds, f"class_counts(seed={seed})", source="simulated")


def _surface_spectra(
    abundance: np.ndarray, weight: np.ndarray, orbit: xr.Dataset, solar: xr.Dataset, response: Response, *,
    scatter: bool,
) -> np.ndarray:  # fmt: skip
    """Intensity from each footprint in the bins of the response, (time, energy), the mean over its points."""
    from lunarray.xrf.atomic import atomic_tables
    from lunarray.xrf.kernels import fluorescence_tables, line_intensities
    from lunarray.xrf.response import rebin
    from lunarray.xrf.scattering import scatter_tables, scattered_continuum

    tables = atomic_tables()
    low, high, flux = _split_at_edges(solar, tables)
    energy, photons = (low + high) / 2, flux * (high - low)
    lines = fluorescence_tables(tables, energy)
    place = _line_places(lines.line_energy, response)
    incidence = orbit["incidence"].values.astype("f8")
    emission = np.nan_to_num(orbit["emission"].values.astype("f8"))
    spectra = np.zeros((incidence.size, response.energies))
    scattering: dict[float, Any] = {}
    for i in np.flatnonzero(incidence < 90.0):
        sin_in, sin_out = np.cos(np.deg2rad(incidence[i])), np.cos(np.deg2rad(emission[i]))
        phase = round(float(orbit["phase"].values[i]), 1)
        if scatter and phase not in scattering:
            # Cross sections hardly change within a tenth of a degree.
            scattering[phase] = scatter_tables(tables, energy, 180.0 - phase)
        # Points of one composition give one spectrum.
        points = abundance[i].reshape(-1, len(ELEMENTS))
        kinds, which = np.unique(points, axis=0, return_inverse=True)
        shares = np.bincount(which.ravel(), weight.ravel(), minlength=len(kinds))
        for kind, share in zip(kinds / 100.0, shares, strict=True):
            spectra[i] += share * (line_intensities(kind, photons, sin_in, sin_out, lines) @ place)
            if not scatter:
                continue
            table = scattering[phase]
            parts = scattered_continuum(kind, photons, sin_in, sin_out, table)
            for part, shift in zip(parts, (np.ones_like(energy), table.shift), strict=True):
                spectra[i] += share * rebin(
                    part, low * shift, high * shift, response.energy_lo, response.energy_hi
                )
    return spectra


def _split_at_edges(
    solar: xr.Dataset, tables: AtomicTables
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solar bins divided where an absorption edge lies in one: their edges and flux per keV."""
    low, high = (solar[key].values.astype("f8") for key in ("energy_lo", "energy_hi"))
    flux = solar["photon_flux"].values.astype("f8")
    own = tables.edge[(tables.edge > low[0]) & (tables.edge < high[-1])]
    edges = np.unique(np.concatenate([low, high[-1:], own]))
    which = np.searchsorted(low, edges[:-1], side="right") - 1
    return edges[:-1], edges[1:], flux[which]


def _line_places(line_energy: np.ndarray, response: Response) -> np.ndarray:
    """Share of each line's photons in each bin of the response, (line, energy): in the two beside it, with the line's
    mean energy."""
    middle = (response.energy_lo + response.energy_hi) / 2
    place = np.zeros((line_energy.size, middle.size))
    inside = (line_energy > response.energy_lo[0]) & (line_energy < response.energy_hi[-1])
    for k in np.flatnonzero(inside):
        i = int(np.clip(np.searchsorted(middle, line_energy[k]) - 1, 0, middle.size - 2))
        share = np.clip((line_energy[k] - middle[i]) / (middle[i + 1] - middle[i]), 0.0, 1.0)
        place[k, i], place[k, i + 1] = 1.0 - share, share
    return place


def _background_rate(background: xr.Dataset, channels: int) -> np.ndarray:
    """Counts/s in each channel with all detectors."""
    counts = background["counts"].values.astype("f8")
    if counts.size != channels:
        raise InputError(
            f"a background of {counts.size} channels, where the response has {channels}",
            where="background",
            remedy="Give a background of the same binning",
        )
    detectors = float(background["n_detectors"])
    return counts / float(background["exposure"]) * (16.0 / detectors if detectors > 0 else 1.0)


def _field_points(orbit: xr.Dataset, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in each footprint, (time, sample, sample), and how much each is seen: collimators see a triangle along
    each side."""
    share = (np.arange(samples) + 0.5) / samples
    corners = unit_vectors(orbit["corner_lon"].values, orbit["corner_lat"].values)
    p, q = np.meshgrid(share, share, indexing="ij")
    mix = np.stack([(1 - p) * (1 - q), p * (1 - q), p * q, (1 - p) * q], axis=-1)
    lon, lat = lonlat_of(np.einsum("pqc,tcx->tpqx", mix, corners))
    side = 1.0 - np.abs(2 * share - 1.0) + 1.0 / samples
    weight = np.outer(side, side)
    return lon, lat, weight / weight.sum()
