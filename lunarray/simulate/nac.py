"""Ground as LROC NAC would see it, with impact melt fractures whose lines, widths and outlines are known.

Everything is drawn once from the seed as a few tables (craters, boulders, segments of lines); pixels follow from their
place and the tables, so that a mosaic of any size is made in blocks that fit to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError, require_choice, require_number
from lunarray.simulate import terrain
from lunarray.simulate.nac_ground import (
    CLASS_NAMES,
    OTHERS,
    PATTERNS,
    PIT,
    PROFILES,
    WIDTH_SHARES,
    Fracture,
    draw_boulders,
    draw_craters,
    draw_edges,
    draw_fractures,
    draw_others,
    draw_ridges,
    draw_strips,
    pond_level,
)
from lunarray.simulate.nac_pixels import NacTerrain, layers_of

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr
    from odc.geo.geobox import GeoBox


@dataclass(frozen=True)
class NacScene:
    """A simulated NAC mosaic and the truth about it.

    Attributes
    ----------
    dataset : xarray.Dataset
        ``image`` (y, x) float32, radiance factor (I/F), NaN without data; ``mask`` (y, x) uint8, 1 inside fractures and
        pits, 255 without data; ``width_class`` (y, x) uint8, 0 outside, 1-5 for tiny to huge, 6 for pits, of the widest
        fracture in a pixel; ``ridge`` (y, x) uint8, 1 on ridges outside fractures; ``source`` (y, x) int16, number of
        the image in the mosaic, -1 without data. Lazy if chunked.
    table : geopandas.GeoDataFrame
        Fractures as lines through their middle; see :attr:`lines`.
    segments : dict
        Tapered segments of each fracture and pit, by ``id``, in pixels.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> sorted(scene.dataset.data_vars)
    ['image', 'mask', 'ridge', 'source', 'width_class']
    """

    dataset: xr.Dataset
    table: gpd.GeoDataFrame
    segments: dict[int, np.ndarray]

    @property
    def lines(self) -> gpd.GeoDataFrame:
        """Fractures as a mapper would draw them.

        Lines with ``id``, ``width`` (name of the class), ``width_m`` (nominal), ``pattern``, ``profile`` ("V", "U",
        "W" for worn, "F" for filled) and ``complex`` (number): what :func:`lunarray.fractures.weak_labels` takes.
        """
        return self.table[self.table["pattern"] != "pit"].reset_index(drop=True)

    @property
    def pits(self) -> gpd.GeoDataFrame:
        """Outlines of pits, which are labelled as polygons: the rows of :attr:`polygons` that are pits."""
        polygons = self.polygons
        return polygons[polygons["pattern"] == "pit"].reset_index(drop=True)

    @cached_property
    def polygons(self) -> gpd.GeoDataFrame:
        """True outlines of fractures and pits, the ground that the mask marks; those of crossing ones overlap."""
        from lunarray.geo import geobox_of

        outlines = _outlines(self.segments, self.table["id"].to_numpy())
        placed = _to_ground(outlines, geobox_of(self.dataset["image"]))
        return self.table.set_geometry(placed, crs=self.table.crs)


@dataclass(frozen=True, kw_only=True)
class NacSettings:
    """What a simulated ground has on it, and how a mosaic of it is made. Counts are by megapixel.

    Attributes
    ----------
    fractures : float
        Complexes of fractures.
    widths : mapping of str to float
        Shares of the classes of width; by default those of Le Corre et al. (2025).
    patterns : mapping of str to float
        Shares of "curvilinear", "polygonal" and "en echelon" complexes.
    melt : float
        Share of the ground that is melt ponds, where fractures are.
    pits, craters, boulders, ridges : float
        Pits on fractures, craters of 3 and more pixels radius, boulders, ridges.
    smallest_crater : float
        Radius of the smallest craters, pixels: below 3, those that most of a real image shows, the more the smaller.
    wear : float
        Share of the complexes that are worn: shallow, their walls soft, or filled to a flat floor.
    others : mapping of str to float
        What else may be taken for a fracture: "wrinkles" (wrinkle ridges: an arch with a crest, in ``ridge`` too),
        "massifs" (hills that cast long shadows), "scarps" (lobate: steep on one side), "terraces" (scarps in flights),
        "tracks" (of boulders); and "patches", the contrast (0 to 1) of patches of another albedo with sharp borders.
    light : {"lunar-lambert", "hapke"}
        Law of photometry: the simple one, or one like Hapke's, in which slopes away from the sun darken less.
    roughness : float
        Factor of the slopes of the relief.
    noise : float
        Factor of the sensor's noise, which is about 1 % of level ground at 45° incidence.
    psf : float
        Standard deviation of the point spread, pixels.
    strip_width : float or None
        Width of the images that make up the mosaic, pixels; None for one image.
    nodata : bool
        Whether the mosaic has slanted edges and gaps between some strips, without data.

    Raises
    ------
    InputError
        A number or share that makes no sense.

    Examples
    --------
    >>> import lunarray as la
    >>> la.simulate.NacSettings(fractures=3.0).fractures
    3.0
    """

    fractures: float = 6.0
    widths: Mapping[str, float] = field(default_factory=WIDTH_SHARES.copy)
    patterns: Mapping[str, float] = field(default_factory=PATTERNS.copy)
    melt: float = 0.6
    pits: float = 0.3
    craters: float = 400.0
    boulders: float = 400.0
    ridges: float = 6.0
    smallest_crater: float = 3.0
    wear: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)
    light: Literal["lunar-lambert", "hapke"] = "lunar-lambert"
    roughness: float = 1.0
    noise: float = 1.0
    psf: float = 0.6
    strip_width: float | None = 1700.0
    nodata: bool = True

    def __post_init__(self) -> None:
        for name, high in (
            ("fractures", 1e3), ("melt", 1.0), ("pits", 1e3), ("craters", 1e5), ("boulders", 1e5),
            ("ridges", 1e3), ("wear", 1.0), ("roughness", 100.0), ("noise", 1e3), ("psf", 10.0),
        ):  # fmt: skip
            require_number(name, getattr(self, name), 0.0, high)
        require_number("smallest_crater", self.smallest_crater, 0.5, 3.0)
        if self.strip_width is not None:
            require_number("strip_width", self.strip_width, 16.0)
        _shares(self.widths, CLASS_NAMES, "widths")
        _shares(self.patterns, tuple(PATTERNS), "patterns")
        require_choice("light", self.light, ("lunar-lambert", "hapke"))
        for name, value in self.others.items():
            require_choice("others", name, OTHERS)
            require_number(f"others[{name!r}]", value, 0.0, 1.0 if name == "patches" else 1e3)


def nac_scene(
    shape: tuple[int, int] = (2048, 2048),
    resolution: float = 1.5,
    settings: NacSettings | None = None,
    *,
    incidence: float = 60.0,
    azimuth: float = 120.0,
    seed: int = 0,
    chunks: int | None = None,
    crs: Any = "equirectangular",
    origin: tuple[float, float] = (0.0, 0.0),
) -> NacScene:
    """Simulate a NAC mosaic of ground with impact melt fractures, and tell where they are.

    After Le Corre et al. (2025), J. Geophys. Res. Planets 130, e2025JE009145, section 3.1.

    Fractal relief, smoother in melt ponds, with craters, boulders and ridges; fractures with V- or U-shaped troughs in
    the ponds: curvilinear, often several beside each other, polygonal networks, or en echelon. Lit by the sun, with
    cast shadows and Lunar-Lambert photometry, blurred, put together of strips with gain and offset of their own, with
    noise. Widths and lengths are in pixels, as the classes of width are; a pixel depends on its place and the seed
    only, so that chunks do not matter, and the ground does not depend on the sun.

    Parameters
    ----------
    shape : tuple of 2 ints, optional
        Rows and columns.
    resolution : float, optional
        Pixel size, m.
    settings : NacSettings, optional
        What is on the ground, and how its mosaic is made.
    incidence, azimuth : float, optional
        Of the sun, degrees: 0 is overhead; azimuth towards the sun, clockwise from the top of the image. What stands
        more than 400 pixels away casts no shadow.
    seed : int, optional
        Another seed, another ground.
    chunks : int, optional
        Side of the chunks of a lazy result; by default all is computed at once.
    crs : CRS or name, optional
        Of the grid, see :func:`lunarray.geo.moon_crs`; projected.
    origin : tuple of 2 floats, optional
        x and y of the top left corner, m.

    Returns
    -------
    NacScene
        Image, masks, lines and polygons.

    Raises
    ------
    InputError
        A shape or number that makes no sense.
    GridError, BodyMismatchError
        A CRS that is none, geographic, or not of the Moon.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256), incidence=70.0)
    >>> scene.dataset["image"].shape
    (256, 256)
    """
    from lunarray.geo import assign_crs
    from lunarray.store.provenance import stamp

    settings = NacSettings() if settings is None else settings
    rows, columns = _check_shape(shape)
    require_number("resolution", resolution, 1e-6)
    require_number("incidence", incidence, 0.0, 89.0)
    require_number("azimuth", azimuth, -360.0, 720.0)
    if chunks is not None:
        require_number("chunks", chunks, 1)
    geobox = _grid(rows, columns, float(resolution), crs, origin)
    drawn, lines = _drawn(settings, rows, columns, int(seed), float(incidence), float(azimuth))
    dataset = _dataset(layers_of(drawn, rows, columns, chunks), geobox)
    # A detector that has to know the light is often given the image alone.
    dataset["image"].attrs["sun_azimuth"] = float(azimuth)
    dataset.attrs |= {
        "instrument": "LROC NAC, simulated",
        "incidence_angle": float(incidence),
        "sun_azimuth": float(azimuth),
        "source": f"lunarray.simulate.nac_scene(shape={(rows, columns)}, resolution={resolution}, "
        f"incidence={incidence}, azimuth={azimuth}, seed={int(seed)})",
    }
    dataset = assign_crs(stamp(dataset, "simulated a NAC mosaic"), geobox)
    return NacScene(dataset, _table(lines, geobox), {f.id: f.segments for f in lines})


def _drawn(
    settings: NacSettings, rows: int, columns: int, seed: int, incidence: float, azimuth: float
) -> tuple[NacTerrain, list[Fracture]]:
    level = pond_level(seed, settings.melt)
    lines = draw_fractures(
        seed,
        rows,
        columns,
        level,
        settings.fractures,
        settings.pits,
        float(settings.wear),
        _shares(settings.widths, CLASS_NAMES, "widths"),
        _shares(settings.patterns, tuple(PATTERNS), "patterns"),
    )
    raised, scarps, dents, rolled = draw_others(seed, rows, columns, settings.others)
    drawn = NacTerrain(
        seed=seed,
        incidence=incidence,
        azimuth=azimuth,
        pond_level=level,
        roughness=float(settings.roughness),
        noise=float(settings.noise),
        psf=float(settings.psf),
        craters=draw_craters(
            seed, rows, columns, settings.craters, float(settings.smallest_crater)
        ),
        boulders=np.concatenate([draw_boulders(seed, rows, columns, settings.boulders), rolled]),
        ridges=np.concatenate([draw_ridges(seed, rows, columns, settings.ridges), raised]),
        scarps=scarps,
        dents=dents,
        patches=float(settings.others.get("patches", 0.0)),
        hapke=settings.light == "hapke",
        fractures=np.concatenate(
            [np.empty((0, terrain.SEGMENT_COLUMNS)), *(f.segments for f in lines)]
        ),
        strips=draw_strips(seed, rows, columns, settings.strip_width, settings.nodata),
        nodata=draw_edges(seed, rows, columns, settings.nodata),
    )
    return drawn, lines


def _dataset(pieces: dict[str, Any], geobox: GeoBox) -> xr.Dataset:
    import xarray as xr

    from lunarray.geo import grid_coords

    attrs: dict[str, dict[str, Any]] = {
        "image": {"long_name": "radiance factor (I/F)", "units": "1"},
        "mask": {
            "long_name": "fracture",
            "flag_values": [0, 1, 255],
            "flag_meanings": "ground fracture no_data",
        },
        "width_class": {
            "long_name": "class of width of the widest fracture",
            "flag_values": list(range(PIT + 1)),
            "flag_meanings": " ".join(("none", *CLASS_NAMES, "pit")),
        },
        "ridge": {"long_name": "ridge"},
        "source": {"long_name": "number of the image in the mosaic"},
    }
    layers = {name: (("y", "x"), pieces[name], about) for name, about in attrs.items()}
    return xr.Dataset(layers, coords=grid_coords(geobox))


# Vectors --------------------------------------------------------------------------------------------------------------


def _grid(
    rows: int, columns: int, resolution: float, crs: Any, origin: tuple[float, float]
) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from lunarray.errors import GridError
    from lunarray.geo import moon_crs

    system = moon_crs(crs)
    if system.is_geographic:
        raise GridError(
            "a NAC scene needs a projected grid",
            where="crs",
            remedy='Use "equirectangular", "north" or "south"',
        )
    left, top = (float(value) for value in origin)
    return GeoBox((rows, columns), Affine(resolution, 0.0, left, 0.0, -resolution, top), system)


def _table(lines: list[Fracture], geobox: GeoBox) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely

    resolution = geobox.transform.a
    geometry = [shapely.LineString(f.points) for f in lines]
    names = (*CLASS_NAMES, "pit")
    return gpd.GeoDataFrame(
        {
            "id": np.array([f.id for f in lines], np.int64),
            "width": np.array([names[f.width_class] for f in lines], object),
            "width_m": np.array([f.width * resolution for f in lines], np.float64),
            "pattern": np.array([f.pattern for f in lines], object),
            "profile": np.array([PROFILES[f.profile] for f in lines], object),
            "complex": np.array([f.complex for f in lines], np.int64),
        },
        geometry=_to_ground(np.array(geometry, object), geobox),
        crs=None if geobox.crs is None else geobox.crs.to_wkt(),
    )


def _to_ground(geometry: np.ndarray, geobox: GeoBox) -> np.ndarray:
    """Places in pixels (0 is a pixel's centre) to those of the grid."""
    import shapely

    t = geobox.transform
    return shapely.transform(
        geometry,
        lambda p: np.column_stack([t.c + (p[:, 0] + 0.5) * t.a, t.f + (p[:, 1] + 0.5) * t.e]),
    )


def _outlines(segments: dict[int, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Polygon of each fracture, in pixels: trapezoids of the segments and circles at their ends."""
    import shapely

    out = np.empty(len(ids), object)
    for n, number in enumerate(ids):
        s = segments[int(number)]
        a, b, aw, bw = s[:, 0:2], s[:, 3:5], s[:, 2:3], s[:, 5:6]
        unit = (b - a) / np.hypot(*(b - a).T)[:, None]
        normal = np.column_stack([-unit[:, 1], unit[:, 0]])
        ring = np.stack(
            [a + aw * normal, b + bw * normal, b - bw * normal, a - aw * normal], axis=1
        )
        circles = shapely.buffer(
            shapely.points(np.vstack([a, b[-1:]])), np.append(s[:, 2], s[-1, 5]), quad_segs=12
        )
        out[n] = shapely.union_all(np.concatenate([shapely.polygons(ring), circles]))
    return out


# Checks ---------------------------------------------------------------------------------------------------------------


def _check_shape(shape: Any) -> tuple[int, int]:
    try:
        rows, columns = (int(n) for n in shape)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise InputError(
            f"{shape!r} is not a shape",
            where="shape",
            remedy="Give (rows, columns), each 1 or more",
        )
    return rows, columns


def _shares(given: Mapping[str, float], names: tuple[str, ...], where: str) -> np.ndarray:
    unknown = sorted(set(given) - set(names))
    values = np.array([float(given.get(name, 0.0)) for name in names])
    if unknown or not (values >= 0).all() or not 0 < values.sum() < math.inf:
        raise InputError(
            f"{dict(given)!r} are not shares",
            where=where,
            remedy=f"Give numbers of 0 or more for some of {', '.join(names)}",
        )
    return values / values.sum()
