"""Mosaics and resampling: against a field known in closed form, nested grids and rasterio; rules, seams, chunks."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import xarray as xr
from odc.geo.geobox import GeoBox

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError, LunarrayWarning
from lunarray.fractures import mosaic
from lunarray.fractures.ground import box_of
from lunarray.geo import BODIES, assign_grid, covering_box, require_body, to_lonlat

R = 1_737_400.0
SOUTH = geo.moon_crs("south")
EQUI = geo.moon_crs("equirectangular")


def _field(box):
    """Waves of some 100 m on the ground, without seam anywhere near."""
    rows, columns = box.shape
    a = box.transform
    x, y = np.meshgrid(a.c + (np.arange(columns) + 0.5) * a.a, a.f + (np.arange(rows) + 0.5) * a.e)
    lon, lat = to_lonlat(require_body(box.crs, BODIES), x, y)
    u = R * np.deg2rad(np.mod(lon, 360)) * np.cos(np.deg2rad(lat))
    return (3 + np.sin(R * np.deg2rad(lat) / 40) + np.cos(u / 60)).astype(np.float32)


def _image(bounds, resolution=1.0, crs=SOUTH, data=None, name="image"):
    box = covering_box(bounds, resolution, crs)
    data = _field(box) if data is None else np.broadcast_to(data, box.shape).copy()
    return assign_grid(xr.DataArray(data, dims=("y", "x"), name=name), box)


def _scene():
    x, y = pyproj.Transformer.from_crs(SOUTH, EQUI, always_xy=True).transform(90_500, -179_600)
    return [
        _image((90_000, -180_000, 90_300, -179_760), 1.0),
        _image((90_210, -180_030, 90_570, -179_850), 1.5),
        _image((90_150, -179_880, 90_420, -179_670), 0.7),
        _image((x - 900, y - 150, x + 900, y + 150), 1.2, EQUI),
    ]


def test_a_mosaic_of_four_images_in_two_projections():
    images = _scene()
    made = mosaic(images, chunks=200)
    assert made["image"].chunks is not None
    assert list(made.data_vars) == ["image", "source", "valid"]
    assert made["source"].attrs["resolutions"] == [1.0, 1.5, 0.7, 1.2]
    made = made.load()
    truth = _field(box_of(made["image"]))
    source = made["source"].values
    assert made["image"].dtype == np.float32
    assert made["source"].dtype == np.int16
    for number in range(4):
        assert (source == number).sum() > 2_000
    # Interpolation of waves of 100 m and more in pixels of 1.5 m.
    np.testing.assert_allclose(made["image"].values[source >= 0], truth[source >= 0], atol=0.03)
    np.testing.assert_array_equal(np.isnan(made["image"]), source == -1)
    np.testing.assert_array_equal(made["valid"], source >= 0)
    # The second lies on the very lattice: copied.
    np.testing.assert_array_equal(made["image"].values[source == 1], truth[source == 1])
    # Pixels from the map's origin.
    left = box_of(made["image"]).transform.c
    assert left / 1.5 == round(left / 1.5)


def test_chunks_do_not_matter_and_nothing_is_computed_early(no_compute):
    import dask

    images = [image.chunk(97) for image in _scene()]
    lazy = [mosaic(images, chunks=c) for c in (4096, 150, (77, 333))]
    with dask.config.set(scheduler="synchronous"):
        first, *others = (ds.load() for ds in lazy)
    for other in others:
        np.testing.assert_array_equal(first["image"], other["image"])
        np.testing.assert_array_equal(first["source"], other["source"])


def test_a_rotated_strip_against_positions_by_proj_alone(rng):
    """Nearest pixels, from equirectangular at 84° S onto the polar map."""
    x, y = pyproj.Transformer.from_crs(SOUTH, EQUI, always_xy=True).transform(90_500, -179_600)
    image = _image((x - 900, y - 150, x + 900, y + 150), 1.2, EQUI)
    image = image.copy(data=rng.random(image.shape).astype(np.float32))
    target = covering_box((90_300, -179_800, 90_700, -179_400), 1.5, SOUTH)
    mine = geo.reproject(image, target, method="nearest").values
    exact = geo.reproject(image, target, method="nearest").values
    both = np.isfinite(mine) & np.isfinite(exact)
    assert both.mean() > 0.2
    assert (np.isfinite(mine) == np.isfinite(exact)).mean() > 0.999
    # Positions are good to some 0.005 pixels: hardly a middle falls into another pixel.
    assert (mine[both] == exact[both]).mean() > 0.98


def test_order_and_overlap():
    bounds = (90_000, -180_000, 90_030, -179_970)
    a = _image(bounds, 1.0, data=np.float32(1))
    b = _image(bounds, 1.5, data=np.float32(2))
    c = _image(bounds, 0.75, data=np.float32(6))
    a[:, :10] = np.nan

    def values(**options):
        ds = mosaic([a, b, c], **options).load()
        return [
            (float(ds["image"][5, k]), int(ds["source"][5, k])) for k in (2, 15)
        ]  # without and with the first

    assert values() == [(2, 1), (1, 0)]
    assert values(order="finest") == [(6, 2), (6, 2)]
    assert values(order=[2, 1, 0]) == [(6, 2), (6, 2)]
    assert values(order=[0, 5, 1]) == [(6, 2), (1, 0)]
    assert values(overlap="last") == [(6, 2), (6, 2)]
    assert values(overlap="mean") == [(4, 1), (3, 0)]


def test_averages_are_those_of_blocks(rng):
    data = rng.random((60, 80)).astype(np.float32)
    data[:6, :8] = np.nan
    data[6:9, 0:4] = np.nan
    image = _image((90_000, -180_000, 90_080, -179_940), 1.0, data=data)
    for given in (image, image.chunk(23)):
        coarse = geo.reproject(given, 4.0)
        assert (coarse.chunks is None) == (given.chunks is None)
        blocks = data.reshape(15, 4, 20, 4)
        with np.errstate(invalid="ignore"):
            expected = np.nansum(blocks, axis=(1, 3)) / np.isfinite(blocks).sum(axis=(1, 3))
        share = np.isfinite(blocks).mean(axis=(1, 3))
        expected[share < 0.5] = np.nan
        np.testing.assert_allclose(coarse, expected, rtol=1e-6)
        np.testing.assert_allclose(
            geo.reproject(given, 4.0, min_valid=0.9).isnull(), np.isnan(expected) | (share < 0.9)
        )


def test_simbio_sys_resolution_of_an_image_and_of_its_mask():
    image = _image((90_000, -180_000, 90_600, -179_400), 1.5)
    six = geo.reproject(image.chunk(128), 6.0)
    assert six.shape == (100, 100)
    np.testing.assert_allclose(six, _field(box_of(six)), atol=0.05)
    mask = (image > 3.5).astype(np.uint8)
    mask[0, 0] = 255
    mask.attrs["flag_values"] = [0, 1, 255]  # no quantity: taken from the nearest
    small = geo.reproject(assign_grid(mask, box_of(image)), six)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 1, 255}
    # A mask at 6 m is where the middle of a coarse pixel lies, on a corner of four fine ones.
    assert (small.values == 1).mean() == pytest.approx((mask.values == 1).mean(), abs=0.01)


def test_whole_numbers_outside_are_no_data():
    for dtype, fill in ((np.uint8, 255), (np.int16, -1), (bool, False)):
        image = _image((0, 3_000, 30, 3_030), 1.5, data=np.ones((), dtype))
        wide = covering_box((-15, 2_985, 45, 3_045), 1.5, SOUTH)
        for given in (image, image.chunk(7)):
            out = geo.reproject(given, wide, method="nearest", chunks=16).values
            assert out.dtype == dtype
            assert out[0, 0] == fill
            assert out[20, 20] == 1
            assert (out == 1).sum() == 400


def test_across_the_far_side():
    """A strip at 180° and a polar grid around the pole: nothing appears on the other side."""
    crs = pyproj.CRS.from_proj4(f"+proj=eqc +lon_0=180 +R={R} +units=m +no_defs")
    y = -R * np.deg2rad(89.97)
    image = _image((-3e5, y - 300, 3e5, y + 300), 100.0, crs)
    grid = covering_box((-1_500, -1_500, 1_500, 1_500), 25.0, SOUTH)
    out = geo.reproject(image, grid).values
    lon, _ = geo.lonlat(grid)
    found = np.isfinite(out)
    assert found.sum() > 50
    # ±3e5 m of x are ±9.9° about 180°.
    assert np.abs(np.mod(lon[found], 360) - 180).max() < 11
    same = geo.reproject(
        image, covering_box((2 * np.pi * R - 1e5, y - 300, 2 * np.pi * R + 1e5, y + 300), 100.0, crs)
    )  # fmt: skip
    assert np.isfinite(same).all()


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_a_map_of_the_whole_moon_has_no_seam(method):
    box = geo.lunar_grid("geographic", 1.0)
    values = np.cos(np.deg2rad(geo.lonlat(box)[1])).astype(np.float32)
    image = geo.assign_grid(xr.DataArray(values, dims=("lat", "lon"), name="image"), box)
    grid = geo.lunar_grid("south", 25_000.0, latitude=60)
    for given in (image, image.chunk({"lat": 50, "lon": 130})):
        made = mosaic([given], grid=grid, method=method, chunks=33).load()
        assert made["valid"].all()
        np.testing.assert_allclose(
            made["image"], np.cos(np.deg2rad(geo.lonlat(grid)[1])), atol=0.01
        )


def test_longitudes_that_run_another_way():
    """Two equirectangular maps of one place, with centres half a turn apart."""
    other = pyproj.CRS.from_proj4(f"+proj=eqc +lon_0=180 +R={R} +units=m +no_defs")
    x = np.pi * R
    near = _image((x - 400, 1_000, x + 200, 1_300), 1.5, EQUI)
    made = mosaic([near], crs=other).load()
    assert made.sizes["x"] < 500
    good = made["valid"].values
    assert good.mean() > 0.95
    np.testing.assert_allclose(
        made["image"].values[good], _field(box_of(made["image"]))[good], atol=0.02
    )


def test_coarse_images_are_said():
    image = _image((0, 3_000, 30, 3_030), 3.0)
    with pytest.warns(LunarrayWarning, match="3 m a pixel and is interpolated to 1.5 m"):
        mosaic([image])


def test_an_empty_mosaic_says_so():
    image = _image((0, 3_000, 30, 3_030), 1.5, data=np.float32(np.nan))
    made = mosaic([image, image]).load()
    assert not made["valid"].any()
    assert (made["source"] == -1).all()


def test_what_is_refused():
    image = _image((0, 3_000, 30, 3_030), 1.5)
    bare = xr.DataArray(np.ones((3, 3), np.float32), dims=("y", "x"))
    crs = pyproj.CRS.from_proj4("+proj=eqc +R=2439700")
    mercury = _image((0, 3_000, 30, 3_030), 1.5, crs, np.float32(1))
    for images, options, error, words in (
        ([], {}, InputError, "no images"),
        ([image, bare], {}, GridError, "not georeferenced.*cam2map"),
        ([image, mercury], {}, BodyMismatchError, "of the Moon and of Mercury"),
        ([image], {"overlap": "best"}, InputError, "overlap"),
        ([image], {"method": "cubic"}, InputError, "method"),
        ([image], {"order": "bright"}, InputError, "order"),
        ([image], {"order": [1, 2]}, InputError, "2 numbers for 1 images"),
        ([image], {"resolution": 0}, GridError, "resolution"),
        ([image], {"min_valid": 0}, InputError, "min_valid"),
        ([image], {"grid": image, "resolution": 2}, InputError, "one or the other"),
        (["/no/such/file.tif"], {}, InputError, "no such file"),
    ):
        with pytest.raises(error, match=words):
            mosaic(images, **options)


def test_images_and_pixels_that_make_no_mosaic():
    box = GeoBox.from_bbox((0, 0, 40, 40), geo.moon_crs("equirectangular"), resolution=2)
    image = assign_grid(xr.DataArray(np.ones((20, 20), np.float32), dims=("y", "x")), box)
    with pytest.raises(InputError, match="image 1 is a ndarray"):
        mosaic([image, image.values])
    with pytest.raises(GridError, match="a grid of 0 × 0 pixels"):
        mosaic([image], resolution=1e9)
