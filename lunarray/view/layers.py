"""Layers of the map: one variable of a source, or its vectors; and what they hold at a place."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.geo import MOON, crs_name, from_lonlat, geobox_of, lonlat, pixel_of, to_lonlat
from lunarray.units import unit_label
from lunarray.view.cache import Blocks, Files
from lunarray.view.grids import GRIDS
from lunarray.view.pyramid import SMALL, Pyramid
from lunarray.view.sources import Source
from lunarray.view.tiles import COLORMAPS, limits_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: Bands of one cube that are kept ready.
_BANDS = 8
# Largest side of what limits are taken from, and how long the first of it is waited for, s.
_LOOK, _PATIENCE = 512, 5.0
# Elements and the like of which each is told.
_NAMED = 64
#: Endings of variables that say how sure another one is.
_ERRORS = ("_std", "_uncertainty", "_error", "_sigma")


@dataclass
class MapLayer:
    """A variable on a grid, as many maps as it has bands."""

    number: int
    source: Source
    array: xr.DataArray
    box: GeoBox
    blocks: Blocks
    files: Files
    _pyramids: OrderedDict[int, Pyramid] = field(default_factory=OrderedDict)
    _lock: Any = field(default_factory=threading.Lock)

    @property
    def lead(self) -> Any:
        """The dimension of its bands, or None."""
        return self.array.dims[0] if self.array.ndim == 3 else None

    @property
    def flags(self) -> bool:
        """Whether its values are names of something."""
        known = {"flag_values", "flag_masks"} & set(self.array.attrs)
        return self.array.dtype.kind == "b" or (self.array.dtype.kind != "f" and bool(known))

    @property
    def token(self) -> str | None:
        """Names what it holds, where its bytes tell: overviews of it can be kept, and it is cheap to read."""
        if self.source.token is not None:
            return f"{self.source.token} {self.array.name}"
        # Arrays of stores are named by their objects, wherever these come from.
        name = str(getattr(self.array.data, "name", ""))
        return name if name.startswith("open_zarr-") else None

    def pyramid(self, band: int = 0) -> Pyramid:
        """One of its maps, at every scale."""
        with self._lock:
            if band not in self._pyramids:
                data, *smaller = (
                    one.data if self.lead is None else one.data[band]
                    for one in (self.array, *self.source.smaller)
                )
                boxes = [geobox_of(one) for one in self.source.smaller]
                token = self.token
                if token is not None:
                    text = f"{token} {band} {self.array.dtype} {self.flags}"
                    token = hashlib.sha256(text.encode()).hexdigest()[:32]
                self._pyramids[band] = Pyramid(
                    data,
                    self.box,
                    flags=self.flags,
                    blocks=self.blocks,
                    files=self.files,
                    token=token,
                    smaller=list(zip(smaller, boxes, strict=True)),
                )
                while len(self._pyramids) > _BANDS:
                    self._pyramids.popitem(last=False)[1].close()
            self._pyramids.move_to_end(band)
            return self._pyramids[band]

    def begun(self) -> list[Pyramid]:
        """Its maps that were looked at."""
        with self._lock:
            return list(self._pyramids.values())

    def close(self) -> None:
        """Stop what is going on in the background."""
        for pyramid in self.begun():
            pyramid.close()

    def bands(self) -> list[str]:
        """Labels of its bands."""
        if self.lead is None:
            return []
        size = self.array.sizes[self.lead]
        if self.lead not in self.array.coords:
            return [str(k) for k in range(size)]
        coord = self.array[self.lead]
        unit = unit_label(coord, "")
        numbers = coord.dtype.kind in "fiu"
        return [f"{value:.6g} {unit}".strip() if numbers else str(value) for value in coord.values]

    def limits(self, band: int = 0) -> tuple[float, float]:
        """Ends of its colours: percentiles of what it is from afar, as far as that is known."""
        pyramid = self.pyramid(band)
        level = next(
            (
                k
                for k in range(pyramid.levels + 1)
                if max(pyramid.level_box(k).shape) <= _LOOK
            ),
            pyramid.levels,
        )  # fmt: skip
        rows, columns = pyramid.level_box(level).shape
        if max(pyramid.shape) ** 2 > SMALL:
            pyramid.prepare()
        values = pyramid.read(level, 0, rows, 0, columns)
        end = time.monotonic() + _PATIENCE
        while pyramid.unfinished and time.monotonic() < end and not np.isfinite(values).any():
            time.sleep(0.1)
            values = pyramid.read(level, 0, rows, 0, columns)
        if self.flags:
            finite = values[np.isfinite(values)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
            return (low, high) if low < high else (low - 0.5, high + 0.5)
        return limits_of(values)

    def described(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        return {
            "id": self.number,
            "kind": "map",
            "source": self.source.name,
            "name": str(self.array.name),
            "title": str(self.array.attrs.get("long_name", "")),
            "units": _unit(self.array),
            "bands": self.bands(),
            "band_name": "" if self.lead is None else str(self.lead),
            "flags": self.flags,
            "cmap": _cmap_of(str(self.array.name), self.flags),
            "extents": extents(self.box),
            "home": home(self.box),
            "shape": list(self.box.shape),
            "note": self.source.note,
        }


def _unit(array: xr.DataArray) -> str:
    unit = unit_label(array)
    return "" if unit == "1" else unit


def _cmap_of(name: str, flags: bool) -> str:
    if flags:
        return "tab20"
    low = name.lower()
    if any(
        part in low for part in ("reflectance", "albedo", "image", "wac", "nac", "iof", "radiance")
    ):
        return "gray"
    if any(part in low for part in ("std", "uncertainty", "sigma")):
        return "magma"
    return COLORMAPS[0]


def home(box: GeoBox) -> str:
    """The grid on which a map is best looked at."""
    name = crs_name(box.crs)
    _, lat = _rim(box)
    # A polar map need not reach the hemisphere of its pole.
    if (name == "north" and lat.size and lat.max() >= 0) or (
        name == "south" and lat.size and lat.min() <= 0
    ):
        return name
    if lat.size and lat.min() >= 55:
        return "north"
    return "south" if lat.size and lat.max() <= -55 else "global"


def _rim(box: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Places all over a grid, in degrees; those that are no place left out."""
    step = np.linspace(0, 1, 33)
    row, column = np.meshgrid(step * box.shape[0], step * box.shape[1], indexing="ij")
    affine = box.transform
    x, y = affine.a * column + affine.c, affine.e * row + affine.f
    lon, lat = to_lonlat(box.crs, x, y)
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.001)
    return lon[good], lat[good]


