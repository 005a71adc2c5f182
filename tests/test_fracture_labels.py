"""Weak labels: against distances to the lines, in any chunks and CRS; the USGS lines and the pits; bad input."""

from __future__ import annotations

import dask
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError, LunarrayWarning
from lunarray.fractures import vectorize, weak_labels
from lunarray.fractures.labels import CLASS_WIDTHS, width_class
from lunarray.geo import BODIES, assign_grid, covering_box, require_body, transform_geometry

# rasterio opens its own grid in memory without a place, and hides that in the main thread only.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Dataset has no geotransform"),
    pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS"),
]
SOUTH = geo.moon_crs("south")


def _image(rows=200, columns=260, resolution=1.5, corner=(90_000.0, -180_000.0)):
    box = covering_box(
        (*corner, corner[0] + columns * resolution, corner[1] + rows * resolution), resolution, SOUTH
    )  # fmt: skip
    data = np.ones((rows, columns), np.float32)
    return assign_grid(xr.DataArray(data, dims=("y", "x"), name="image"), box)


def _lines(shapes, crs=SOUTH, **columns):
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs.to_wkt())


def _distance(image, line):
    """From each pixel's middle to a line, in pixels."""
    x, y = np.meshgrid(image.x, image.y)
    return shapely.distance(shapely.points(x, y), line) / 1.5


CRACKS = [
    shapely.LineString([(90_010, -179_990), (90_200, -179_930), (90_300, -179_970)]),
    shapely.LineString([(90_020, -179_760), (90_350, -179_800)]),
    shapely.LineString([(90_200, -179_990), (90_180, -179_720)]),
]


def test_bands_are_as_wide_as_their_class():
    image = _image()
    classes = ["tiny", "Medium", " LARGE "]
    labels = weak_labels(_lines(CRACKS, width=classes), image)
    assert labels.dtype == np.uint8
    assert labels.dims == ("y", "x")
    assert labels.attrs["features"] == 3
    distances = [_distance(image, line) for line in CRACKS]
    half = [CLASS_WIDTHS[c.strip().lower()] / 2 for c in classes]
    inside = np.any([d < h - 0.05 for d, h in zip(distances, half, strict=True)], axis=0)
    outside = np.all([d > h + 0.05 for d, h in zip(distances, half, strict=True)], axis=0)
    assert (labels.values[inside] == 1).all()
    assert (labels.values[outside] == 0).all()
    # Width in pixels of the image's own resolution: at 6 m the band is four times as wide on the ground.
    coarse = _image(50, 65, 6.0)
    area = [weak_labels(_lines(CRACKS[:1], width=["medium"]), im).values.sum() * im_res**2
            for im, im_res in ((image, 1.5), (coarse, 6.0))]  # fmt: skip
    assert area[1] / area[0] == pytest.approx(4, rel=0.25)


def test_numbers_one_class_for_all_and_classes_of_ones_own():
    image = _image()
    by_class = weak_labels(_lines(CRACKS, width=["small"] * 3), image)
    for options in (
        {"lines": _lines(CRACKS, px=[7.5, 7.5, 7.5]), "width": "px"},
        {"lines": _lines(CRACKS), "width": "small"},
        {"lines": _lines(CRACKS), "width": 7.5},
        {"lines": _lines(CRACKS, kind=["rille"] * 3), "width": "kind", "widths": {"Rille": 7.5}},
    ):
        xr.testing.assert_equal(by_class, weak_labels(like=image, **options))


def test_polygons_are_merged_and_have_no_width():
    image = _image()
    pit = shapely.Point(90_300, -179_850).buffer(30)
    alone = weak_labels(_lines(CRACKS, width=["tiny"] * 3), image)
    merged = weak_labels(_lines(CRACKS, width=["tiny"] * 3), image, polygons=_lines([pit]))
    mixed = weak_labels(_lines([*CRACKS, pit], width=["tiny"] * 3 + [None]), image)
    xr.testing.assert_equal(merged, mixed)
    drawn = _distance(image, pit) == 0
    np.testing.assert_array_equal(merged, alone.values | drawn)
    point = weak_labels(_lines([shapely.Point(90_300.75, -179_850.75)]), image, width=10.0)
    assert point.values.sum() == pytest.approx(25 * np.pi, rel=0.12)


def test_the_same_for_any_chunks_lazy_and_with_no_data(no_compute):
    image = _image()
    image = image.where((image.x > 90_060) | (image.y > -179_900))
    frame = _lines(CRACKS, width=["huge", "small", "tiny"])
    whole = weak_labels(frame, image)
    assert ((whole == 255) == image.isnull()).all()
    for chunks in ((64, 64), (33, 260), (200, 7)):
        lazy = weak_labels(frame, image.chunk(y=chunks[0], x=chunks[1]))
        assert lazy.chunks == ((*lazy.chunks[0],), (*lazy.chunks[1],))
        with dask.config.set(scheduler="synchronous"):
            xr.testing.assert_equal(whole, lazy.compute())


