"""Lunar coordinate reference systems, and keeping them with the data.

rasterio names no authority for lunar systems (``to_epsg()`` is None), so identity is decided here: by the code that
the WKT carries, else by comparing parameters.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.geo.sphere import RADIUS

if TYPE_CHECKING:
    import pyproj
    import xarray as xr

T = TypeVar("T", "xr.Dataset", "xr.DataArray")

#: The short names of the lunar systems, with their codes.
NAMED_CRS = {
    "geographic": "IAU_2015:30100",
    "equirectangular": "IAU_2015:30110",
    "north": "IAU_2015:30130",
    "south": "IAU_2015:30135",
}

#: Name of the coordinate that holds the CRS, as rioxarray and odc-geo expect it.
CRS_COORD = "spatial_ref"

# Mean radii (m) of bodies, only to name the body in a message where the CRS does not name it itself.
_RADII = {
    "Mercury": 2_439_700.0,
    "Venus": 6_051_800.0,
    "Earth": 6_371_000.0,
    "Mars": 3_389_500.0,
    "Io": 1_821_490.0,
    "Europa": 1_560_800.0,
    "Ganymede": 2_631_200.0,
    "Callisto": 2_410_300.0,
    "Titan": 2_575_000.0,
    "Ceres": 469_700.0,
    "Vesta": 262_700.0,
    "Pluto": 1_188_300.0,
}
# Spheres in use for the Moon lie between 1736.0 km (polar radius) and 1738.1 km (equatorial radius, older products).
_MOON_RADII = (1_735_900.0, 1_738_400.0)

_SPATIAL_DIMS = (("y", "x"), ("lat", "lon"), ("latitude", "longitude"))

_COORD_ATTRS = {
    "x": {
        "standard_name": "projection_x_coordinate",
        "long_name": "x coordinate of projection",
        "units": "m",
        "axis": "X",
    },
    "y": {
        "standard_name": "projection_y_coordinate",
        "long_name": "y coordinate of projection",
        "units": "m",
        "axis": "Y",
    },
    "lon": {
        "standard_name": "longitude",
        "long_name": "longitude",
        "units": "degrees_east",
        "axis": "X",
    },
    "lat": {
        "standard_name": "latitude",
        "long_name": "latitude",
        "units": "degrees_north",
        "axis": "Y",
    },
}
_COORD_ATTRS["longitude"] = _COORD_ATTRS["lon"]
_COORD_ATTRS["latitude"] = _COORD_ATTRS["lat"]


def moon_crs(name_or_code: Any = "geographic") -> pyproj.CRS:
    """Lunar CRS from a short name, a code, WKT, or any CRS object.

    Parameters
    ----------
    name_or_code : str, int or CRS object
        "geographic", "equirectangular", "north", "south"; an IAU_2015 code (30130 or "IAU_2015:30130"); WKT or a PROJ
        string; an object of pyproj, rasterio or odc-geo.

    Returns
    -------
    pyproj.CRS
        The lunar CRS. Systems equal to one of the named ones come back as that one, with its code.

    Raises
    ------
    BodyMismatchError
        If it is a CRS of another body.
    GridError
        If it cannot be understood as a CRS.
    """
    return require_moon(name_or_code)


def require_moon(crs: Any, where: str | None = None) -> pyproj.CRS:
    """Insist that a CRS is of the Moon.

    Parameters
    ----------
    crs : str, int, CRS object or None
        What `moon_crs` takes.
    where : str, optional
        The file or variable that the CRS came with, for the message.

    Returns
    -------
    pyproj.CRS
        The CRS, as by `moon_crs`.

    Raises
    ------
    BodyMismatchError
        If it is a CRS of another body; the message names the body.
    GridError
        If there is none, or it cannot be understood.
    """
    if crs is None:
        raise GridError(
            "there is no coordinate reference system",
            where=where,
            remedy="give one of IAU_2015:30100, 30110, 30130 or 30135, for instance with "
            "lunarray.geo.assign_crs(obj, 'north')",
        )
    if isinstance(crs, (str, int, np.integer)):
        try:
            parsed = _parse(crs if isinstance(crs, str) else int(crs))
        except InputError as error:
            raise type(error)(
                error.problem, where=where or error.where, remedy=error.remedy
            ) from None
    else:
        parsed = _to_pyproj(crs)
    if not is_moon(parsed):
        body, radius = _body(parsed)
        size = (
            ""
            if radius is None
            else f" (semi-major axis {radius:,.0f} m; the Moon's is {RADIUS:,.0f} m)"
        )
        raise BodyMismatchError(
            f"the CRS {parsed.name!r} is of {body}{size}, not of the Moon",
            where=where,
            remedy=(
                "Give lunar data; if the coordinates are lunar and only the label is wrong, assign the right CRS with "
                "lunarray.geo.assign_crs (IAU_2015:30100, 30110, 30130 or 30135)"
            ),
        )
    code = crs_code(parsed)
    return _parse(code) if code in NAMED_CRS.values() else parsed


def is_moon(crs: Any) -> bool:
    """Whether a CRS is of the Moon, judged by the radius of its sphere or ellipsoid.

    Parameters
    ----------
    crs : str, int or CRS object
        What `moon_crs` takes.

    Returns
    -------
    bool
        True for any geographic or projected lunar CRS, named or "unnamed" (ISIS and GDAL write such).
    """
    crs = _to_pyproj(crs)
    _, radius = _body(crs)
    return radius is not None and _MOON_RADII[0] <= radius <= _MOON_RADII[1]


def crs_code(crs: Any) -> str | None:
    """Code of a CRS, such as ``"IAU_2015:30130"``.

    Parameters
    ----------
    crs : str, int or CRS object
        What `moon_crs` takes.

    Returns
    -------
    str or None
        "AUTHORITY:CODE"; for systems without one, the code of the named lunar system with the same parameters, else
        None.
    """
    crs = _to_pyproj(crs)
    authority = crs.to_authority(min_confidence=100)
    if authority is not None:
        return ":".join(authority)
    wanted = _parameters(crs)
    if wanted is None:
        return None
    for code in NAMED_CRS.values():
        if wanted == _parameters(_parse(code)):
            return code
    return None


def crs_of(obj: xr.Dataset | xr.DataArray) -> pyproj.CRS | None:
    """CRS that an xarray object carries.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With a CF grid mapping, a ``spatial_ref`` coordinate, or a ``crs`` attribute.

    Returns
    -------
    pyproj.CRS or None
        The CRS of whatever body, or None where there is none.

    Raises
    ------
    GridError
        If variables carry different systems.
    """
    found: list[pyproj.CRS] = []
    for name in _grid_mapping_names(obj):
        source = (
            obj.coords[name]
            if name in obj.coords
            else obj[name]
            if _is_dataset(obj) and name in obj
            else None
        )
        crs = None if source is None else _crs_from_attrs(source.attrs)
        if crs is not None and all(crs != other for other in found):
            found.append(crs)
    if not found:
        holders = [obj.attrs]
        if _is_dataset(obj):
            holders += [variable.attrs for variable in obj.data_vars.values()]
        for attrs in holders:
            crs = _crs_from_attrs(attrs)
            if crs is not None and all(crs != other for other in found):
                found.append(crs)
    if len(found) > 1:
        raise GridError(
            "variables carry different coordinate reference systems: "
            + ", ".join(repr(crs.name) for crs in found),
            remedy="work on variables of one grid at a time, ds[[...]]",
        )
    return found[0] if found else None


def assign_crs(obj: T, crs: Any) -> T:
    """Give an xarray object a lunar CRS that rioxarray, odc-geo and CF readers understand.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With dimensions (y, x) or (lat, lon).
    crs : str, int, CRS object or GeoBox
        What `moon_crs` takes; a GeoBox also gives the transform, to the last bit.

    Returns
    -------
    same type as `obj`
        With a scalar coordinate ``spatial_ref`` (WKT2, CF parameters and, where the coordinates are regular, the
        GeoTransform), ``grid_mapping`` in the attributes of every spatial variable, and CF attributes on x and y or
        lon and lat. Data are untouched and stay lazy.

    Raises
    ------
    BodyMismatchError
        If `crs` is of another body.
    GridError
        If a GeoBox is given that is not the grid of the coordinates.

    Notes
    -----
    ``grid_mapping`` stands in ``attrs``, not in ``encoding``: xarray drops the encoding in most operations, and
    rioxarray, odc-geo and xarray's writers read either.
    """
    import xarray as xr

    geobox = crs if hasattr(crs, "transform") and hasattr(crs, "crs") else None
    crs = require_moon(crs if geobox is None else geobox.crs)
    dims = spatial_dims(obj)
    attrs: dict[str, Any] = {}
    # CF has no projection of the equirectangular kind on every version; to_cf then gives the WKT alone.
    attrs.update(
        {key: value for key, value in crs.to_cf().items() if value is not None and key != "crs_wkt"}
    )
    attrs["crs_wkt"] = attrs["spatial_ref"] = crs.to_wkt("WKT2_2019")
    code = crs_code(crs)
    if code is not None:
        attrs["crs_code"] = code
    if dims is not None:
        transform = (
            _transform_of_coords(obj, dims)
            if geobox is None
            else _checked_transform(obj, dims, geobox)
        )
        if transform is not None:
            attrs["GeoTransform"] = " ".join(repr(float(value)) for value in transform)

    stale = [
        name
        for name in _grid_mapping_names(obj)
        if name != CRS_COORD and name in obj.coords and obj.coords[name].ndim == 0
    ]
    obj = obj.drop_vars(stale)
    obj = obj.assign_coords({CRS_COORD: xr.Variable((), np.int64(0), attrs)})
    for dim in dims or ():
        if dim in obj.coords:
            coordinate = obj.coords[dim]
            obj = obj.assign_coords(
                {dim: coordinate.assign_attrs({**coordinate.attrs, **_COORD_ATTRS[dim]})}
            )
    if isinstance(obj, xr.DataArray):
        return _with_mapping(obj)
    spatial = {
        name: _with_mapping(obj[name])
        for name in obj.data_vars
        if dims is None or set(dims) <= set(obj[name].dims)
    }
    obj = obj.assign(spatial)
    obj.encoding.pop("grid_mapping", None)
    return obj


def spatial_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Find the two spatial dimensions.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        A map, or anything else.

    Returns
    -------
    tuple of str or None
        ("y", "x") or ("lat", "lon"), or None where there are none.
    """
    for dims in _SPATIAL_DIMS:
        if set(dims) <= set(obj.dims):
            return dims
    return None


