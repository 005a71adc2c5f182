"""Bodies and their coordinate reference systems.

rasterio names no authority for systems of other bodies than the Earth (``to_epsg()`` is None), so identity is decided
here: by the code that the WKT carries, else by comparing parameters.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.geo.sphere import RADIUS

if TYPE_CHECKING:
    import pyproj

# What IAU_2015 adds to a hundred times the number of a body.
_SYSTEMS = {"geographic": 0, "equirectangular": 10, "north": 30, "south": 35}


@dataclass(frozen=True)
class Body:
    """A body whose maps lunarray can read.

    Attributes
    ----------
    name : str
        In English, as after "of".
    naif : int
        Its number at NAIF, from which its IAU_2015 codes are made.
    radius : float
        Of its sphere, m.
    radii : tuple of 2 float
        Between these (m) lie the semi-major axes that are in use for it.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.MOON.radius
    1737400.0
    """

    name: str
    naif: int
    radius: float
    radii: tuple[float, float]

    @property
    def systems(self) -> dict[str, str]:
        """Codes of its reference systems by short name."""
        return {name: f"IAU_2015:{100 * self.naif + k}" for name, k in _SYSTEMS.items()}

    def crs(self, system: str = "geographic") -> pyproj.CRS:
        """One of its reference systems, by short name: "geographic", "equirectangular", "north" or "south"."""
        return parse_crs(self.systems[system])

    def holds(self, crs: Any) -> bool:
        """Whether a CRS is of this body, judged by the radius of its sphere or ellipsoid."""
        ellipsoid = as_crs(crs).ellipsoid
        return ellipsoid is not None and (
            self.radii[0] <= float(ellipsoid.semi_major_metre) <= self.radii[1]
        )


#: Spheres in use lie between 1736.0 km (polar radius) and 1738.1 km (equatorial radius, older products).
MOON = Body("the Moon", 301, RADIUS, (1_735_900.0, 1_738_400.0))
MERCURY = Body("Mercury", 199, 2_439_400.0, (2_437_000.0, 2_441_500.0))
#: Every body that some verb takes.
BODIES = (MOON, MERCURY)
Bodies = Body | Sequence[Body]

#: The short names of the lunar systems, with their codes.
NAMED_CRS = MOON.systems

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


def moon_crs(name_or_code: Any = "geographic") -> pyproj.CRS:
    """Make a lunar CRS from a short name, a code, WKT, or any CRS object.

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

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.moon_crs("south").name
    'Moon (2015) - Sphere / Ocentric / South Polar'
    """
    return require_body(name_or_code)


def require_body(crs: Any, body: Bodies = MOON, where: str | None = None) -> pyproj.CRS:
    """Refuse a CRS of any other body than the ones given.

    Parameters
    ----------
    crs : str, int, CRS object or None
        What `moon_crs` takes.
    body : Body or sequence of Body
        Which are allowed: ``MOON``, ``MERCURY``, ``BODIES``.
    where : str, optional
        The file or variable that the CRS came with, for the message.

    Returns
    -------
    pyproj.CRS
        The CRS. Systems equal to one of a body's named ones come back as that one, with its code.

    Raises
    ------
    BodyMismatchError
        If it is a CRS of another body; the message names the body.
    GridError
        If there is none, or it cannot be understood.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.require_body("IAU_2015:30100").is_geographic
    True
    """
    allowed = (body,) if isinstance(body, Body) else tuple(body)
    if crs is None:
        raise GridError(
            "there is no coordinate reference system",
            where=where,
            remedy="Give one of IAU_2015:30100, 30110, 30130 or 30135, for instance with "
            "lunarray.geo.assign_crs(obj, 'north')",
        )
    try:
        parsed = as_crs(crs)
    except InputError as error:
        raise type(error)(error.problem, where=where or error.where, remedy=error.remedy) from None
    known = _recognised(parsed.to_wkt())
    if known is not None and known[0] in allowed:
        return known[1]
    name, radius = _name_of_body(parsed)
    names = [one.name for one in allowed]
    size = "" if radius is None else f" (semi-major axis {radius:,.0f} m; the Moon's is {RADIUS:,.0f} m)"  # fmt: skip
    not_of = f"not of {names[0]}" if len(names) == 1 else f"neither of {' nor of '.join(names)}"
    raise BodyMismatchError(
        f"the CRS {parsed.name!r} is of {name}{size}, {not_of}",
        where=where,
        remedy=(
            "Give lunar data; if the coordinates are lunar and only the label is wrong, assign the right CRS with "
            "lunarray.geo.assign_crs (IAU_2015:30100, 30110, 30130 or 30135)"
        ),
    )


def body_of(crs: Any) -> Body | None:
    """Tell which body a CRS belongs to.

    Parameters
    ----------
    crs : str, int or CRS object
        What `moon_crs` takes.

    Returns
    -------
    Body or None
        One of ``BODIES``, or None for any other.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.body_of("IAU_2015:30100").name
    'the Moon'
    """
    known = _recognised(as_crs(crs).to_wkt())
    return None if known is None else known[0]


@functools.lru_cache(maxsize=256)
def _recognised(wkt: str) -> tuple[Body, pyproj.CRS] | None:
    """Body of a CRS, and the CRS by its code where it has one: milliseconds of work, that every block asks for."""
    parsed = parse_crs(wkt)
    body = next((one for one in BODIES if one.holds(parsed)), None)
    if body is None:
        return None
    code = crs_code(parsed)
    return body, parse_crs(code) if code in body.systems.values() else parsed


def crs_code(crs: Any) -> str | None:
    """Code of a CRS, such as ``"IAU_2015:30130"``.

    Parameters
    ----------
    crs : str, int or CRS object
        What `moon_crs` takes.

    Returns
    -------
    str or None
        "AUTHORITY:CODE"; for systems without one, the code of the named system of the Moon or of Mercury with the same
        parameters, else None.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.crs_code(la.geo.moon_crs("north"))
    'IAU_2015:30130'
    """
    crs = as_crs(crs)
    authority = crs.to_authority(min_confidence=100)
    if authority is not None:
        return ":".join(authority)
    wanted = _parameters(crs)
    if wanted is None:
        return None
    for body in BODIES:
        for code in body.systems.values() if body.holds(crs) else ():
            if wanted == _parameters(parse_crs(code)):
                return code
    return None


def crs_name(crs: Any) -> str:
    """Short name of a lunar CRS, as :func:`moon_crs` takes it; empty where it has none."""
    code = crs_code(crs)
    return next((name for name, known in NAMED_CRS.items() if known == code), "")


@functools.lru_cache(maxsize=256)
def parse_crs(text: str | int) -> pyproj.CRS:
    """CRS from a name, code or WKT; one object for each, since parsing costs milliseconds."""
    import pyproj

    original = text
    if isinstance(text, str):
        text = text.strip()
        if text.lower() in NAMED_CRS:
            text = NAMED_CRS[text.lower()]
        elif re.fullmatch(r"(301|199)\d\d", text):
            text = int(text)
    if isinstance(text, int):
        # Bare numbers of the Moon and of Mercury are IAU's; any other bare number is an EPSG code, as everywhere.
        text = (
            f"IAU_2015:{text}"
            if text // 100 in {one.naif for one in BODIES}
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
            remedy='Use "geographic", "equirectangular", "north", "south", an IAU_2015 code such as 30130, or WKT',
        ) from error


def as_crs(crs: Any) -> pyproj.CRS:
    """CRS of any body from whatever says one: what `moon_crs` takes."""
    import pyproj

    if isinstance(crs, pyproj.CRS):
        return crs
    if isinstance(crs, (str, int, np.integer)):
        return parse_crs(crs if isinstance(crs, str) else int(crs))
    proj = getattr(crs, "proj", None)  # odc-geo
    if isinstance(proj, pyproj.CRS):
        return proj
    try:
        return parse_crs(crs.to_wkt())  # rasterio, osgeo-like
    except AttributeError:
        raise GridError(
            f"an object of type {type(crs).__name__} is not a coordinate reference system",
            remedy="Give a name, a code, WKT, or a pyproj, rasterio or odc-geo CRS",
        ) from None


# --- between projections and longitudes -----------------------------------------------------------


def radius_of(crs: Any) -> float:
    """Radius (m) of the sphere of a CRS; of an ellipsoid the longer one."""
    ellipsoid = as_crs(crs).ellipsoid
    if ellipsoid is None:
        raise GridError(
            "a CRS without a body", where="crs", remedy="Give one of the Moon or of Mercury"
        )
    return float(ellipsoid.semi_major_metre)


@functools.lru_cache(maxsize=64)
def _transformer(wkt: str, forward: bool) -> pyproj.Transformer:
    """Between a projection and longitudes and latitudes; kept, since making one costs milliseconds.

    On the projection's own sphere: no datum shift between a body's many equal spheres. pyproj sees to it that each
    thread has one of its own.
    """
    import pyproj

    crs = parse_crs(wkt)
    source, target = (crs.geodetic_crs, crs) if forward else (crs, crs.geodetic_crs)
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def to_lonlat(crs: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes (degrees, float64) of coordinates in a CRS; infinite where they are of no place.

    On the sphere that the CRS is defined on.
    """
    crs = as_crs(crs)
    if crs.is_geographic:
        return np.asarray(x, np.float64), np.asarray(y, np.float64)
    lon, lat = _transformer(crs.to_wkt(), False).transform(x, y)
    return np.asarray(lon), np.asarray(lat)


def from_lonlat(crs: Any, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (float64) in a CRS of longitudes and latitudes in degrees; infinite where it has no image."""
    crs = as_crs(crs)
    if crs.is_geographic:
        return np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    x, y = _transformer(crs.to_wkt(), True).transform(lon, lat)
    return np.asarray(x), np.asarray(y)


def period_of(crs: Any) -> float | None:
    """Length of one turn of longitude along x: degrees, or metres in cylindrical projections; else None."""
    crs = as_crs(crs)
    if crs.is_geographic:
        return 360.0
    operation = crs.coordinate_operation
    if operation is None or "cylindrical" not in operation.method_name.lower():
        return None
    parallel = next(
        (p.value for p in operation.params if "standard parallel" in p.name.lower()), 0.0
    )
    return 2.0 * math.pi * radius_of(crs) * math.cos(math.radians(float(parallel)))


# --- comparing and naming -------------------------------------------------------------------------


def _name_of_body(crs: pyproj.CRS) -> tuple[str, float | None]:
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