def test_lines_in_degrees_from_files(tmp_path):
    image = _image()
    frame = _lines(CRACKS, width=["medium", "small", "tiny"])
    expected = weak_labels(frame, image)
    degrees = frame.copy()
    degrees["geometry"] = transform_geometry(
        shapely.segmentize(frame.geometry.to_numpy(), 5.0), SOUTH, "geographic"
    )
    degrees = degrees.set_crs(geo.moon_crs("geographic").to_wkt(), allow_override=True)
    for suffix in (".gpkg", ".shp", ".geojson"):
        degrees.to_file(tmp_path / f"lines{suffix}")
    for suffix in (".gpkg", ".shp"):
        made = weak_labels(tmp_path / f"lines{suffix}", image)
        assert int((made != expected).sum()) <= 3, suffix
    # Without a .prj a shapefile is anything.
    (tmp_path / "lines.prj").unlink()
    with pytest.raises(GridError, match=r"no coordinate reference system.*\.prj.*crs="):
        weak_labels(tmp_path / "lines.shp", image)
    made = weak_labels(tmp_path / "lines.shp", image, crs="geographic")
    assert int((made != expected).sum()) <= 3


def test_curves_between_projections():
    """A parallel is a straight line in degrees and an arc on the polar map."""
    box = covering_box((-60_000, -60_000, 60_000, 60_000), 100.0, SOUTH)
    image = assign_grid(xr.DataArray(np.ones(box.shape, np.float32), dims=("y", "x")), box)
    parallel = shapely.LineString([(-180, -88.5), (180, -88.5)])
    labels = weak_labels(_lines([parallel], geo.moon_crs("geographic")), image, width=3.0)
    x, y = np.meshgrid(image.x, image.y)
    rho = 2 * 1_737_400 * np.tan(np.deg2rad(1.5 / 2))
    off = np.abs(np.hypot(x, y) - rho) / 100
    assert (labels.values[off < 1.4] == 1).all()
    assert (labels.values[off > 1.6] == 0).all()
    assert vectorize(labels, min_area=0).geometry.iloc[0].interiors


def test_longitudes_from_0_to_360():
    box = covering_box(
        (-1_000_000, 0, -990_000, 5_000), 50.0, geo.moon_crs("equirectangular")
    )  # 33° W
    image = assign_grid(xr.DataArray(np.ones(box.shape, np.float32), dims=("y", "x")), box)
    lon = np.rad2deg(-995_000 / 1_737_400)
    for turn in (0, 360):
        line = shapely.LineString([(lon + turn, 0.02), (lon + turn, 0.12)])
        labels = weak_labels(_lines([line], geo.moon_crs("geographic")), image, width=5.0)
        assert labels.values.sum() == pytest.approx(5 * np.deg2rad(0.1) * 1_737_400 / 50, rel=0.2)


def test_labels_outside_are_said():
    far = _lines([shapely.LineString([(0, 0), (100, 100)])], width=["tiny"])
    with pytest.warns(LunarrayWarning, match="none of the 1 features is on the image"):
        labels = weak_labels(far, _image())
    assert labels.attrs["features"] == 0
    assert not labels.values.any()
    with pytest.warns(LunarrayWarning, match="no features"):
        assert not weak_labels(far[:0], _image()).values.any()


def test_width_class():
    assert width_class([0, 4.99, 5, 10, 19.9, 20, 30, 1000]).tolist() == [
        "tiny", "tiny", "small", "medium", "medium", "large", "huge", "huge",
    ]  # fmt: skip
    assert width_class([2.5, 7.5, 15, 25, 35]).tolist() == list(CLASS_WIDTHS)
    with pytest.raises(InputError, match="negative"):
        width_class([1, np.nan])