def _with_mapping(array: xr.DataArray) -> xr.DataArray:
    array = array.copy(deep=False)
    array.attrs = {**array.attrs, "grid_mapping": CRS_COORD}
    # In both places xarray refuses to write.
    array.encoding = {key: value for key, value in array.encoding.items() if key != "grid_mapping"}
    return array


def _is_dataset(obj: Any) -> bool:
    return hasattr(obj, "data_vars")


def _grid_mapping_names(obj: Any) -> list[str]:
    variables = [obj, *obj.data_vars.values()] if _is_dataset(obj) else [obj]
    names: list[str] = []
    for variable in variables:
        name = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
        if name is not None:
            # CF allows "name: coordinate coordinate"; the mapping's name comes first.
            names.append(str(name).split(":")[0].split()[0])
    names += [
        name
        for name in (CRS_COORD, "crs")
        if name in obj.coords or (_is_dataset(obj) and name in obj)
    ]
    return list(dict.fromkeys(names))


def _crs_from_attrs(attrs: Any) -> pyproj.CRS | None:
    for key in ("crs_wkt", CRS_COORD, "crs", "proj4"):
        value = attrs.get(key)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            try:
                return _parse(value) if isinstance(value, str) else _to_pyproj(value)
            except InputError:
                continue
    if "grid_mapping_name" in attrs:
        import pyproj

        try:
            return pyproj.CRS.from_cf(dict(attrs))
        except (pyproj.exceptions.CRSError, KeyError):
            return None
    return None


