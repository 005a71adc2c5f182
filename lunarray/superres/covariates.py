"""Covariates from maps: what rasters of any kind say of a pixel's surroundings, at several scales.

For each map and scale the mean around the pixel, weighed by a Gaussian on the plane that touches the Moon there; at
some scales also the slope of that mean and the spread of the map within. A pixel's covariates depend on its place and
on the maps alone: neither regions, ±180° nor the poles show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import CoverageError, InputError
from lunarray.geo import RADIUS, geobox_of, pixel_of, pixel_size, reproject, spatial_dims
from lunarray.superres.grid import GIBGrid, turns

#: Standard deviations of the Gaussians, kilometres, and those of them that slope and spread are taken at too.
SCALES = (1.5, 4.0, 10.0, 24.0)
TEXTURES = (4.0, 10.0)
#: No Gaussian is narrower than this part of a map's own pixel: what is seen of less are the borders of its cells.
_CELL = 0.7
#: Kilometres in a degree of latitude.
_KM = np.pi * RADIUS / 180e3
#: Halvings of the finest lattice that coarse scales are sampled on.
_LEVELS = 6
#: Rings of samples around a pixel, this part of the scale apart: out to 2.4 standard deviations.
_RINGS, _APART = 3, 0.8


@dataclass(frozen=True)
class Recipe:
    """Which covariates are made of maps: the scales (km) of means, and those of slopes and spreads."""

    scales: tuple[float, ...] = SCALES
    textures: tuple[float, ...] = TEXTURES

    def __post_init__(self) -> None:
        for name in ("scales", "textures"):
            own = tuple(float(s) for s in getattr(self, name))
            if not all(np.isfinite(s) and s > 0 for s in own) or len(set(own)) != len(own):
                raise InputError(
                    f"{name} {list(own)}", where=name, remedy="Give kilometres above 0, each once"
                )
            object.__setattr__(self, name, own)
        if not self.scales:
            raise InputError("no scales", where="scales", remedy="Give one at least")

    def names(self, maps: Sequence[str]) -> list[str]:
        """Names of the covariates, in their order: ``albedo_mean_4km``, ``albedo_slope_4km``, …"""
        kinds = [("mean", s) for s in self.scales]
        kinds += [(kind, s) for s in self.textures for kind in ("slope", "spread")]
        return [f"{name}_{kind}_{s:g}km" for name in maps for kind, s in kinds]


def map_card(maps: Mapping[str, xr.DataArray], recipe: Recipe) -> dict[str, Any]:
    """What a bank says of covariates from maps: names, scales, and of each map whence it is and how to know it."""
    sources = {name: _fingerprint(da) for name, da in maps.items()}
    card: dict[str, Any] = {
        "kind": "maps",
        "names": recipe.names(list(maps)),
        "scales_km": list(recipe.scales),
        "textures_km": list(recipe.textures),
        "least_pixels": _CELL,
        "maps": sources,
    }
    text = json.dumps(card, sort_keys=True)
    return {**card, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def checked_maps(maps: Mapping[str, Any]) -> dict[str, xr.DataArray]:
    """Maps by name, each with two dimensions and a lunar grid; several bands or oxides are a map each.

    InputError for what is none.
    """
    if not isinstance(maps, Mapping) or not maps:
        raise InputError(
            f"{type(maps).__name__} without maps", where="maps", remedy="Give {name: DataArray}"
        )
    out: dict[str, xr.DataArray] = {}
    for name, value in maps.items():
        dims = spatial_dims(value) if isinstance(value, xr.DataArray) else None
        lead = [d for d in value.dims if d not in dims] if dims else []
        if not dims or len(lead) > 1 or value.dtype.kind not in "fiub":
            raise InputError(
                f"a {type(value).__name__} with dimensions {getattr(value, 'dims', None)}",
                where=f"maps: {name}",
                remedy="Give a map of numbers, a DataArray on (lat, lon) or (y, x), with one other dimension at most",
            )
        geobox_of(value)
        bands = value.sizes[lead[0]] if lead else 1
        for k in range(bands):
            own = value.isel({lead[0]: k}, drop=True) if lead else value
            label = f"_{value[lead[0]].values[k]}" if bands > 1 else ""
            out[f"{name}{label}"] = own.transpose(*dims)
    return out


def require_maps(maps: Mapping[str, xr.DataArray], grid: GIBGrid, region: tuple[int, int]) -> None:
    """CoverageError where a map does not reach over a region."""
    lat, lon = np.meshgrid(grid.lat(region[0]), grid.lon(region[1]), indexing="ij")
    for name, da in maps.items():
        outside = pixel_of(geobox_of(da), lon.ravel(), lat.ravel())[0] < 0
        if outside.any():
            k = int(np.argmax(outside))
            raise CoverageError(
                f"the map covers {100 * (1 - outside.mean()):.3g} % of region {tuple(region)}; the first pixel "
                f"outside is at {lat.flat[k]:.3f}° N, {lon.flat[k]:.3f}° E",
                where=f"maps: {name}",
                remedy="Give a map that covers the pixels' centres, or name the regions to fill",
            )


def map_features(
    maps: Mapping[str, Any],
    grid: GIBGrid,
    region: tuple[int, int],
    *,
    scales: Sequence[float] = SCALES,
    textures: Sequence[float] = TEXTURES,
) -> xr.DataArray:
    """Compute the covariates of every pixel of a region, in memory.

    Parameters
    ----------
    maps : mapping of str to DataArray
        Rasters of any kind and grid, (lat, lon) or (y, x), by the names that their covariates begin with.
    grid : GIBGrid
        The grid whose pixels are meant.
    region : (int, int)
        Region (i, j) of it.
    scales, textures : sequence of float
        Standard deviations (km) of the Gaussians of means, and of slopes and spreads; each is 0.7 of a map's own pixel
        at least.

    Returns
    -------
    DataArray
        (feature, lat, lon) float32, with the names as coordinate ``feature``: means in the map's unit, slopes as
        their change over one scale, spreads as standard deviations. NaN where less than half of the surroundings is
        known.

    Raises
    ------
    InputError
        If a map or scale makes no sense.
    GridError
        If a map has no grid, or no such region is in `grid`.
    """
    recipe = Recipe(tuple(scales), tuple(textures))
    own = checked_maps(maps)
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    values = np.concatenate([_of_map(da, lat, lon, recipe) for da in own.values()])
    coords = {"feature": recipe.names(list(own)), "lat": lat, "lon": lon}
    return xr.DataArray(values, coords, ("feature", "lat", "lon"), "feature")


def _of_map(da: xr.DataArray, lat: np.ndarray, lon: np.ndarray, recipe: Recipe) -> np.ndarray:
    from lunarray.superres.covariate_kernels import around

    pixel = pixel_size(geobox_of(da)) / 1e3
    least = _CELL * pixel
    widest = max((*recipe.scales, *recipe.textures, least))
    finest = max(min((*recipe.scales, *recipe.textures)), least)
    lattice = _Lattice.of(lat, lon, 0.75 * finest, pixel, widest)
    # Float64 sums of squares: spreads far below the mean are not lost. About the middle, for the same reason.
    first = lattice.values(da)
    known = np.isfinite(first)
    middle = float(first[known].mean()) if known.any() else 0.0
    levels = list(_halved(np.where(known, first - middle, 0.0), known.astype(np.float64)))
    out = np.full((len(recipe.names(["x"])), lat.size, lon.size), np.nan, np.float32)
    wanted: list[tuple[float, int, int | None]] = [
        (s, k, None) for k, s in enumerate(recipe.scales)
    ]
    found = np.empty((3, lat.size, lon.size), np.float32)
    start = len(recipe.scales)
    wanted += [(s, start + 2 * k, start + 2 * k + 1) for k, s in enumerate(recipe.textures)]
    for named, k, spread in wanted:
        scale = max(named, least)
        level = min(max(int(np.log2(max(0.75 * scale / lattice.km, 1.0))), 0), len(levels) - 1)
        mean, square, share = levels[level]
        frame = (*lattice.origin, lattice.degrees * 2**level, float(lattice.whole))
        around((mean, square), share, (lat, lon), frame, _stencil(lat, scale), found)
        if spread is None:
            out[k] = found[0] + middle
        else:
            out[k], out[spread] = found[1], found[2]
    return out


def _halved(
    values: np.ndarray, weight: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A lattice and its halvings: means and mean squares of what is known, and the share that is known."""
    mean, square = values, values**2
    for level in range(_LEVELS + 1):
        yield mean, square, weight
        if level == _LEVELS or min(mean.shape) < 2:
            return
        rows, columns = mean.shape[0] // 2, mean.shape[1] // 2

        def four(a: np.ndarray, rows: int = rows, columns: int = columns) -> np.ndarray:
            return a[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).sum(axis=(1, 3))

        total = four(weight)
        safe = np.where(total > 0, total, 1.0)
        mean, square = four(mean * weight) / safe, four(square * weight) / safe
        weight = total / 4