def test_what_is_refused(tmp_path):
    image = _image()
    good = _lines(CRACKS, width=["tiny", "tiny", "tiny"])
    (tmp_path / "text.shp").write_text("no")
    bare = xr.DataArray(np.ones((5, 5), np.float32), dims=("y", "x"))
    mercury = "+proj=longlat +R=2439700 +no_defs"
    for lines, options, error, words in (
        (good, {"like": bare}, GridError, "not georeferenced"),
        (_lines(CRACKS, width=["tiny", "wide", "tiny"]), {}, InputError, "feature 1: 'wide'.*tiny, small"),
        (_lines(CRACKS, width=[1.0, -1.0, 2.0]), {}, InputError, "feature 1"),
        (_lines(CRACKS), {}, InputError, "neither a column 'width' nor a class"),
        (good, {"width": -1.0}, InputError, "width"),
        (good, {"polygons": good}, InputError, "polygons: features of type LineString"),
        (tmp_path / "none.shp", {}, InputError, "no such file"),
        (tmp_path / "text.shp", {}, InputError, "cannot be read"),
        (good.set_crs("EPSG:4326", allow_override=True), {}, BodyMismatchError, "neither of the Moon"),
        (good, {"crs": mercury}, BodyMismatchError, "different bodies"),
        ([1, 2], {}, InputError, "no set of vectors"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            weak_labels(lines, **{"like": image, **options})


# --- real files -----------------------------------------------------------------------------------


def _around(frame, resolution):
    crs = require_body(frame.crs, BODIES)
    box = covering_box(tuple(frame.total_bounds), resolution, crs)
    dims = ("lat", "lon") if crs.is_geographic else ("y", "x")
    return assign_grid(xr.DataArray(np.ones(box.shape, np.float32), dims=dims), box)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "resolution", "count", "kinds"),
    [
        ("I_1034_structure", 0.1, 586, {"Graben or rille": 162}),
        ("I_1162_Structures", 2_500.0, 291, {}),
    ],
)
def test_real_lines_on_a_grid_of_their_own_crs(real_data, name, resolution, count, kinds):
    path = real_data / "vectors" / f"{name}.shp"
    frame = geopandas.read_file(path)
    assert len(frame) == count
    image = _around(frame, resolution).chunk(300)
    labels = weak_labels(path, image, width=4.0)
    assert labels.attrs["features"] == count
    values = labels.values
    # Bands of four pixels: about their length times four, less what crosses.
    length = frame.length.sum() / resolution
    assert 0.6 * 4 * length < (values == 1).sum() < 1.1 * 4 * length + count * 4 * np.pi
    # Every line lies in its band.
    middle = frame.geometry.interpolate(0.5, normalized=True)
    names = ("lat", "lon") if "lat" in labels.dims else ("y", "x")
    at = labels.sel({names[0]: xr.DataArray(middle.y), names[1]: xr.DataArray(middle.x)}, method="nearest")  # fmt: skip
    assert (at == 1).all()


@pytest.mark.realdata
def test_real_pits_have_no_crs(real_data):
    path = real_data / "vectors" / "LUNAR_PIT_LOCATIONS_180.SHP"
    crs = geo.moon_crs("equirectangular")
    # Around the pit of the Marius Hills, 303.23° E, 14.09° N.
    x, y = np.deg2rad(303.23 - 360) * 1_737_400, np.deg2rad(14.092) * 1_737_400
    box = covering_box((x - 5_000, y - 5_000, x + 5_000, y + 5_000), 50.0, crs)
    image = assign_grid(xr.DataArray(np.ones(box.shape, np.float32), dims=("y", "x")), box)
    with pytest.raises(GridError, match=r"no coordinate reference system.*crs="):
        weak_labels(path, image, width="small")
    labels = weak_labels(path, image, width="small", crs="geographic")
    assert labels.attrs["features"] == 1
    found = vectorize(labels, min_area=0)
    assert len(found) == 1
    assert abs(found["lon"][0] - (303.23 - 360)) < 0.01
    assert abs(found["lat"][0] - 14.092) < 0.01


@pytest.mark.realdata
def test_real_lines_on_a_grid_of_another_crs(real_data):
    """Polar lines onto a grid in degrees around one of them."""
    path = real_data / "vectors" / "I_1162_Structures.shp"
    frame = geopandas.read_file(path)
    line = frame.geometry.iloc[int(frame.length.argmax())]
    degrees = transform_geometry(
        shapely.segmentize(np.array([line]), 500.0), frame.crs, "geographic"
    )[0]
    lon, lat = shapely.get_coordinates(degrees).T
    box = covering_box(
        (lon.min(), lat.min(), lon.max(), lat.max()), 0.05, geo.moon_crs("geographic")
    )
    image = assign_grid(xr.DataArray(np.ones(box.shape, np.float32), dims=("lat", "lon")), box)
    labels = weak_labels(path, image, width=3.0)
    along = shapely.line_interpolate_point(degrees, np.linspace(0.05, 0.95, 40), normalized=True)
    points = shapely.get_coordinates(along)
    at = labels.sel(lon=xr.DataArray(points[:, 0]), lat=xr.DataArray(points[:, 1]), method="nearest")  # fmt: skip
    assert (at == 1).all()