@functools.lru_cache(maxsize=256)
def _parse(text: str | int) -> pyproj.CRS:
    """CRS from a name, code or WKT; one object for each, since parsing costs milliseconds."""
    import pyproj

    original = text
    if isinstance(text, str):
        text = text.strip()
        if text.lower() in NAMED_CRS:
            text = NAMED_CRS[text.lower()]
        elif re.fullmatch(r"301\d\d", text):
            text = int(text)
    if isinstance(text, int):
        # Bare lunar numbers are IAU's; any other bare number is an EPSG code, as everywhere.
        text = (
            f"IAU_2015:{text}"
            if 30100 <= text <= 30199
            else f"ESRI:{text}"
            if text == 104903
            else f"EPSG:{text}"
        )
    elif re.fullmatch(r"(?i)iau[_:]?2015:\d+", text):
        text = f"IAU_2015:{text.rsplit(':', 1)[1]}"
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        shown = str(original) if len(str(original)) < 80 else str(original)[:77] + "..."
        raise GridError(
            f"{shown!r} is not a coordinate reference system that PROJ understands",
            remedy='use "geographic", "equirectangular", "north", "south", an IAU_2015 code such as 30130, or WKT',
        ) from error


def _to_pyproj(crs: Any) -> pyproj.CRS:
    import pyproj

    if isinstance(crs, pyproj.CRS):
        return crs
    if isinstance(crs, (str, int, np.integer)):
        return _parse(crs if isinstance(crs, str) else int(crs))
    proj = getattr(crs, "proj", None)  # odc-geo
    if isinstance(proj, pyproj.CRS):
        return proj
    try:
        return _parse(crs.to_wkt())  # rasterio, osgeo-like
    except AttributeError:
        raise GridError(
            f"an object of type {type(crs).__name__} is not a coordinate reference system",
            remedy="give a name, a code, WKT, or a pyproj, rasterio or odc-geo CRS",
        ) from None


