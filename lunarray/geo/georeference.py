"""Where an xarray object lies: its dimensions, coordinates and reference system, read and assigned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError, InputError
from lunarray.geo.crs import (
    BODIES,
    MOON,
    Bodies,
    as_crs,
    crs_code,
    moon_crs,
    parse_crs,
    require_body,
)
from lunarray.typing import T, typed

if TYPE_CHECKING:
    import pyproj
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox


#: Name of the coordinate that holds the CRS, as rioxarray and odc-geo expect it.
CRS_COORD = "spatial_ref"

_SPATIAL_DIMS = (("y", "x"), ("lat", "lon"), ("latitude", "longitude"))

#: CF attributes of coordinates by name.
COORD_ATTRS = {
    dim: {"standard_name": standard, "long_name": long_name, "units": units, "axis": axis}
    for dim, standard, long_name, units, axis in (
        ("x", "projection_x_coordinate", "x coordinate of projection", "m", "X"),
        ("y", "projection_y_coordinate", "y coordinate of projection", "m", "Y"),
        ("lon", "longitude", "longitude", "degrees_east", "X"),
        ("lat", "latitude", "latitude", "degrees_north", "Y"),
    )
}
COORD_ATTRS["longitude"] = COORD_ATTRS["lon"]
COORD_ATTRS["latitude"] = COORD_ATTRS["lat"]


def spatial_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Find the two spatial dimensions.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray

    Returns
    -------
    tuple of str or None
        ("y", "x") or ("lat", "lon"), or None where there are none.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.spatial_dims(la.sample("albedo"))
    ('lat', 'lon')
    """
    for dims in _SPATIAL_DIMS:
        if set(dims) <= set(obj.dims):
            return dims
    return None


def crs_of(obj: xr.Dataset | xr.DataArray) -> pyproj.CRS | None:
    """Tell the CRS that an xarray object carries.

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

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.crs_of(la.sample("albedo")).is_geographic
    True
    """
    found: list[pyproj.CRS] = []
    dataset = _is_dataset(obj)
    names = [n for n in _grid_mapping_names(obj) if n in obj.coords or (dataset and n in obj)]
    own = [obj.attrs, *(v.attrs for v in (obj.data_vars.values() if dataset else ()))]
    for holders in ([obj[name].attrs for name in names], own):
        for attrs in holders:
            crs = _crs_from_attrs(attrs)
            if crs is not None and all(crs != other for other in found):
                found.append(crs)
        if found:
            break
    if len(found) > 1:
        raise GridError(
            "variables carry different coordinate reference systems: "
            + ", ".join(repr(crs.name) for crs in found),
            remedy="Work on variables of one grid at a time, ds[[...]]",
        )
    return found[0] if found else None


def assign_crs(obj: T, crs: Any) -> T:
    """Give an xarray object a CRS that rioxarray, odc-geo and CF readers understand.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With dimensions (y, x) or (lat, lon).
    crs : str, int, CRS object or GeoBox
        What `moon_crs` takes, of the Moon or of Mercury; a GeoBox also gives the transform, to the last bit.

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

    Examples
    --------
    >>> import lunarray as la
    >>> import xarray as xr
    >>> ds = xr.Dataset(coords={"lat": [1.0, 0.0], "lon": [0.0, 1.0]})
    >>> la.geo.crs_of(la.geo.assign_crs(ds, "geographic")).is_geographic
    True
    """
    import xarray as xr

    geobox = crs if hasattr(crs, "transform") and hasattr(crs, "crs") else None
    crs = require_body(crs if geobox is None else geobox.crs, BODIES)
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
                {dim: coordinate.assign_attrs({**coordinate.attrs, **COORD_ATTRS[dim]})}
            )
    if isinstance(obj, xr.DataArray):
        return typed(_with_mapping(obj))
    spatial = {
        name: _with_mapping(obj[name])
        for name in obj.data_vars
        if dims is None or set(dims) <= set(obj[name].dims)
    }
    obj = obj.assign(spatial)
    obj.encoding.pop("grid_mapping", None)
    return obj