def _stencil(lat: np.ndarray, scale: float) -> tuple[np.ndarray, ...]:
    """Places around the pixels of each row: latitudes and longitudes from the pixel's (row, sample; degrees), eastward
    and northward distance (sample; scales), and weights."""
    east, north, weight = [0.0], [0.0], [1.0]
    for ring in range(1, _RINGS + 1):
        radius = _APART * ring
        for k in range(6 * ring):
            # Rings turned against each other, that no direction is sampled more than others.
            angle = 2 * np.pi * (k + 0.5 * (ring % 2)) / (6 * ring)
            east.append(radius * np.cos(angle))
            north.append(radius * np.sin(angle))
            weight.append(float(np.exp(-(radius**2) / 2)))
    x, y = np.array(east), np.array(north)
    distance = np.hypot(x, y) * scale / (RADIUS / 1e3)
    sine = np.sinc(distance / np.pi) * scale / (RADIUS / 1e3)
    phi = np.deg2rad(lat)[:, None]
    up = np.cos(distance)
    z = np.clip(up * np.sin(phi) + y * sine * np.cos(phi), -1.0, 1.0)
    turn = np.arctan2(x * sine, up * np.cos(phi) - y * sine * np.sin(phi))
    return np.rad2deg(np.arcsin(z)), np.rad2deg(turn), x, y, np.array(weight)


