"""Masks to vectors: against SciPy and GDAL; any chunks; areas on the ground; seams, units, bad input."""

from __future__ import annotations

import itertools

import dask
import dask.array as da
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy import ndimage

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.fractures import vectorize
from lunarray.fractures.ground import metric_of
from lunarray.fractures.run_kernels import extract_runs
from lunarray.fractures.skeleton_kernels import _neighbours, _thin, inscribed_radius
from lunarray.geo import assign_grid, covering_box

EIGHT = np.ones((3, 3))
R = 1_737_400.0


def _image(data, resolution=1.5, corner=(90_000.0, -180_000.0), crs="south", name="mask"):
    rows, columns = data.shape
    box = covering_box(
        (corner[0], corner[1], corner[0] + columns * resolution, corner[1] + rows * resolution),
        resolution,
        geo.moon_crs(crs),
    )
    assert tuple(box.shape) == data.shape
    return assign_grid(xr.DataArray(data, dims=("y", "x"), name=name), box)


def _transform(mask):
    dy = float(mask.y[1] - mask.y[0])
    dx = float(mask.x[1] - mask.x[0])
    from affine import Affine

    return Affine(dx, 0, float(mask.x[0]) - dx / 2, 0, dy, float(mask.y[0]) - dy / 2)


def _same(a, b):
    geometries = ["geometry", "centreline"]
    columns = [c for c in a.columns if c not in geometries]
    assert a[columns].equals(b[columns])
    for name in geometries:
        assert (shapely.to_wkb(a[name].to_numpy()) == shapely.to_wkb(b[name].to_numpy())).all()


def _runs(data):
    nothing = np.empty((0, 0), np.float32), np.empty((0, 0), np.uint8)
    return extract_runs(data.astype(np.uint8), *nothing, 0, 0)[0]