def assign_grid(obj: T, geobox: GeoBox) -> T:
    """Give an xarray object the coordinates and the CRS of a grid.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With the dimensions of the grid.
    geobox : odc.geo.geobox.GeoBox
        Of the Moon or of Mercury.

    Returns
    -------
    same type as `obj`
        With coordinates of the pixel centres and ``spatial_ref``.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> import xarray as xr
    >>> grid = la.geo.polar_grid("north", resolution=10_000, latitude=88)
    >>> heights = xr.DataArray(np.zeros(grid.shape), dims=("y", "x"))
    >>> la.geo.assign_grid(heights, grid).y.values[:2]
    array([65000., 55000.])
    """
    return assign_crs(obj.assign_coords(grid_coords(geobox)), geobox)


def grid_coords(geobox: GeoBox) -> dict[str, xr.Variable]:
    """Coordinates of the pixel centres of a grid.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        An axis-aligned grid.

    Returns
    -------
    dict of str to xarray.Variable
        "y" and "x" (m), or "lat" and "lon" (degrees), float64, with CF attributes, in the order of the array's axes.

    Examples
    --------
    >>> import lunarray as la
    >>> list(la.geo.grid_coords(la.geo.polar_grid("north", resolution=10_000)))
    ['y', 'x']
    """
    import xarray as xr

    require_aligned(geobox)
    rows, columns = geobox.shape
    affine = geobox.transform
    values = (
        affine.f + (np.arange(rows) + 0.5) * affine.e,
        affine.c + (np.arange(columns) + 0.5) * affine.a,
    )
    return {
        dim: xr.Variable((dim,), value, dict(COORD_ATTRS[dim]))
        for dim, value in zip(grid_dims(geobox), values, strict=True)
    }


def grid_dims(geobox: GeoBox) -> tuple[str, str]:
    """Name the dimensions of arrays on a grid.

    Parameters
    ----------
    geobox : GeoBox

    Returns
    -------
    tuple of str
        ("y", "x"), or ("lat", "lon") of a geographic grid.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.grid_dims(la.geo.polar_grid("north", resolution=10_000))
    ('y', 'x')
    """
    return ("lat", "lon") if as_crs(geobox.crs).is_geographic else ("y", "x")


def geobox_of(obj: xr.Dataset | xr.DataArray, body: Bodies = MOON) -> GeoBox:
    """Tell the grid that an xarray object lies on.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With dimensions (y, x) or (lat, lon), coordinates at the pixel centres, and a CRS. Without one, degrees are
        taken for IAU_2015:30100.
    body : Body or sequence of Body
        Which it may be of.

    Returns
    -------
    odc.geo.geobox.GeoBox
        The grid; for a part cut out of a grid, on that grid's own lattice to the last bit.

    Raises
    ------
    GridError
        If dimensions, coordinates or CRS are missing, or the coordinates are not regular.
    BodyMismatchError
        If the CRS is of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> tuple(la.geo.geobox_of(la.sample("albedo")).shape)
    (132, 192)
    """
    from odc.geo.geobox import GeoBox

    dims = spatial_dims(obj)
    if dims is None:
        raise GridError(
            f"there is no grid: the dimensions are {tuple(map(str, obj.dims))}",
            remedy="Give a map with dimensions (y, x) or (lat, lon); tracks become one with .lunar.grid",
        )
    crs = crs_of(obj)
    if crs is None and dims != ("y", "x"):
        crs = moon_crs("geographic")
    crs = require_body(crs, body, where=None if not getattr(obj, "name", None) else str(obj.name))
    return GeoBox((obj.sizes[dims[0]], obj.sizes[dims[1]]), affine_of_coords(obj, dims), crs)