@dataclass(frozen=True)
class _Lattice:
    """Cells of equal steps in latitude and longitude around a region, aligned alike for every region."""

    degrees: float
    rows: tuple[int, int]
    columns: tuple[int, int]
    #: Columns of one turn.
    turn: int

    @classmethod
    def of(
        cls, lat: np.ndarray, lon: np.ndarray, km: float, pixel: float, widest: float
    ) -> _Lattice:
        """Cells of `km`, or of half the map's own pixels where those are larger; a margin for the widest scale."""
        block = 1 << _LEVELS
        step = max(km, 0.5 * pixel) / _KM
        count = max(block * round(180 / step / block), block)
        degrees = 180 / count
        margin = (_RINGS * _APART * widest + 4 * km) / _KM + block * degrees
        south, north = lat.min() - margin, lat.max() + margin
        far = max(abs(south), abs(north))
        rows = _aligned((90 - north) / degrees, (90 - south) / degrees, block)
        rows = max(rows[0], 0), min(rows[1], count)
        turn = 2 * count
        # Half of a turn and more: all of it, then columns go around.
        wide = margin / np.cos(np.deg2rad(far)) if far < 89 else 360.0
        columns = _aligned((lon.min() - wide + 180) / degrees, (lon.max() + wide + 180) / degrees, block)  # fmt: skip
        if columns[1] - columns[0] >= turn:
            columns = (0, turn)
        return cls(degrees, rows, columns, turn)

    @property
    def km(self) -> float:
        return self.degrees * _KM

    @property
    def origin(self) -> tuple[float, float]:
        """Latitude of the northern edge, longitude of the western one."""
        return 90 - self.rows[0] * self.degrees, self.columns[0] * self.degrees - 180

    @property
    def whole(self) -> bool:
        """Whether it goes all around."""
        return self.columns[1] - self.columns[0] == self.turn

    def values(self, da: xr.DataArray) -> np.ndarray:
        """A map on the lattice, float64."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        from lunarray.geo import moon_crs

        parts = []
        d = self.degrees
        for own, _ in turns(*self.columns, self.turn):
            shape = (self.rows[1] - self.rows[0], own.stop - own.start)
            corner = own.start * d - 180, 90 - self.rows[0] * d
            box = GeoBox(shape, Affine(d, 0, corner[0], 0, -d, corner[1]), moon_crs("geographic"))
            parts.append(np.asarray(reproject(da, box).compute().values, np.float64))
        return np.concatenate(parts, axis=1)


def _aligned(low: float, high: float, block: int) -> tuple[int, int]:
    return int(np.floor(low / block)) * block, int(np.ceil(high / block)) * block


def _fingerprint(da: xr.DataArray) -> dict[str, Any]:
    """Whence a map is, and the digest of some thousand of its values, by which another one is noticed."""
    rows, columns = (max(1, n // 64) for n in da.shape)
    part = np.asarray(da[::rows, ::columns].compute().values, np.float32)
    box = geobox_of(da)
    sha = hashlib.sha256(f"{tuple(box.shape)}{tuple(box.affine)}".encode())
    sha.update(np.ascontiguousarray(part).tobytes())
    out = {"digest": sha.hexdigest()[:16], "pixel_km": round(float(pixel_size(box)) / 1e3, 4)}
    source = da.attrs.get("source") or da.encoding.get("source")
    return {**out, "source": str(source)} if source else out