def _line(shape, a, b, width):
    """Pixels whose middle is within half a width of the segment from a to b, (x, y), squared off at its ends."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    d = np.subtract(b, a)
    length = np.hypot(*d)
    u = ((x - a[0]) * d[0] + (y - a[1]) * d[1]) / length
    v = (-(x - a[0]) * d[1] + (y - a[1]) * d[0]) / length
    return (u >= 0) & (u < length) & (v >= -width / 2) & (v < width / 2)


# --- components, outlines, areas ------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.6, 0.9, 1.0])
def test_components_and_outlines_are_those_of_scipy_and_gdal(rng, share):
    data = (rng.random((61, 83)) < share).astype(np.uint8)
    mask = _image(data)
    found = vectorize(mask, min_area=0)
    labels, count = ndimage.label(data, EIGHT)
    assert len(found) == count
    np.testing.assert_array_equal(found["pixels"], np.bincount(labels.ravel())[1:])
    assert found.geometry.is_valid.all()
    # The polygons drawn again are the components, each under its number: SciPy too counts by the first pixel.
    drawn = rasterize(
        zip(found.geometry, found["id"], strict=True),
        out_shape=data.shape,
        transform=_transform(mask),
        dtype="int32",
    )
    np.testing.assert_array_equal(drawn, labels)
    # Area of the polygon = area of its pixels, to the last bit of whole multiples.
    np.testing.assert_array_equal(found.geometry.area / 1.5**2, found["pixels"])
    four = vectorize(mask, min_area=0, connectivity=4)
    assert len(four) == ndimage.label(data)[1]
    assert set(four.geom_type) == {"Polygon"}


@settings(max_examples=30, deadline=None)
@given(
    data=st.lists(st.lists(st.integers(0, 1), min_size=7, max_size=7), min_size=6, max_size=6),
    chunks=st.tuples(st.integers(1, 6), st.integers(1, 7)),
)
def test_any_small_mask_in_any_chunks(data, chunks):
    mask = _image(np.array(data, np.uint8))
    with dask.config.set(scheduler="synchronous"):
        whole = vectorize(mask, min_area=0)
        parts = vectorize(mask.chunk(y=chunks[0], x=chunks[1]), min_area=0)
    assert len(whole) == ndimage.label(np.array(data), EIGHT)[1]
    assert whole.geometry.is_valid.all()
    np.testing.assert_array_equal(whole.geometry.area / 2.25, whole["pixels"])
    _same(whole, parts)
    assert (whole["length"] > 0).all()
    assert np.isfinite(whole[["width_mean", "width_max", "elongation", "orientation"]]).all(axis=None)  # fmt: skip


def test_the_same_for_any_chunks(rng):
    data = ndimage.gaussian_filter(rng.random((210, 260)), 3)
    mask = _image((np.abs(data - 0.5) < 0.008).astype(np.uint8))
    probability = _image(rng.random(data.shape).astype(np.float32), name="probability")
    source = _image((np.arange(260) // 90 + np.zeros((210, 1))).astype(np.int16), name="source")
    whole = vectorize(mask, probability=probability, source=source, min_area=40)
    assert len(whole) > 20
    assert whole["seam"].max() > 0
    for chunks in ((64, 64), (210, 17), (5, 260), (33, 100)):
        parts = vectorize(
            mask.chunk(y=chunks[0], x=chunks[1]),
            probability=probability.chunk(100),
            source=source.chunk(50),
            min_area=40,
        )
        _same(whole, parts)


def test_batches_do_not_matter(rng, monkeypatch):
    mask = _image((rng.random((120, 150)) < 0.3).astype(np.uint8))
    whole = vectorize(mask, min_area=0)
    monkeypatch.setattr("lunarray.fractures.vectors._BATCH", 50)
    _same(whole, vectorize(mask, min_area=0))


def test_a_hole_that_touches_corners():
    data = np.array(
        [
            [1, 1, 1, 1, 1, 0],
            [1, 0, 1, 1, 1, 0],
            [1, 1, 0, 1, 1, 0],
            [1, 1, 1, 0, 1, 0],
            [1, 1, 1, 1, 0, 1],
        ],
        np.uint8,
    )
    found = vectorize(_image(data), min_area=0)
    assert len(found) == 1
    shape = found.geometry.iloc[0]
    assert shape.is_valid
    assert shape.area == data.sum() * 2.25
    # The single pixel at the corner hangs on by a corner only.
    assert shape.geom_type == "MultiPolygon"
    assert sorted(len(p.interiors) for p in shape.geoms) == [0, 3]


@pytest.mark.parametrize("crs", ["south", "equirectangular"])
@pytest.mark.parametrize("far", [0.0, 400_000.0])
def test_area_is_that_on_the_ground(crs, far):
    data = np.zeros((400, 500), np.uint8)
    data[50:350, 100:420] = 1
    corner = (far, far)
    mask = _image(data, 100.0, corner, crs)
    found = vectorize(mask)
    x0, x1 = far + 100 * 100, far + 420 * 100
    # Rows count from the top.
    y0, y1 = far + (400 - 350) * 100, far + (400 - 50) * 100
    if crs == "equirectangular":
        expected = R * (x1 - x0) * (np.sin(y1 / R) - np.sin(y0 / R))
    else:
        # Snyder (1987) eq. 21-4 and 21-32: on the sphere with true scale at the pole, areas grow by (1 + rho²/4R²)².
        u, w = np.polynomial.legendre.leggauss(40)
        x, y = (x0 + x1) / 2 + u * (x1 - x0) / 2, (y0 + y1) / 2 + u * (y1 - y0) / 2
        inside = (1 + (x[:, None] ** 2 + y**2) / (4 * R * R)) ** -2
        expected = (w[:, None] * w * inside).sum() * (x1 - x0) * (y1 - y0) / 4
    assert found["area"][0] == pytest.approx(expected, rel=2e-6)
    assert found.geometry.area[0] == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-14)


@pytest.mark.parametrize("name", ["south", "geographic", "equirectangular"])
def test_metric_is_the_area_of_pixels(name):
    box = {
        "south": geo.polar_grid("south", 5_000, 70),
        "geographic": geo.lunar_grid("geographic", 0.01, (10, 70, 12, 71)),
        "equirectangular": geo.lunar_grid("equirectangular", 500, (-60_000, 900_000, 60_000, 1_000_000)),
    }[name]  # fmt: skip
    rows, columns = box.shape
    r, c = np.meshgrid(np.arange(0, rows, 7), np.arange(0, columns, 5), indexing="ij")
    expected = geo.pixel_area(box, (0, rows), (0, columns))[r, c]
    np.testing.assert_allclose(metric_of(box).area(r + 0.5, c + 0.5), expected, rtol=2e-5)


def test_mercury():
    import pyproj

    crs = pyproj.CRS.from_proj4("+proj=stere +lat_0=90 +k=1 +R=2439700 +units=m +no_defs")
    box = covering_box((300_000, 300_000, 300_600, 300_600), 6.0, crs)
    data = np.zeros((100, 100), np.uint8)
    data[40:60, 10:90] = 1
    found = vectorize(assign_grid(xr.DataArray(data, dims=("y", "x")), box))
    rho2 = 2 * 300_300.0**2
    expected = 1600 * 36 / (1 + rho2 / (4 * 2_439_700.0**2)) ** 2
    assert found["area"][0] == pytest.approx(expected, rel=1e-5)
    assert "2439700" in found.crs.to_wkt()


# --- lengths, widths, directions ------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0, 15, 22.5, 45, 71, 90, 130])
@pytest.mark.parametrize("width", [1.5, 3, 6])
def test_a_straight_fracture(angle, width):
    # At the pole the map is true to scale.
    turn = np.deg2rad(angle)
    step = 100 * np.array([np.cos(turn), np.sin(turn)])
    data = _line((280, 280), 140 - step, 140 + step, width).astype(np.uint8)
    found = vectorize(_image(data, 1.0, (-140.0, 5_000.0)), min_area=10)
    assert len(found) == 1
    row = found.iloc[0]
    assert row["length"] == pytest.approx(200, rel=0.015)
    # What the raster makes of the width: a line of 1.5 pixels along the rows has one or two.
    assert row["width_mean"] == pytest.approx(data.sum() / 200, rel=0.015)
    assert width - 1 <= row["width_max"] <= width + 0.6
    # Of pixels as squares: each adds 1/12 to the variance of its middles.
    spread = np.linalg.eigvalsh(np.cov(np.argwhere(data).T, bias=True) + np.eye(2) / 12)
    assert row["elongation"] == pytest.approx(np.sqrt(spread[1] / spread[0]), rel=1e-5)
    assert (row["intersections"], row["branches"]) == (0, 1)
    # Above the south pole, along the 0° meridian: up is north. Rows run down.
    expected = (90 + angle) % 180
    assert abs((row["orientation"] - expected + 90) % 180 - 90) < 1.0
    line = row["centreline"]
    assert line.length == pytest.approx(row["length"], rel=0.01)


def test_orientation_turns_with_the_meridian():
    data = np.zeros((60, 300), np.uint8)
    data[28:32, 20:280] = 1
    for corner, expected in (
        ((-150.0, 400_000.0), 90.0),
        ((400_000.0, 0.0), 0.0),
        ((300_000.0, 300_000.0), 45.0),
    ):
        # On the south polar map x = rho sin(lon), y = rho cos(lon); north is away from the pole.
        found = vectorize(_image(data, 1.0, corner))
        assert abs((found["orientation"][0] - expected + 90) % 180 - 90) < 0.1


def test_lengths_and_widths_where_the_map_is_stretched():
    # Equirectangular at 60°: x is twice too long.
    data = np.zeros((80, 400), np.uint8)
    data[35:40, 50:350] = 1
    y = R * np.pi / 3
    y -= y % 2
    east = vectorize(_image(data, 2.0, (0.0, y), "equirectangular")).iloc[0]
    north = vectorize(_image(np.ascontiguousarray(data.T), 2.0, (0.0, y), "equirectangular")).iloc[
        0
    ]
    assert east["length"] == pytest.approx(300, rel=0.01)
    assert east["width_max"] == pytest.approx(10, rel=0.01)
    assert north["length"] == pytest.approx(600, rel=0.01)
    assert north["width_max"] == pytest.approx(5, rel=0.01)
    for row in (east, north):
        assert row["area"] == pytest.approx(300 * 5 * 4 / 2, rel=0.001)


@pytest.mark.parametrize("width", [1.5, 4, 8])
@pytest.mark.parametrize(
    ("lines", "crossings", "branches"),
    [
        ([((30, 150), (270, 150)), ((150, 30), (150, 270))], 1, 4),
        ([((30, 30), (270, 270)), ((270, 30), (30, 270))], 1, 4),
        ([((150, 150), (150, 20)), ((150, 150), (30, 250)), ((150, 150), (270, 250))], 1, 3),
        (
            [((30, 100), (270, 100)), ((30, 200), (270, 200)), ((100, 30), (100, 270)), ((200, 30), (200, 270))],
            4, 12,
        ),
    ],
)  # fmt: skip
def test_networks(width, lines, crossings, branches):
    data = np.zeros((300, 300), bool)
    for a, b in lines:
        data |= _line(data.shape, a, b, width)
    row = vectorize(_image(data.astype(np.uint8), 1.0, (-150.0, 5_000.0)), min_area=0)
    row = row.loc[row["pixels"].idxmax()]
    assert (row["intersections"], row["branches"]) == (crossings, branches)
    total = sum(np.hypot(*np.subtract(a, b)) for a, b in lines)
    assert row["length"] == pytest.approx(total, rel=0.04)


def test_rings_points_and_discs():
    y, x = np.mgrid[:120, :120] + 0.5
    d = np.hypot(x - 60, y - 60)
    ring = vectorize(_image(((d < 50) & (d > 44)).astype(np.uint8), 1.0, (0, 4_000))).iloc[0]
    assert ring["length"] == pytest.approx(2 * np.pi * 47, rel=0.01)
    assert ring["width_mean"] == pytest.approx(6, rel=0.03)
    assert len(ring.geometry.interiors) == 1
    disc = vectorize(_image((d < 30).astype(np.uint8), 1.0, (0, 4_000))).iloc[0]
    assert disc["width_max"] == pytest.approx(60, rel=0.03)
    assert disc["length"] == pytest.approx(60, rel=0.03)
    assert disc["elongation"] == pytest.approx(1, abs=0.01)
    one = np.zeros((5, 5), np.uint8)
    one[2, 3] = 1
    point = vectorize(_image(one, 1.0, (0, 4_000)), min_area=0).iloc[0]
    assert point["length"] == pytest.approx(1, rel=1e-4)
    assert point["width_max"] == pytest.approx(1, rel=1e-4)
    assert point["area"] == pytest.approx(1, rel=1e-4)


def test_inscribed_radius_against_distances_to_every_square(rng):
    data = ndimage.binary_closing(rng.random((24, 31)) < 0.55)
    data[[0, -1]] = False
    spans = _runs(data)
    first = np.searchsorted(spans[:, 0], np.arange(25))
    r, c = np.nonzero(~np.pad(data, 3))
    for y, x in itertools.product(np.arange(2, 22, 0.5), np.arange(0, 31, 1.5)):
        dy = np.maximum(np.abs(y - (r - 3 + 0.5)) - 0.5, 0)
        dx = np.maximum(np.abs(x - (c - 3 + 0.5)) - 0.5, 0)
        expected = np.hypot(dy, dx).min()
        assert inscribed_radius(spans, first, 0, 24, y, x) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_thinning_keeps_the_topology(rng, share):
    data = ndimage.binary_opening(rng.random((70, 90)) < share, np.ones((2, 2)))
    spans = _runs(data)
    sizes = spans[:, 2] - spans[:, 1]
    first = np.concatenate([[0], np.cumsum(sizes)])
    table = _neighbours(spans, np.array([0, len(spans)]), first, int(first[-1]))
    alive = np.ones(first[-1], np.uint8)
    _thin(table, alive)
    skeleton = np.zeros(data.shape, bool)
    skeleton[data] = alive.astype(bool)  # both in order of row and column
    assert not (skeleton & ~data).any()
    # As many pieces, and as many holes, as before; and nothing more that could go.
    assert ndimage.label(skeleton, EIGHT)[1] == ndimage.label(data, EIGHT)[1]
    padded = [np.pad(~a, 1, constant_values=True) for a in (data, skeleton)]
    assert ndimage.label(padded[0])[1] == ndimage.label(padded[1])[1]
    before = alive.copy()
    _thin(table, alive)
    np.testing.assert_array_equal(alive, before)
    # No block of 2 × 2 is left, but where all four are needed.
    from skimage.morphology import skeletonize

    assert skeleton.sum() <= 1.25 * skeletonize(data).sum()


# --- what is dropped ------------------------------------------------------------------------------


def test_small_features_are_dropped_by_their_area_on_the_ground():
    data = np.zeros((40, 60), np.uint8)
    data[5, 2:49] = 1  # 47 pixels
    data[20, 2:50] = 1  # 48
    data[30, 2:51] = 1  # 49
    # At 80° S the scale is 1/cos²(5°): 2.25 m² on the map are 2.2156 on the ground.
    rho = 2 * R * np.tan(np.deg2rad(5))
    rho -= rho % 1.5
    mask = _image(data, 1.5, (0.0, rho))
    # 48 pixels are 106.35 m².
    assert vectorize(mask, min_area=106.3)["pixels"].tolist() == [48, 49]
    assert vectorize(mask, min_area=106.4)["pixels"].tolist() == [49]
    assert len(vectorize(mask)) == 0


def test_features_along_seams_are_dropped():
    source = np.zeros((100, 120), np.int16)
    source[:, 60:] = 1
    source[:, 110:] = -1
    data = np.zeros((100, 120), np.uint8)
    data[5:95, 59:62] = 1  # along the seam
    data[20:24, 20:50] = 1  # away from it
    data[70:74, 70:108] = 1
    data[50:53, 107:112] = 1  # at the edge of the data, which is no seam
    mask, layer = _image(data), _image(source)
    data[59:62, 30:59] = 0
    kept = vectorize(mask, source=layer, min_area=0)
    assert kept["pixels"].tolist() == [120, 15, 152]
    assert (kept["seam"] == 0).all()
    along = vectorize(mask, source=layer, min_area=0, seam_share=1.0)
    assert along["pixels"].tolist() == [270, 120, 15, 152]
    assert along["seam"].tolist() == [1, 0, 0, 0]
    # One that crosses a seam is kept.
    data = np.zeros((100, 120), np.uint8)
    data[50:53, 20:100] = 1
    ds = xr.Dataset({"mask": _image(data), "source": layer}).chunk(y=40, x=37)
    crossing = vectorize(ds, min_area=0)
    # 3 pixels on each side.
    assert crossing["seam"].tolist() == pytest.approx([6 / 80])
    assert vectorize(ds, min_area=0, seam_distance=0)["seam"].tolist() == [0]


def test_only_within_units():
    data = np.zeros((100, 200), np.uint8)
    for column in (10, 60, 110, 160):
        data[20:40, column : column + 20] = 1
    mask = _image(data, 1.0, (1_000.0, 5_000.0))
    # A floor over the first and half of the second, a pond over a part of the third.
    floor = shapely.box(1_000, 5_000, 1_070, 5_100)
    pond = shapely.box(1_110, 5_000, 1_116, 5_100)
    units = geopandas.GeoDataFrame(
        {"name": ["floor", "pond"]}, geometry=[floor, pond], crs=geo.moon_crs("south").to_wkt()
    )
    found = vectorize(mask, within=units, min_area=0)
    assert found["unit"].tolist() == ["floor", "floor"]
    assert found["id"].tolist() == [1, 2]
    assert len(vectorize(mask, within=units, within_share=0.6, min_area=0)) == 1
    less = vectorize(mask, within=units, within_share=0.3, min_area=0)
    assert less["unit"].tolist() == ["floor", "floor", "pond"]
    # The same units in degrees, and one in pieces that overlap.
    degrees = units.copy()
    from lunarray.geo import transform_geometry

    degrees["geometry"] = transform_geometry(
        shapely.segmentize(units.geometry.to_numpy(), 5.0), units.crs, "geographic"
    )
    degrees = degrees.set_crs(geo.moon_crs("geographic").to_wkt(), allow_override=True)
    assert vectorize(mask, within=degrees, min_area=0)["unit"].tolist() == ["floor", "floor"]
    circle = geo.Circle(*(float(v) for v in (found["lon"][0], found["lat"][0])), 30.0, "spot")
    assert vectorize(mask, within=circle, min_area=0)["unit"].tolist() == ["spot"]
    assert len(vectorize(mask, within=geo.Circle(0, 80, 1_000.0), min_area=0)) == 0


def test_mean_probability(rng):
    data = np.zeros((50, 70), np.uint8)
    data[10:14, 5:40] = 1
    data[30:40, 50:60] = 1
    p = rng.random(data.shape).astype(np.float32)
    p[35, 55] = np.nan
    found = vectorize(_image(data), probability=_image(p), min_area=0)
    labels = ndimage.label(data)[0]
    expected = [np.nanmean(p[labels == k].astype(np.float64)) for k in (1, 2)]
    np.testing.assert_allclose(found["probability"], expected, atol=1e-8)
    assert vectorize(_image(data), min_area=0)["probability"].isna().all()


def test_what_layers_share_is_computed_once():
    calls = []

    def network(block_info=None):
        calls.append(block_info[None]["chunk-location"])
        rows, columns = block_info[None]["chunk-shape"]
        return np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)

    lazy = da.map_blocks(
        network, chunks=((40, 40), (50, 50)), dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    probability = _image(lazy, name="probability")
    mask = probability.copy(data=(lazy >= 0.5).astype(np.uint8))
    found = vectorize(xr.Dataset({"probability": probability, "mask": mask}), min_area=0)
    assert sorted(calls) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    values = np.linspace(0, 1, 2000, dtype=np.float32)
    assert found["probability"].tolist() == pytest.approx([values[1000:].mean()] * 2, rel=1e-6)


def test_on_a_cluster(client, rng):
    mask = _image((ndimage.gaussian_filter(rng.random((120, 150)), 2) > 0.52).astype(np.uint8))
    expected = vectorize(mask, min_area=0)
    with client():
        _same(expected, vectorize(mask.chunk(50), min_area=0))


# --- empty, odd and wrong input -------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 255])
def test_nothing_found(value):
    mask = _image(np.full((30, 40), value, np.uint8))
    for given_ in (mask, mask.chunk(16)):
        found = vectorize(given_)
        assert len(found) == 0
        assert found.crs is not None
        full = vectorize(_image(np.ones((30, 40), np.uint8)))
        assert list(found.columns) == list(full.columns)
    units = geopandas.GeoDataFrame(
        geometry=[shapely.box(0, 0, 1, 1)], crs=geo.moon_crs("south").to_wkt()
    )
    assert "unit" in vectorize(mask, within=units)


def test_nodata_islands_are_no_features():
    data = np.ones((40, 40), np.uint8)
    data[10:20, 10:20] = 255
    found = vectorize(_image(data))
    assert found["pixels"].tolist() == [1500]
    assert len(found.geometry[0].interiors) == 1


def test_types_of_masks():
    data = np.zeros((20, 30), np.uint8)
    data[5:9, 4:25] = 1
    expected = vectorize(_image(data), min_area=0)
    _same(expected, vectorize(_image(data.astype(bool)), min_area=0))
    _same(expected, vectorize(_image(data.astype(np.int64)), min_area=0))
    _same(expected, _image(data).lunar.vectorize(min_area=0))
    with pytest.raises(InputError, match=r"probability > 0\.5"):
        vectorize(_image(data.astype(np.float32)))


def test_what_is_refused():
    data = np.ones((20, 30), np.uint8)
    bare = xr.DataArray(data, dims=("y", "x"))
    with pytest.raises(GridError, match="not georeferenced; vectorising needs"):
        vectorize(bare)
    with pytest.raises(GridError, match="not georeferenced"):
        vectorize(bare.assign_coords(y=np.arange(20.0), x=np.arange(30.0)))
    mask = _image(data)
    with pytest.raises(GridError, match=r"probability: .*one grid"):
        vectorize(mask, probability=_image(np.ones((20, 31), np.float32)))
    with pytest.raises(GridError, match=r"source: x from .*one grid"):
        vectorize(mask, source=_image(data.astype(np.int16), corner=(90_003.0, -180_000.0)))
    with pytest.raises(GridError, match="dimensions"):
        vectorize(xr.DataArray(data[0], dims="x"))
    with pytest.raises(InputError, match="no variable 'mask'"):
        vectorize(mask.to_dataset(name="image"))
    for options in (
        {"connectivity": 6},
        {"min_area": -1},
        {"seam_share": 2},
        {"within_share": np.nan},
        {"seam_distance": -3},
    ):
        with pytest.raises(InputError, match=next(iter(options))):
            vectorize(mask, **options)
    points = geopandas.GeoDataFrame(
        geometry=[shapely.Point(0, 0)], crs=geo.moon_crs("south").to_wkt()
    )
    with pytest.raises(InputError, match="units of type Point"):
        vectorize(mask, within=points)
    with pytest.raises(GridError, match="no coordinate reference system"):
        vectorize(mask, within=points.set_crs(None, allow_override=True))
    with pytest.raises(BodyMismatchError, match="neither of the Moon nor of Mercury"):
        vectorize(mask, within=points.set_crs("EPSG:4326", allow_override=True))


# --- out of core ----------------------------------------------------------------------------------


def _fractures(block_info=None):
    (r0, r1), (c0, c1) = block_info[None]["array-location"]
    y = np.arange(r0, r1, dtype=np.float32)[:, None]
    x = np.arange(c0, c1, dtype=np.float32)[None]
    return (np.abs(np.sin(x / 400 + 2 * np.sin(y / 1700))) < 0.005).astype(np.uint8)


def test_a_mask_larger_than_what_is_kept_of_it():
    n = 4_000
    import tracemalloc

    lazy = da.map_blocks(
        _fractures,
        chunks=da.core.normalize_chunks(334, (n, n)),
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    box = covering_box((0, 0, n * 1.5, n * 1.5), 1.5, geo.moon_crs("south"))
    mask = assign_grid(xr.DataArray(lazy, dims=("y", "x")), box)
    vectorize(mask[:334, :334])
    tracemalloc.start()
    with dask.config.set(scheduler="synchronous"):
        found = vectorize(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Lines from edge to edge, through twelve chunks each.
    assert found["length"].max() > n * 1.5
    assert peak < n * n / 2, f"{peak} bytes for {n * n} pixels"