def extents(box: GeoBox) -> dict[str, list[float] | None]:
    """Where a map lies on each grid: left, bottom, right, top; None where it does not."""
    lon, lat = _rim(box)
    found: dict[str, list[float] | None] = {}
    for name, grid in GRIDS.items():
        on = lat >= 0 if name == "north" else lat <= 0 if name == "south" else lat > -91
        if not on.any():
            found[name] = None
            continue
        x, y = from_lonlat(MOON.crs(grid.system), lon[on], lat[on])
        left, bottom, right, top = grid.bounds
        found[name] = [
            max(float(x.min()), left), max(float(y.min()), bottom),
            min(float(x.max()), right), min(float(y.max()), top),
        ]  # fmt: skip
    return found


# --- what is at a place ---------------------------------------------------------------------------


def at(source: Source, lon: float, lat: float) -> dict[str, Any] | None:
    """Values, errors and spectra of a source at a place; None where it has none."""
    if source.maps is None or source.box is None:
        return None
    row, column = (int(v[0]) for v in pixel_of(source.box, lon, lat))
    if row < 0:
        return None
    y, x = _dims(source.maps)
    point = source.maps.isel({y: row, x: column}).compute(scheduler="synchronous")
    place = lonlat(source.box[row : row + 1, column : column + 1])
    told = values_of(point)
    told.update(
        source=source.name,
        row=row,
        column=column,
        lon=round(float(place[0][0, 0]), 6),
        lat=round(float(place[1][0, 0]), 6),
    )
    return told