def affine_of_coords(obj: xr.Dataset | xr.DataArray, dims: tuple[str, str]) -> Affine:
    """Transform from pixel corners to coordinates, from coordinates at the pixel centres along two dimensions.

    A ``GeoTransform`` in ``spatial_ref`` is used where it agrees with them. GridError if coordinates are missing or
    irregular.
    """
    from affine import Affine

    hint = _geotransform(obj)
    pairs = []
    for dim, offset, step in (
        (dims[0], None if hint is None else hint.f, None if hint is None else hint.e),
        (dims[1], None if hint is None else hint.c, None if hint is None else hint.a),
    ):
        if dim not in obj.coords:
            raise GridError(
                f"dimension {dim!r} has no coordinate",
                where=dim,
                remedy="Assign the coordinates of the pixel centres",
            )
        values = np.asarray(obj.coords[dim].values, dtype=np.float64)
        pairs.append(_regular_axis(values, dim, offset, step))
    (top, dy), (left, dx) = pairs
    return Affine(dx, 0.0, left, 0.0, dy, top)


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
                return parse_crs(value) if isinstance(value, str) else as_crs(value)
            except InputError:
                continue
    if "grid_mapping_name" in attrs:
        import pyproj

        try:
            return pyproj.CRS.from_cf(dict(attrs))
        except (pyproj.exceptions.CRSError, KeyError):
            return None
    return None


def _checked_transform(obj: Any, dims: tuple[str, str], geobox: Any) -> tuple[float, ...]:
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
                remedy="Assign the coordinates of lunarray.geo.grid_coords(geobox) first, or give the CRS alone",
            )
    return geobox.transform.to_gdal()


def _transform_of_coords(obj: Any, dims: tuple[str, str]) -> tuple[float, ...] | None:
    """GDAL-ordered transform, or None where the coordinates are not there or not regular."""
    try:
        affine = affine_of_coords(obj, dims)
    except GridError:
        return None
    return affine.to_gdal()


def require_aligned(geobox: Any) -> None:
    """Raise where a grid is rotated against the axes of its projection."""
    if not geobox.axis_aligned:
        raise GridError(
            "the grid is rotated or sheared", where="grid", remedy="Give an axis-aligned grid"
        )


def _geotransform(obj: Any) -> Affine | None:
    from affine import Affine

    text = obj.coords[CRS_COORD].attrs.get("GeoTransform") if CRS_COORD in obj.coords else None
    if text is None:
        return None
    try:
        values = [float(value) for value in (text.split() if isinstance(text, str) else text)]
        return Affine.from_gdal(*values)
    except (TypeError, ValueError, AttributeError):
        return None


def _regular_axis(
    values: np.ndarray, dim: str, offset: float | None, step: float | None
) -> tuple[float, float]:
    """(edge, step) of regularly spaced pixel centres, on the lattice (offset, step) where they lie on it."""
    if values.size and offset is not None and step:
        positions = (values - offset) / step - 0.5
        first = np.round(positions[0])
        if np.allclose(positions, first + np.arange(values.size), rtol=0.0, atol=1e-3):
            return float(offset + first * step), float(step)
    if values.size < 2:
        raise GridError(
            f"{values.size} pixel along {dim!r} does not tell the resolution",
            where=dim,
            remedy="Keep spatial_ref with its GeoTransform (lunarray.geo.assign_crs on the whole map), "
            "or give two pixels",
        )
    spacing = (values[-1] - values[0]) / (values.size - 1)
    # float32 coordinates are good to some 1e-7 of their largest value.
    tolerance = max(1e-3 * abs(spacing), 2e-7 * float(np.max(np.abs(values))))
    expected = values[0] + np.arange(values.size) * spacing
    if not np.isfinite(spacing) or spacing == 0.0 or np.max(np.abs(values - expected)) > tolerance:
        steps = np.diff(values)
        raise GridError(
            f"the coordinate is not regular: its steps lie between {steps.min():g} and {steps.max():g}",
            where=dim,
            remedy="Regrid the data on a regular grid first",
        )
    return float(values[0] - spacing / 2.0), float(spacing)