def _body(crs: pyproj.CRS) -> tuple[str, float | None]:
    """Name of the body as well as can be told, and its semi-major axis (m)."""
    ellipsoid = crs.ellipsoid
    if ellipsoid is None:
        return "no body (a local or engineering system)", None
    radius = float(ellipsoid.semi_major_metre)
    geodetic = crs.geodetic_crs
    names = " ".join(
        part.name
        for part in (crs, geodetic, None if geodetic is None else geodetic.datum, ellipsoid)
        if part is not None
    )
    named = [
        body
        for body in _RADII
        if re.search(rf"(?<![a-z]){body}(?![a-z])", names, flags=re.IGNORECASE)
    ]
    if named:
        return named[0], radius
    nearest = min(_RADII, key=lambda body: abs(_RADII[body] - radius))
    if abs(_RADII[nearest] - radius) < 0.01 * radius:
        return nearest, radius
    return "an unknown body", radius


def _parameters(crs: pyproj.CRS) -> tuple | None:
    """Projection parameters in a form that compares equal for equal mappings."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "you will lose information": only compared
        values = crs.to_dict()
    if not values:
        return None
    for key in ("no_defs", "type", "datum", "axis", "title"):
        values.pop(key, None)
    if values.get("proj") == "stere" and abs(values.get("lat_0", 0)) == 90:
        # Unit scale at the pole, written as a scale factor (variant A) or as a standard parallel (variant B).
        if values.get("lat_ts") == values["lat_0"]:
            values.pop("lat_ts")
            values["k"] = 1
        values.setdefault("k", 1)
    if values.get("proj") == "eqc":
        values.setdefault("lat_0", 0)
    if "a" in values and values.get("a") == values.get("b"):
        values["R"] = values.pop("a")
        values.pop("b")
    return tuple(
        sorted(
            (key, float(value) if isinstance(value, (int, float)) else value)
            for key, value in values.items()
        )
    )


def _checked_transform(obj: Any, dims: tuple[str, str], geobox: Any) -> tuple[float, ...]:
    from lunarray.geo.grid import grid_coords

    for dim, wanted in zip(dims, grid_coords(geobox).values(), strict=True):
        values = obj.coords[dim].values if dim in obj.coords else None
        step = abs(geobox.transform.e if dim == dims[0] else geobox.transform.a)
        if (
            values is None
            or values.shape != wanted.shape
            or np.abs(values - wanted.values).max() > 1e-3 * step
        ):
            raise GridError(
                "the coordinates are not those of the grid that is assigned",
                where=dim,
                remedy="assign the coordinates of lunarray.geo.grid_coords(geobox) first, or give the CRS alone",
            )
    return geobox.transform.to_gdal()


def _transform_of_coords(obj: Any, dims: tuple[str, str]) -> tuple[float, ...] | None:
    """GDAL-ordered transform, or None where the coordinates are not there or not regular."""
    from lunarray.geo.grid import affine_of_coords

    try:
        affine = affine_of_coords(obj, dims)
    except GridError:
        return None
    return affine.to_gdal()