def along(source: Source, place: int) -> dict[str, Any] | None:
    """The same of an observation, by its place along its axis."""
    if source.along is None or source.shapes is None:
        return None
    if not (source.shapes["place"].to_numpy() == place).any():
        return None
    ds = source.along
    dim = next(
        d for d in ds["lon" if "lon" in ds.variables else "corner_lon"].dims if d != "corner"
    )
    point = ds.isel({dim: place}).compute(scheduler="synchronous")
    told = values_of(point)
    told.update(source=source.name, row=place)
    return told


def _dims(ds: xr.Dataset) -> tuple[Any, Any]:
    first = next(iter(ds.data_vars.values()))
    return first.dims[-2], first.dims[-1]


def values_of(point: xr.Dataset) -> dict[str, Any]:
    """Numbers and spectra of one place, each with its error or interval where there is one."""
    numbers, spectra, used = [], [], set()
    names = [str(n) for n in point.data_vars]
    for name in names:
        array = point[name]
        if name in used or array.dtype.kind not in "fiub" or array.ndim > 1:
            continue
        error = next((name + end for end in _ERRORS if name + end in names), None)
        interval = [name + "_lower", name + "_upper"]
        both = set(interval) <= set(names)
        used |= {n for n in (error, *(interval if both else ())) if n}
        entry: dict[str, Any] = {"name": name, "units": _unit(array)}
        if array.ndim == 0:
            entry["value"] = _number(array)
            if error:
                entry["error"] = _number(point[error])
            if both:
                entry["interval"] = [_number(point[n]) for n in interval]
            if meanings := _meanings(array):
                entry["meanings"] = meanings
            numbers.append(entry)
        elif array.dims[0] in point.coords and point[array.dims[0]].dtype.kind in "OUST":
            # Of elements and the like each has a name: a table says more than a curve.
            for k, label in enumerate(point[array.dims[0]].values[:_NAMED]):
                own = {**entry, "name": f"{name} {label}", "value": _number(array[k])}
                if error and point[error].dims == array.dims:
                    own["error"] = _number(point[error][k])
                numbers.append(own)
        elif array.size > 1:
            dim = array.dims[0]
            coord = point[dim] if dim in point.coords else None
            entry.update(
                dim=str(dim),
                dim_units="",
                x=list(range(array.size)),
                y=_list(array),
                error=_list(point[error]) if error and point[error].dims == array.dims else None,
            )
            if coord is not None and coord.dtype.kind in "fiu":
                entry["x"] = [float(v) for v in coord.values]
                entry["dim_units"] = unit_label(coord, "")
            spectra.append(entry)
    return {
        "values": [v for v in numbers if v["name"] not in used],
        "spectra": [s for s in spectra if s["name"] not in used],
    }


def _number(array: xr.DataArray) -> float | None:
    value = float(array.values)
    return value if np.isfinite(value) else None


def _list(array: xr.DataArray) -> list[float | None]:
    values = np.asarray(array.values, np.float64)
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]


def _meanings(array: xr.DataArray) -> list[str]:
    """What a flag means, by the attributes that CF has for it."""
    attrs = array.attrs
    words = str(attrs.get("flag_meanings", "")).split()
    value = int(array.values) if array.dtype.kind in "iub" else None
    if not words or value is None:
        return []
    masks = "flag_masks" in attrs
    try:
        known = [int(m) for m in np.atleast_1d(attrs["flag_masks" if masks else "flag_values"])]
    except (KeyError, TypeError, ValueError):
        return []  # of a file of others: its words are then not told
    told = zip(words, known, strict=False)
    return [word for word, mark in told if (value & mark if masks else value == mark)]
