"""The interactive map: tiles, overviews, values, vectors, the server's doors."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import dask.array as da
import geopandas
import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr
from PIL import Image

from lunarray import export, geo, view
from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.store import to_zarr
from lunarray.view import layers as layers_
from lunarray.view import pyramid as pyramid_
from lunarray.view.cache import Blocks, Files
from lunarray.view.grids import GRIDS
from lunarray.view.pyramid import Pyramid
from lunarray.view.server import is_here
from lunarray.view.sources import open_sources
from lunarray.view.tiles import Scale, picture, values_on


def on(box, values, name="FeO", chunks=None, **attrs) -> xr.DataArray:
    dims = geo.grid_dims(box)
    lead = ("wavelength",) if np.ndim(values) == 3 else ()
    coords = dict(geo.grid_coords(box))
    if lead:
        coords["wavelength"] = ("wavelength", np.linspace(500.0, 1500.0, len(values)), {"units": "nm"})  # fmt: skip
    array = xr.DataArray(values, coords, (*lead, *dims), name, attrs)
    return geo.assign_crs(array if chunks is None else array.chunk(dict.fromkeys(dims, chunks)), box)  # fmt: skip


def pyramid_of(array, tmp_path, *, token=None, flags=False, limit=2**28) -> Pyramid:
    return Pyramid(
        array.data,
        geo.geobox_of(array),
        flags=flags,
        blocks=Blocks(limit),
        files=Files(tmp_path / "cache"),
        token=token,
    )


def positions(box) -> np.ndarray:
    """A map of which every pixel knows where it is: rows and columns in one number."""
    rows, columns = box.shape
    return np.arange(rows)[:, None] * 1000.0 + np.arange(columns)[None]


# ------------------------------------------------------------------ ground


@pytest.mark.parametrize(
    ("source", "grid", "level", "column", "row"),
    [
        (("north", 2000.0), "north", 4, 7, 8),
        (("north", 2000.0), "global", 4, 20, 0),
        (("south", 2000.0), "south", 4, 8, 7),
        (("geographic", 0.5), "north", 2, 1, 2),
        (("geographic", 0.5), "global", 2, 7, 1),
        (("equirectangular", 15_000.0), "south", 2, 2, 2),
    ],
)
def test_a_pixel_is_where_proj_says(source, grid, level, column, row, tmp_path):
    """No pixel of a tile is off by more than one pixel of the map or of the tile, whichever is larger."""
    box = geo.lunar_grid(*source)
    array = on(box, positions(box))
    tile = GRIDS[grid].tile(level, column, row)
    # float32 holds these whole numbers.
    found = values_on(pyramid_of(array, tmp_path), tile)
    assert np.isfinite(found).mean() > 0.2
    i, j = np.nonzero(np.isfinite(found))
    x, y = tile.transform * (j + 0.5, i + 0.5)
    # PROJ alone, without anything of ours.
    target = pyproj.CRS.from_authority("IAU_2015", GRIDS[grid].described()["code"].split(":")[1])
    own = pyproj.CRS.from_user_input(str(box.crs))
    to = pyproj.Transformer.from_crs(target, own, always_xy=True)
    a, b = to.transform(x, y)
    c, r = ~box.transform * (np.asarray(a), np.asarray(b))
    values = found[i, j]
    off_row = np.abs(np.floor(values / 1000.0) + 0.5 - r)
    off_column = np.abs(np.mod(values, 1000.0) + 0.5 - c)
    off_column = np.minimum(off_column, np.abs(off_column - box.shape[1]))
    near = off_row < 2  # where the mean of several rows is no row
    scale = max(1.0, GRIDS[grid].resolution(level) / geo.pixel_size(box))
    if scale == 1.0:
        assert off_row.max() <= 1.0
        assert off_column.max() <= 1.0
    else:
        assert np.median(off_row) <= scale
        assert near.mean() > 0.5


def test_the_seam_and_the_pole_have_no_gap(tmp_path):
    box = geo.lunar_grid("geographic", 1.0)
    pyramid = pyramid_of(on(box, np.ones(box.shape, "f4"), chunks=50), tmp_path)
    places = ("north", 1, 0, 0), ("south", 0, 0, 0), ("global", 1, 3, 1), ("global", 0, 0, 0)
    for name, level, column, row in places:
        assert np.isfinite(values_on(pyramid, GRIDS[name].tile(level, column, row))).all()


def test_tiles_that_are_not_there():
    grid = GRIDS["global"]
    assert [grid.tile(*at) for at in ((0, 2, 0), (0, 0, 1), (-1, 0, 0), (99, 0, 0))] == [None] * 4
    assert grid.tile(3, 15, 7).boundingbox.right == pytest.approx(grid.bounds[2])


# ------------------------------------------------------------------ overviews


def test_overviews_are_means_of_what_is_there(tmp_path):
    box = geo.lunar_grid("north", 1000.0, (-300e3, -200e3, 300e3, 200e3))
    values = np.random.default_rng(0).normal(10, 2, box.shape).astype("f4")
    values[:100] = np.nan
    pyramid = pyramid_of(on(box, values, chunks=(77)), tmp_path)
    for level in range(pyramid.levels + 1):
        rows, columns = pyramid.level_box(level).shape
        found = pyramid.read(level, 0, rows, 0, columns)
        factor = 2**level
        padded = np.full((rows * factor, columns * factor), np.nan)
        padded[: values.shape[0], : values.shape[1]] = values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            cells = padded.reshape(rows, factor, columns, factor)
            expected = np.nanmean(cells, axis=(1, 3))
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        # From the fourth level on, means of means.
        np.testing.assert_allclose(found, expected, rtol=2e-6 if level <= 3 else 0.05)


def test_flags_are_never_mixed(tmp_path):
    box = geo.lunar_grid("north", 1000.0, (-200e3, -200e3, 200e3, 200e3))
    values = np.random.default_rng(1).choice([0, 1, 4, 64], box.shape).astype("u1")
    array = on(box, values, "quality", chunks=90, flag_masks=[1, 4, 64], flag_meanings="a b c")
    pyramid = pyramid_of(array, tmp_path, flags=True)
    for level in range(pyramid.levels + 1):
        rows, columns = pyramid.level_box(level).shape
        found = pyramid.read(level, 0, rows, 0, columns)
        assert set(np.unique(found[np.isfinite(found)])) <= {0, 1, 4, 64}


def large(counted: list, box) -> xr.DataArray:
    """A map of which it is counted how much is read."""

    def block(block_info=None):
        (top, bottom), (left, right) = block_info[None]["array-location"]
        counted.append((bottom - top) * (right - left))
        return np.full((bottom - top, right - left), 3.0, "f4")

    sizes = tuple(((1000,) * (n // 1000)) for n in box.shape)
    data = da.map_blocks(block, chunks=sizes, dtype="f4", meta=np.empty((0, 0), "f4"))
    return on(box, data)


def test_a_look_from_near_reads_what_is_in_view(tmp_path):
    counted: list[int] = []
    box = geo.lunar_grid("north", 100.0, (-500e3, -500e3, 500e3, 500e3))
    pyramid = pyramid_of(large(counted, box), tmp_path)
    near = GRIDS["north"].tile(8, 128, 128)  # 106 m a pixel
    assert (values_on(pyramid, near) == 3).all()
    assert sum(counted) <= 4e6
    values_on(pyramid, near)
    assert len(counted) <= 4  # kept


def test_a_look_from_afar_reads_a_large_map_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid_, "SMALL", 2**16)
    counted: list[int] = []
    box = geo.lunar_grid("north", 100.0, (-200e3, -200e3, 200e3, 200e3))
    pyramid = pyramid_of(large(counted, box), tmp_path, token="abc")
    far = GRIDS["north"].tile(2, 1, 1)
    values_on(pyramid, far)  # does not wait
    pyramid.prepare(wait=True)
    assert not pyramid.unfinished
    assert pyramid.progress == 1
    found = values_on(pyramid, far)
    assert np.nanmax(np.abs(found - 3)) == 0
    assert np.isfinite(found).any()
    assert sum(counted) == box.shape[0] * box.shape[1]
    # And the next session reads what this one kept.
    again = pyramid_of(large(counted, box), tmp_path, token="abc")
    np.testing.assert_array_equal(values_on(again, far), found)
    assert sum(counted) == box.shape[0] * box.shape[1]
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".npy"] * (pyramid.levels - 2)  # fmt: skip


def test_overviews_of_a_raster_are_read_where_it_has_some(tmp_path, monkeypatch):
    """From afar, of a large COG, nothing but its own smaller copies."""
    monkeypatch.setattr(pyramid_, "SMALL", 2**16)
    box = geo.lunar_grid("north", 500.0, (-600_300.0, -500_700.0, 600_300.0, 500_700.0))
    export.to_cog(on(box, positions(box).astype("f4") % 5000), tmp_path / "a.tif")
    with view.serve(tmp_path / "a.tif", port=0) as viewer:
        pyramid = viewer.layers[0].pyramid()
        (source,) = {id(layer.source): layer.source for layer in viewer.layers}.values()
        assert len(source.smaller) >= 2
        loads: list[tuple] = []
        real = Pyramid._load
        monkeypatch.setattr(
            Pyramid, "_load", lambda self, *at: loads.append(self.shape) or real(self, *at)
        )
        found = values_on(pyramid, GRIDS["north"].tile(3, 3, 3))  # 3.4 km a pixel
        assert np.isfinite(found).mean() > 0.1
        assert loads
        assert max(max(shape) for shape in loads) <= max(box.shape) // 2 + 1
        assert not pyramid.unfinished
        # The smaller copies lie where the map lies.
        for level in range(pyramid.levels + 1):
            bounds = pyramid.level_box(level).boundingbox
            assert abs(bounds.left - box.boundingbox.left) < 1
            assert abs(bounds.top - box.boundingbox.top) < 1
            assert bounds.right >= box.boundingbox.right - 1


def test_a_map_that_cannot_be_read_says_why(tmp_path):
    def fail(block):
        raise OSError("the disk is gone")

    box = geo.lunar_grid("north", 1000.0, (-300e3, -300e3, 300e3, 300e3))
    meta = np.empty((0, 0), "f4")
    data = da.zeros(tuple(box.shape), chunks=200).map_blocks(fail, dtype="f4", meta=meta)
    with pytest.raises(OSError, match="the disk is gone"):
        values_on(pyramid_of(on(box, data), tmp_path), GRIDS["north"].tile(0, 0, 0))


def test_caches_stay_below_their_limits(tmp_path):
    blocks = Blocks(limit=10_000)
    for k in range(20):
        blocks.get(k, lambda: np.zeros(500, "f4"))
    assert blocks.size <= 10_000
    assert blocks.get(19, lambda: pytest.fail("made twice")) is not None
    files = Files(tmp_path / "cache", limit=5000)
    for k in range(5):
        assert files.write(f"a{k}", np.full(400, k, "f4"))[0] == k
    assert len(list((tmp_path / "cache").iterdir())) <= 3
    (tmp_path / "file").write_text("")
    unwritable = Files(tmp_path / "file" / "cache")
    assert unwritable.write("a", np.ones(3))[0] == 1  # kept in memory
    damaged = tmp_path / "cache" / "b.npy"
    damaged.write_bytes(b"not an array")
    assert files.read("b") is None


# ------------------------------------------------------------------ pictures, values


def test_colours_of_a_tile():
    values = np.array([[0.0, 10.0], [np.nan, 5.0]], "f4")
    image = np.asarray(
        Image.open(io.BytesIO(picture(values, Scale(0, 10, "gray")))).convert("RGBA")
    )
    assert image[1, 0, 3] == 0
    assert (image[[0, 0, 1], [0, 1, 1], 3] == 255).all()
    assert image[0, 0, 0] == 0
    assert image[0, 1, 0] == 255
    assert abs(int(image[1, 1, 0]) - 128) <= 1
    for low, high, cmap in ((1, 1, "gray"), (2, 1, "gray"), (np.nan, 1, "gray"), (0, 1, "nope")):
        with pytest.raises(InputError):
            Scale(low, high, cmap)


def scene(chunks=None) -> xr.Dataset:
    box = geo.lunar_grid("north", 5000.0, latitude=85.0)
    rng = np.random.default_rng(2)
    ds = xr.Dataset(
        {
            "FeO": on(box, rng.uniform(4, 14, box.shape).astype("f4"), units="percent"),
            "FeO_std": on(box, rng.uniform(0.5, 1, box.shape).astype("f4"), "FeO_std", units="percent"),
            "FeO_lower": on(box, np.full(box.shape, 3, "f4"), "FeO_lower"),
            "FeO_upper": on(box, np.full(box.shape, 15, "f4"), "FeO_upper"),
            "FeO_true": on(box, np.full(box.shape, 9, "f4"), "FeO_true", units="percent"),
            "quality": on(box, np.full(box.shape, 5, "u1"), "quality",
                          flag_masks=[1, 2, 4], flag_meanings="dark steep far"),
            "reflectance": on(box, rng.uniform(0.05, 0.3, (12, *box.shape)).astype("f4"), "reflectance"),
        }
    )  # fmt: skip
    return geo.assign_crs(ds if chunks is None else ds.chunk(y=chunks, x=chunks), box)


def test_values_errors_and_spectra_of_a_place():
    ds = scene(chunks=20)
    (source,) = open_sources([ds])
    lon, lat = 33.0, 87.5
    told = layers_.at(source, lon, lat)
    row, column = (int(v[0]) for v in geo.pixel_of(geo.geobox_of(ds), lon, lat))
    assert (told["row"], told["column"]) == (row, column)
    by_name = {v["name"]: v for v in told["values"]}
    assert list(by_name) == ["FeO", "FeO_true", "quality"]
    assert by_name["FeO"]["value"] == float(ds.FeO[row, column])
    assert by_name["FeO"]["error"] == float(ds.FeO_std[row, column])
    assert by_name["FeO"]["interval"] == [3, 15]
    assert by_name["FeO"]["units"] == "wt%"
    assert by_name["quality"]["meanings"] == ["dark", "far"]
    (spectrum,) = told["spectra"]
    np.testing.assert_allclose(spectrum["y"], ds.reflectance[:, row, column], rtol=1e-5)
    assert spectrum["x"][0] == 500
    assert spectrum["dim_units"] == "nm"
    assert layers_.at(source, 0.0, 10.0) is None
    json.dumps(told, allow_nan=False)


# ------------------------------------------------------------------ vectors, footprints, tracks


def frame(crs="geographic", **columns) -> geopandas.GeoDataFrame:
    line = shapely.LineString([(170, 86), (-170, 88)])
    shapes = [shapely.box(-5, 80, 5, 84), line, shapely.Point(90, -70)]
    return geopandas.GeoDataFrame(
        {"name": ["box", "<b>line</b>", "point"], "length": [1.0, np.nan, 3.0], **columns},
        geometry=shapes,
        crs=geo.moon_crs(crs).to_wkt(),
    )


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".parquet"])
def test_vectors_in_files(ending, tmp_path):
    path = tmp_path / f"v{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        frame().to_parquet(path)
    else:
        frame().to_file(path)
    with view.serve(path, port=0) as viewer:
        (layer,) = viewer.layers
        told = layer.described()
        assert told["columns"].keys() == {"length"}
        assert told["home"] == "global"
        north = layer.features("north", (-4e6, -4e6, 4e6, 4e6), 1000.0)
    assert [f["properties"]["name"] for f in north["features"]] == ["box", "<b>line</b>"]
    assert north["features"][1]["properties"]["length"] is None
    ring = np.array(north["features"][0]["geometry"]["coordinates"][0])
    lon, lat = geo.to_lonlat(geo.moon_crs("north"), ring[:, 0], ring[:, 1])
    assert np.abs(lon).max() == pytest.approx(5, abs=0.01)
    assert lat.min() == pytest.approx(80, abs=0.01)


def test_of_many_vectors_some_are_sent():
    rng = np.random.default_rng(3)
    points = shapely.points(rng.uniform(-180, 180, 9000), rng.uniform(60, 90, 9000))
    many = geopandas.GeoDataFrame(geometry=points, crs=geo.moon_crs("geographic").to_wkt())
    with view.serve(many, port=0) as viewer:
        found = viewer.layers[0].features("north", (-4e6, -4e6, 4e6, 4e6), 1000.0)
        assert found["total"] == 9000
        assert len(found["features"]) == 4000
        few = viewer.layers[0].features("north", (0, 0, 5e4, 5e4), 1000.0)
        assert few["total"] == len(few["features"]) < 300


def test_footprints_and_tracks_of_a_store():
    lat, n = np.linspace(-80, 80, 40), 40
    track = xr.Dataset(
        {"reflectance": (("observation", "wavelength"), np.ones((n, 5), "f4"))},
        {"observation": np.arange(n), "wavelength": np.linspace(500, 900, 5),
         "lat": ("observation", lat), "lon": ("observation", np.full(n, 12.0)), "incidence": ("observation", lat)},
    )  # fmt: skip
    (source,) = open_sources([track])
    assert len(source.shapes) == n
    assert "incidence" in source.shapes
    told = layers_.along(source, 7)
    assert told["spectra"][0]["x"] == [500, 600, 700, 800, 900]
    assert layers_.along(source, 99) is None
    corners = xr.Dataset(
        {
            "corner_lon": (("time", "corner"), np.array([[0, 2, 2, 0.0]] * 3)),
            "corner_lat": (("time", "corner"), np.array([[0, 0, 1, 1.0]] * 2 + [[np.nan] * 4])),
            "abundance": (("time", "element"), np.array([[5.0, 1], [6, 2], [7, 3]])),
        },
        {"time": [0, 1, 2], "element": ["Fe", "Mg"]},
    )
    (source,) = open_sources([corners])
    assert source.shapes["abundance Fe"].tolist() == [5, 6]
    told = layers_.along(source, 1)
    assert [(v["name"], v["value"]) for v in told["values"]] == [
        ("abundance Fe", 6),
        ("abundance Mg", 2),
    ]


# ------------------------------------------------------------------ what is opened


def test_what_can_be_looked_at(tmp_path):
    ds = scene()
    to_zarr(ds, tmp_path / "a.zarr", progress=False)
    ds.drop_encoding().to_zarr(tmp_path / "theirs.zarr")
    export.to_cog(ds[["FeO", "FeO_true"]], tmp_path / "tif")
    frame().to_file(tmp_path / "tif" / "v.gpkg")
    found = open_sources([str(tmp_path / n) for n in ("a.zarr", "theirs.zarr", "tif")])
    assert [s.name for s in found] == ["a.zarr", "theirs.zarr", "FeO.tif", "FeO_true.tif", "v.gpkg"]
    # Overviews are kept of what is named by its bytes.
    assert [s.token is None for s in found] == [False, True, False, False, True]
    (tmp_path / "note.txt").write_text("no map")
    assert {s.name for s in open_sources([tmp_path])} == {s.name for s in found}


def test_a_map_of_a_coordinate():
    box = geo.lunar_grid("geographic", 10.0)
    array = on(box, positions(box), "lat")
    assert [str(n) for n in open_sources([array])[0].maps] == ["lat map"]


def test_what_cannot_be_looked_at(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        view.serve(tmp_path / "none.zarr", port=0)
    with pytest.raises(InputError, match="neither maps"):
        view.serve(xr.Dataset({"a": ("t", [1.0])}), port=0)
    with pytest.raises(InputError, match="nothing to look at"):
        view.serve([], port=0)
    plain = xr.DataArray(np.zeros((3, 3)), {"y": [0.0, 1, 2], "x": [0.0, 1, 2]}, ("y", "x"))
    with pytest.raises(GridError, match="reference system"):
        view.explore(plain)
    box = geo.lunar_grid("north", 1e4, latitude=85)
    with pytest.raises(BodyMismatchError):
        view.explore(on(box, positions(box)).pipe(geo.assign_crs, geo.MERCURY.crs("north")))
    with view.serve(scene(), port=0) as viewer, pytest.raises(InputError, match="another port"):
        view.serve(scene(), port=viewer.port)


# ------------------------------------------------------------------ the server


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    to_zarr(scene(), folder / "a.zarr", progress=False)
    frame().to_file(folder / "v.gpkg")
    with view.serve([folder / "a.zarr", folder / "v.gpkg"], port=0) as viewer:
        yield viewer


def get(viewer, path: str, **headers: str) -> tuple[int, bytes, dict]:
    request = urllib.request.Request(viewer.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_a_tile_by_the_server(served):
    address = "api/tile/0/north/4/7/7.png?low=4&high=14&cmap=viridis"
    status, image, headers = get(served, address)
    assert status == 200
    assert headers["Content-Type"] == "image/png"
    assert "max-age" in headers["Cache-Control"]
    assert Image.open(io.BytesIO(image)).size == (256, 256)
    status, told, _ = get(served, "api/limits?layer=0&minus=4")
    told = json.loads(told)
    assert status == 200
    assert told["low"] == -told["high"]
    status, other, _ = get(served, f"{address}&minus=4&minus_band=0".replace("low=4", "low=-5"))
    assert status == 200
    assert other != image
    status, told, _ = get(served, "api/at?lon=10&lat=88")
    assert status == 200
    assert json.loads(told)["sources"][0]["source"] == "a.zarr"
    number = len(served.layers) - 1
    view_ = "view=-4e6,-4e6,4e6,4e6&resolution=100"
    status, told, _ = get(served, f"api/vectors?layer={number}&grid=north&{view_}")
    assert status == 200
    assert len(json.loads(told)["features"]) == 2


TILE = "api/tile/0/north/0/0/0.png"


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/viewer.py", "a.zarr/zarr.json", "static/viewer.js",
        "viewer.py", "api/tile/99/north/0/0/0.png?low=0&high=1", "api/tile/0/mars/0/0/0.png?low=0&high=1", TILE,
        f"{TILE}?low=nan&high=1", f"{TILE}?low=0&high=1&cmap=../x", f"{TILE}?low=0&high=1&band=1",
        f"{TILE}?low=0&high=1&minus=7", "api/tile/7/north/0/0/0.png?low=0&high=1", "api/limits?layer=-1",
        "api/limits?layer=1e9", "api/at?lon=inf&lat=0", "api/at?lon=0", "api/along?layer=0&place=0", "api/nothing",
        "api/vectors?layer=7&grid=north&view=1,2,3&resolution=1", "api/layers/__class__",
        "api/vectors?layer=7&grid=north&view=1,2,3,inf&resolution=1",
    ],
)  # fmt: skip
def test_what_is_not_answered(served, path):
    status, told, headers = get(served, path)
    assert status in (400, 404)
    assert b"Traceback" not in told
    assert b"root:" not in told
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_only_names_of_this_machine(served):
    evil = (
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[evil]:1",
    )
    for host in evil:
        assert get(served, "api/described", Host=host)[0] in (400, 403), host
        assert get(served, "nothing", Host=host)[0] in (400, 403), host
    for host in ("localhost:1234", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert get(served, "api/described", Host=host)[0] == 200, host
    assert is_here("moon.lab:8642", {"moon.lab"})
    assert not is_here("moon.lab", {"127.0.0.1"})


def test_the_page_needs_no_network():
    folder = Path(view.__file__).parent / "static"
    for name in ("index.html", "viewer.js", "moon.js", "viewer.css"):
        text = (folder / name).read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "innerHTML" not in text
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1e6
    assert "BSD 2-Clause" in (folder / "OPENLAYERS-LICENSE.md").read_text()


# ------------------------------------------------------------------ notebooks


def test_a_notebook_shows_a_frame(monkeypatch, no_compute):
    with scene(chunks=20).lunar.explore(name="<x>", height=400) as viewer:
        text = viewer._repr_html_()  # of what is lazy, no picture is computed
        assert f'src="{viewer.url}"' in text
        assert "height:400px" in text
        assert "base64" not in text
        # An address that nobody can guess, under whatever name a hub has.
        assert len(viewer.url.split("/")[3]) >= 24
        assert get(viewer, "api/described", Host="hub.example")[0] == 200
        bare = f"http://127.0.0.1:{viewer.port}/"
        for path in ("", "api/described"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(bare + path)
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
        assert f'src="/user/me/proxy/{viewer.port}/' in viewer._repr_html_()


def test_without_a_screen_no_browser_is_started(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", asked.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with view.serve(frame(), port=0) as viewer:
        viewer.open()
        assert asked == []
        monkeypatch.setenv("DISPLAY", ":0")
        viewer.open()
        assert asked == [viewer.url]


def test_a_picture_of_what_is_stored(tmp_path):
    stored = to_zarr(scene(), tmp_path / "a.zarr", progress=False)
    with stored.lunar.explore() as viewer:
        assert viewer.layers[0].token.startswith("open_zarr-")
        assert "base64" in viewer._repr_html_()
    with (stored * 2).lunar.explore() as viewer:
        assert viewer.layers[0].token is None
        assert viewer.still() is None


def test_a_picture_stays_in_the_notebook():
    with scene().lunar.explore() as viewer:
        image = np.asarray(Image.open(io.BytesIO(viewer.still())).convert("RGBA"))
    assert max(image.shape[:2]) in (480, 481)
    assert (image[..., 3] == 255).mean() > 0.9
    begin = time.monotonic()
    viewer.close()  # again
    assert time.monotonic() - begin < 5
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(viewer.url, timeout=5)


# ------------------------------------------------------------------ the command line


def test_the_command_serves_until_interrupted(tmp_path):
    frame().to_file(tmp_path / "v.gpkg")
    command = [
        sys.executable,
        "-m",
        "lunarray",
        "serve",
        str(tmp_path),
        "--port",
        "0",
        "--no-browser",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        told = json.loads(urllib.request.urlopen(f"{url}api/described", timeout=60).read())
        assert [layer["name"] for layer in told["layers"]] == ["v.gpkg"]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, rest
    assert "Ended." in rest
    assert "Traceback" not in rest


def test_the_command_refuses_in_words(tmp_path):
    from typer.testing import CliRunner

    from lunarray.cli import app

    result = CliRunner().invoke(
        app, ["serve", str(tmp_path / "none.zarr"), "--port", "0", "--no-browser"]
    )
    assert result.exit_code == 1
    assert "no such file" in result.output
