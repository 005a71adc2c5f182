"""Surface features: the network, the two modes, the base map's seams and poles, and filling a store."""

from __future__ import annotations

import functools

import dask
import numpy as np
import pytest
import xarray as xr

from lunarray.errors import CoverageError, InputError, ModelError
from lunarray.geo import assign_crs, great_circle_distance, lonlat, lunar_grid, moon_crs
from lunarray.superres import (
    GIBGrid,
    create_gib,
    fill_features,
    open_gib,
    resnet50_backbone,
    surface_features,
)
from lunarray.superres import backbone as module
from lunarray.superres.backbone import FEATURES, Backbone, random_digest, random_state
from lunarray.superres.basemap import BaseMap, project_plane, unproject
from lunarray.superres.feature_kernels import pool, sample
from lunarray.superres.features import feature_agreement, patch_features

STEP = 22.5 / 342


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def slim():
    """A ResNet50 with narrow bottlenecks: as many layers and outputs, a tenth of the work."""
    return Backbone("random", random_digest(3, 4), seed=3, width=4, device="cpu")


def fractal(rows, columns, seed=0):
    """A texture that repeats from side to side."""
    rng = np.random.default_rng(seed)
    scale = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns) * columns)
    scale[0, 0] = 1
    z = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((rows, columns))) / scale**1.2, s=(rows, columns)
    )
    return ((z - z.mean()) / z.std()).astype(np.float32)


def map_of(values, west, north, step):
    lat = north - step * (np.arange(values.shape[-2]) + 0.5)
    lon = west + step * (np.arange(values.shape[-1]) + 0.5)
    dims = ("lat", "lon") if values.ndim == 2 else ("band", "lat", "lon")
    return assign_crs(
        xr.DataArray(values, {"lat": lat, "lon": lon}, dims, "albedo"), moon_crs("geographic")
    )


def on_the_sphere(lat, lon):
    """Something smooth that knows neither seam nor pole."""
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    x, y, z = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    waves = sum(
        np.sin(f * x + 1) * np.cos(f * y + 2) + np.sin(f * z + f * x) for f in (150.0, 400.0, 900.0)
    )
    return waves.astype(np.float32)


def region(rows, columns, west=5.0, north=2.0):
    extent = (west, north - rows * STEP, west + columns * STEP, north)
    return GIBGrid((1, 1), (rows, columns), extent)


BASE = {"west": 4.0, "north": 3.0, "step": 0.004}


@pytest.fixture(scope="module")
def base():
    return map_of(fractal(500, 600), **BASE)


# The network


def test_network_is_torchvisions(tmp_path, rng):
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(1)
    # resnet50 with narrow bottlenecks: the same layers, a file of 10 MB.
    model = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=4).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1)
            part.bias.data.normal_(0, 0.1)
    path = tmp_path / "resnet50.pth"
    torch.save(model.state_dict(), path)
    chosen = resnet50_backbone(path, device="cpu")
    assert chosen.description["weights"] == "resnet50.pth"
    images = rng.standard_normal((2, 3, 64, 96)).astype(np.float32)
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).numpy()
    cells = chosen.load()(images)
    assert cells.shape == (2, 2, 3, FEATURES)
    np.testing.assert_allclose(cells.mean(axis=(1, 2)), wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_same_weights_have_one_digest(tmp_path):
    import torch
    from safetensors.numpy import save_file

    state = random_state(5, 4)
    save_file(state, tmp_path / "a.safetensors")
    torch.save(
        {"state_dict": {f"module.{k}": torch.from_numpy(v) for k, v in state.items()}},
        tmp_path / "b.pth",
    )
    one, other = (
        resnet50_backbone(tmp_path / name, device="cpu") for name in ("a.safetensors", "b.pth")
    )
    assert one.sha256 == other.sha256 == random_digest(5, 4)
    assert one.width == 4
    assert dask.base.tokenize(one) == dask.base.tokenize(other)
    assert one.load() is other.load()


def test_random_weights_are_named_by_their_seed():
    one = resnet50_backbone("random", seed=1)
    assert one == resnet50_backbone("random", seed=1)
    assert one.sha256 == random_digest(1)
    assert random_digest(1, 4) != random_digest(2, 4)
    assert one.description == {
        "network": "ResNet50", "weights": "random, seed 1", "weights_sha256": one.sha256
    }  # fmt: skip
    assert resnet50_backbone(one) is one


def test_random_weights_do_not_explode(slim, rng):
    cells = slim.load()(rng.standard_normal((2, 3, 96, 96)).astype(np.float32))
    assert 0.01 < cells.std() < 10
    assert (cells >= 0).all()


def test_bad_weights(tmp_path, monkeypatch):
    import torch
    from safetensors.numpy import save_file

    with pytest.raises(ModelError, match="cannot be read"):
        resnet50_backbone(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ModelError, match="not a file of weights"):
        resnet50_backbone(tmp_path / "text.pth")
    state = random_state(0, 4)
    short = {k: v for k, v in state.items() if not k.startswith("layer4.2")}
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(ModelError, match="lacks 15 of 265 tensors"):
        resnet50_backbone(tmp_path / "short.safetensors")
    save_file(
        {**state, "conv1.weight": state["conv1.weight"][:, :1]}, tmp_path / "grey.safetensors"
    )
    with pytest.raises(ModelError, match=r"other shapes of 1 .* first conv1\.weight"):
        resnet50_backbone(tmp_path / "grey.safetensors")

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath, ("executed",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="not a file of weights"):
        resnet50_backbone(tmp_path / "evil.pth")

    save_file(state, tmp_path / "good.safetensors")
    chosen = resnet50_backbone(tmp_path / "good.safetensors", device="cpu")
    save_file(random_state(1, 4), tmp_path / "good.safetensors")
    monkeypatch.setattr(module, "_loaded", {})
    with pytest.raises(ModelError, match="have changed"):
        chosen.load()
    save_file(
        {**state, "conv1.weight": state["conv1.weight"] * np.nan}, tmp_path / "nan.safetensors"
    )
    with pytest.raises(ModelError, match=r"conv1\.weight is not finite"):
        resnet50_backbone(tmp_path / "nan.safetensors", device="cpu").load()


def test_torchvisions_own_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be fetched"):
        resnet50_backbone("torchvision")
    # Found in its cache, it is a file like others.
    import torch

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: torch.from_numpy(v) for k, v in random_state(2, 4).items()}
    torch.save(state, folder / "resnet50-0676ba61.pth")
    assert resnet50_backbone("torchvision").sha256 == random_digest(2, 4)


# Geometry


def test_plane_there_and_back(rng):
    for middle in ((0.0, 0.0), (60.0, 179.9), (89.9, -40.0), (-90.0, 0.0)):
        x, y = rng.uniform(-90, 90, (2, 200))
        lat, lon = unproject(middle, x, y)
        there = project_plane(middle, lat, lon)
        np.testing.assert_allclose(there, (x, y), atol=1e-7)
        distance = great_circle_distance(lon, lat, middle[1], middle[0]) / 1e3
        np.testing.assert_allclose(distance, np.hypot(x, y), atol=1e-6)
    lat, lon = unproject((20.0, 30.0), np.array([0.0, 5.0]), np.array([5.0, 0.0]))
    assert lat[0] > 20
    assert lon[1] > 30


def test_sampling_is_bilinear(rng):
    source = rng.standard_normal((2, 9, 11)).astype(np.float32)
    rows, columns = np.meshgrid(np.linspace(-1, 9, 6), np.linspace(1, 8, 5), indexing="ij")
    out = np.empty((2, 6, 5), np.float32)
    sample(source, rows, columns, 1, 1, out)
    from scipy.ndimage import map_coordinates

    wanted = [map_coordinates(band, [rows, columns], order=1, mode="nearest") for band in source]
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    # A lattice of every fourth place is as good, where positions run evenly.
    lattice = np.meshgrid(np.arange(3) * 4 * 0.7 + 0.3, np.arange(3) * 4 * 0.9 + 0.1, indexing="ij")
    fine = np.meshgrid(np.arange(8) * 0.7 + 0.3, np.arange(8) * 0.9 + 0.1, indexing="ij")
    one, other = np.empty((2, 2, 8, 8), np.float32)
    sample(source, *lattice, 4, 1, one)
    sample(source, *fine, 1, 1, other)
    np.testing.assert_allclose(one, other, atol=1e-6)
    # Several samples a pixel: their mean. Gaps: what is left, if it is most.
    coarse = np.empty((2, 4, 4), np.float32)
    middle = np.meshgrid(np.arange(5) * 1.4 + 0.65, np.arange(5) * 1.8 + 0.55, indexing="ij")
    sample(source, *middle, 1, 2, coarse)
    np.testing.assert_allclose(coarse, one.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4)), atol=1e-5)
    source[:, 4, 5] = np.nan
    at = np.array([[4.0, 4.4, 4.6]]), np.array([[5.0, 5.0, 5.0]])
    three = np.empty((2, 1, 3), np.float32)
    sample(source, np.vstack([at[0]] * 2), np.vstack([at[1]] * 2), 1, 1, three)
    assert np.isnan(three[:, 0, :2]).all()
    np.testing.assert_array_equal(three[:, 0, 2], source[:, 5, 5])


def test_pooling_weighs_by_overlap(rng):
    cells = rng.standard_normal((12, 13, 5)).astype(np.float32)
    row, column = np.array([5.0, 4.3, 0.0]), np.array([6.0, 7.9, 12.0])
    out = np.empty((3, 5), np.float32)
    pool(cells, row, column, np.full(3, 3.125), np.array([3.125, 1.4, 2.0]), out)
    # The same by brute force: cells cut into 40 × 40 points.
    fine = np.repeat(np.repeat(cells, 40, axis=0), 40, axis=1)
    place = [(np.arange(n * 40) + 0.5) / 40 - 0.5 for n in (12, 13)]
    for p in range(3):
        half = (3.125, (3.125, 1.4, 2.0)[p])
        inside = [
            np.abs(a - b) < h for a, b, h in zip(place, (row[p], column[p]), half, strict=True)
        ]
        np.testing.assert_allclose(out[p], fine[np.ix_(*inside)].mean(axis=(0, 1)), atol=2e-3)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(10.0, 20.0), (-3.0, 179.98), (88.0, -179.0), (89.99, 30.0), (-90.0, 0.0), (70.0, -180.0)],
)
@pytest.mark.parametrize("shift", [0.0, 180.0])
def test_images_know_no_seam_and_no_pole(lat, lon, shift):
    """What the sampler gives around a place is the field there, whatever the map's edges are."""
    from lunarray.superres.feature_tiles import around, image_around, prepare

    step = 0.05
    west = -180.0 + shift
    grid_lat = 90 - step * (np.arange(3600) + 0.5)
    keep = np.flatnonzero(np.abs(grid_lat - lat) < 1.5)
    lon_axis = west + step * (np.arange(7200) + 0.5)
    values = on_the_sphere(grid_lat[keep][:, None], lon_axis)
    base = map_of(values, west, 90 - step * keep[0], step)
    slim = Backbone("random", random_digest(3, 4), seed=3, width=4, device="cpu")
    setup = prepare(base, GIBGrid(), slim, mode="patch", value_range=(-6.0, 6.0))

    places = functools.partial(around, (lat, lon), 200, setup.pixel)
    image, gaps = image_around(
        setup, setup.source.data, (lat, lon), places, (200, 200), (-6.0, 6.0), None
    )
    assert gaps is None
    along = (np.arange(200) - 99.5) / 32 * setup.pixel
    truth = on_the_sphere(*unproject((lat, lon), *np.meshgrid(along, -along)))
    got = (image[0] * 0.229 + 0.485) * 12 - 6
    # As good as a map of 1.5 km can be interpolated.
    assert np.abs(got - truth).max() < 0.35
    assert np.corrcoef(got.ravel(), truth.ravel())[0, 1] > 0.995


# The two modes


def test_result(slim, base):
    grid = region(3, 4)
    out = surface_features(base, grid, (0, 0), slim, context=0)
    assert out.dims == ("feature", "lat", "lon")
    assert out.shape == (FEATURES, 3, 4)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(out["lat"], grid.lat(0))
    assert out.attrs["weights"] == "random, seed 3"
    assert out.attrs["weights_sha256"] == slim.sha256
    assert (out.attrs["mode"], out.attrs["window_km"]) == ("dense", 12.5)
    assert "surface_features" in out.attrs["history"]
    few = surface_features(base, grid, (0, 0), slim, select=[1999, 3, 70], context=0)
    np.testing.assert_array_equal(few["feature"], [1999, 3, 70])
    np.testing.assert_array_equal(few, out.sel(feature=[1999, 3, 70]))


def test_patches_are_images_of_their_own(slim, base, monkeypatch):
    grid = region(2, 3)
    whole = surface_features(base, grid, (0, 0), slim, "patch", select=[5, 900])
    lat, lon = np.meshgrid(grid.lat(0), grid.lon(0), indexing="ij")
    monkeypatch.setattr("lunarray.superres.feature_tiles.BATCH", 1)
    single = patch_features(
        base,
        lat.ravel(),
        lon.ravel() + 360,
        slim,
        select=[5, 900],
        pixel_km=grid.step[0] * 30.3233506,
    )
    np.testing.assert_allclose(single.values.reshape(2, 2, 3), whole, rtol=1e-4, atol=1e-5)
    # By hand: the map's pixels around one of them, straight through the network.
    pixel = grid.step[0] * 30.3233506 / 32
    side = round(12.5 / pixel)
    along = (np.arange(side) - (side - 1) / 2) * pixel
    phi, lam = unproject((lat[1, 2], lon[1, 2]), *np.meshgrid(along, -along))
    grey = np.quantile(base.values.astype("f8"), (0.005, 0.995))
    values = base.interp(
        lat=xr.DataArray(phi, dims=("y", "x")), lon=xr.DataArray(lam, dims=("y", "x"))
    )
    unit = np.clip((values.values - grey[0]) / (grey[1] - grey[0]), 0, 1)
    image = np.stack([(unit - m) / s for m, s in zip(module.MEAN, module.DEVIATION, strict=True)])
    by_hand = slim.load()(image[None].astype(np.float32)).mean(axis=(1, 2))[0, [5, 900]]
    np.testing.assert_allclose(whole.values[:, 1, 2], by_hand, rtol=2e-3)


def test_dense_agrees_with_patches(slim, base):
    assert feature_agreement(base, region(1, 3), (0, 0), slim, context=0)["pixels"] == 3
    grid = region(14, 14)
    there = surface_features(base, grid, (0, 0), slim)
    found = feature_agreement(base, grid, (0, 0), slim, pixels=16, dense=there)
    assert found["pixels"] == 16
    assert found["correlation"] > 0.85
    assert found["distance_correlation"] > 0.9
    # What is compared is the place: another one does not agree.
    turned = there.copy(data=there.values[:, ::-1, ::-1])
    assert feature_agreement(base, grid, (0, 0), slim, pixels=12, dense=turned)["correlation"] < 0.5


@pytest.mark.parametrize(("north", "shape"), [(40.0, (4, 10)), (-60.0, (10, 4))])
def test_tiles_do_not_show(slim, north, shape):
    # The network's cells fall on pixels, in each tile alike.
    grid = region(*shape, north=north)
    base = map_of(fractal(400, 600), west=4.0, north=north + 0.5, step=0.004)
    options = {"value_range": (-3, 3), "select": range(0, 2048, 4), "context": 3}
    whole = surface_features(base, grid, (0, 0), slim, tile=10, **options).values
    parts = surface_features(base, grid, (0, 0), slim, tile=5, **options).values
    spread = whole.std(axis=(1, 2))
    varies = spread > 1e-3 * spread.max()
    difference = np.sqrt(np.square(whole - parts).mean(axis=(1, 2)))
    assert np.median(difference[varies] / spread[varies]) < 1e-3


@pytest.mark.parametrize("north", [0.5, 60.0, 80.0])
def test_windows_are_of_one_size_on_the_ground(slim, north):
    # A bright spot counts for pixels within half a window of it, measured in km, at any latitude.
    columns = int(14 / np.cos(np.deg2rad(north)))
    grid = region(14, columns, north=north)
    values = np.zeros((500, int(columns * STEP / 0.004) + 500), np.float32)
    base = map_of(values, west=4.0, north=north + 0.5, step=0.004)
    lat0, lon0 = grid.lat(0)[7], grid.lon(0)[columns // 2]
    lat, lon = np.meshgrid(base["lat"], base["lon"], indexing="ij")
    spot = base.copy(data=np.float32(great_circle_distance(lon, lat, lon0, lat0) < 1000))
    options = {"value_range": (0, 1), "select": range(0, 2048, 16), "context": 0}
    out, quiet = (surface_features(m, grid, (0, 0), slim, **options).values for m in (spot, base))
    change = np.linalg.norm(out - quiet, axis=0)
    lat, lon = np.meshgrid(grid.lat(0), grid.lon(0), indexing="ij")
    x, y = project_plane((lat0, lon0), lat, lon)
    away = np.maximum(np.abs(x), np.abs(y))
    assert (away < 4).sum() > 15
    assert (away > 12).sum() > 15
    assert change[away < 4].min() > 3 * change[away > 12].max()


def test_across_the_seam(slim):
    # The same surface, once at ±180° and once in the middle of its map.
    strip = fractal(400, 9000)
    around = map_of(strip, -180.0, 8.0, 0.04)
    moved = map_of(np.roll(strip, 4500, axis=1), -180.0, 8.0, 0.04)
    grid = GIBGrid((1, 2), (2, 3), (-180.0, 0.0, 180.0, 2 * STEP))
    lat = np.array([3.0, 3.0, 3.0, -1.0])
    lon = np.array([179.99, -179.99, -180.0, 179.95])
    one = patch_features(around, lat, lon, slim, value_range=(-3, 3))
    other = patch_features(moved, lat, lon + 180, slim, value_range=(-3, 3))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert np.abs(one[:, 0] - one[:, 3]).max() > 0.01
    assert BaseMap(around).around
    assert grid.periodic
    east = GIBGrid((1, 2), (4, 4), (180 - 8 * STEP, 1.0, 180.0, 1 + 4 * STEP))
    dense = surface_features(around, east, (0, 1), slim, value_range=(-3, 3), context=1)
    middle = GIBGrid((1, 2), (4, 4), (-8 * STEP, 1.0, 0.0, 1 + 4 * STEP))
    wanted = surface_features(moved, middle, (0, 1), slim, value_range=(-3, 3), context=1)
    np.testing.assert_allclose(dense.values, wanted.values, rtol=1e-3, atol=1e-4)


def test_over_the_pole(slim):
    # The same field on a map in longitude and on a polar one gives the same features, in both modes.
    step = 0.03
    lat_axis = 90 - step * (np.arange(60) + 0.5)
    flat = map_of(
        on_the_sphere(lat_axis[:, None], -180 + step * (np.arange(12000) + 0.5)), -180.0, 90.0, step
    )
    box = lunar_grid("north", resolution=800, bounds=(-60e3, -60e3, 60e3, 60e3))
    from lunarray.geo import grid_coords

    polar_lon, polar_lat = lonlat(box)
    polar = assign_crs(
        xr.DataArray(on_the_sphere(polar_lat, polar_lon), grid_coords(box), ("y", "x")), box
    )
    grid = GIBGrid((1, 12), (2, 20), (-180.0, 90 - 2 * STEP, 180.0, 90.0))
    options = {"value_range": (-6, 6), "context": 0, "select": np.arange(0, 2048, 8)}
    upside_down = flat.isel(lat=slice(None, None, -1))
    np.testing.assert_allclose(
        surface_features(upside_down, grid, (0, 5), slim, **options),
        surface_features(flat, grid, (0, 5), slim, **options),
        rtol=1e-3,
        atol=1e-4,
    )
    for mode in ("dense", "patch"):
        if mode == "patch":
            lat, lon = np.array([89.99, 89.9, -180.0 + 269.95]), np.array([0.0, 100.0, 10.0])
            one, other = (
                patch_features(
                    m, lat, lon, slim, value_range=(-6, 6), select=options["select"]
                ).values
                for m in (flat, polar)
            )
        else:
            one, other = (
                surface_features(m, grid, (0, 5), slim, mode, **options).values
                for m in (flat, polar)
            )
        flat_one, flat_other = one.reshape(one.shape[0], -1), other.reshape(one.shape[0], -1)
        assert np.isfinite(flat_one).all()
        error = np.sqrt(np.square(flat_one - flat_other).mean())
        assert error < 0.05 * np.sqrt(np.square(flat_other).mean())


def test_colours_and_bytes(slim, base):
    grid = region(1, 1)
    grey = np.clip(base.values * 40 + 128, 0, 255).astype(np.uint8)
    one = surface_features(map_of(grey, **BASE), grid, (0, 0), slim, context=0)
    assert one.attrs["value_range"] == [0, 255]
    three = surface_features(map_of(np.stack([grey] * 3), **BASE), grid, (0, 0), slim, context=0)
    np.testing.assert_allclose(one, three, rtol=1e-4, atol=1e-5)
    red = surface_features(
        map_of(np.stack([grey, 0 * grey, 0 * grey]), **BASE), grid, (0, 0), slim, context=0
    )
    assert np.abs(red - one).max() > 0.01
    floats = map_of(grey.astype(np.float32), **BASE).assign_attrs(valid_range=(0, 255))
    np.testing.assert_allclose(
        surface_features(floats, grid, (0, 0), slim, context=0), one, rtol=1e-5
    )
    with pytest.raises(InputError, match="2 bands"):
        surface_features(map_of(np.stack([grey] * 2), **BASE), grid, (0, 0), slim)


@pytest.mark.parametrize("mode", ["dense", "patch"])
def test_gaps_in_the_base_map(slim, base, mode):
    grid = region(1, 10)
    holed = base.copy(deep=True)
    gap = holed["lon"] > 5 + 8 * STEP
    holed.values[:, gap] = np.nan
    holed.values[100, 100] = np.nan
    whole = surface_features(
        base, grid, (0, 0), slim, mode, context=0, select=range(8), value_range=(-3, 3)
    )
    out = surface_features(
        holed, grid, (0, 0), slim, mode, context=0, select=range(8), value_range=(-3, 3)
    )
    lost = np.isnan(out).all("feature").values
    assert np.isfinite(whole).all()
    # Half a window is 3.1 pixels; a twentieth of it may be missing.
    assert not lost[:, :4].any()
    assert lost[:, 6:].all()
    if mode == "patch":
        np.testing.assert_allclose(out[:, :, :3], whole[:, :, :3], rtol=1e-5)


def test_uncovered(slim, base):
    with pytest.raises(CoverageError, match=r"covers 50 % of region \(0, 0\)") as error:
        surface_features(base, region(2, 4, west=6.4 - 2 * STEP), (0, 0), slim)
    assert "half a window" in str(error.value)
    with pytest.raises(CoverageError, match="covers 0 %"):
        surface_features(base.chunk(), region(2, 2, west=-100.0), (0, 0), slim)
    with pytest.raises(CoverageError, match="the places"):
        patch_features(base, [2.0, 60.0], [5.0, 5.0], slim)
    with pytest.raises(InputError, match="2 pixels with features"):
        feature_agreement(base, region(1, 2), (0, 0), slim, pixels=9)
    # To the edge, the nearest pixel goes on.
    edge = surface_features(base, region(2, 2, west=4.0, north=3.0), (0, 0), slim, context=0)
    assert np.isfinite(edge).all()


def test_bad_options(slim, base):
    grid = region(1, 1)
    for options, match in (
        ({"mode": "sparse"}, "'sparse'"),
        ({"window_km": 0.01}, "window_km"),
        ({"tile": 0}, "tile"),
        ({"max_missing": 1.0}, "max_missing"),
        ({"select": [2048]}, "select"),
        ({"select": []}, "select"),
        ({"value_range": (1, 1)}, "value_range"),
    ):
        with pytest.raises(InputError, match=match):
            surface_features(base, grid, (0, 0), slim, **options)


# Into a store


def test_filling_a_store(slim, base, tmp_path):
    grid = GIBGrid((1, 3), (4, 4), (5.0, 1.0, 5.0 + 12 * STEP, 1.0 + 4 * STEP))
    path = tmp_path / "gib.zarr"
    create_gib(path, grid, features=10)
    options = {"context": 0}
    assert fill_features(path, base, slim, regions=[(0, 1)], **options) == [(0, 1)]
    ds = open_gib(path)
    assert (ds["state"].values & 1).tolist() == [[0, 1, 0]]
    # Goes on with what is left, and with the features that were chosen.
    assert fill_features(path, base, slim, **options) == [(0, 0), (0, 2)]
    assert fill_features(path, base, slim, **options) == []
    import json

    model = json.loads(open_gib(path).attrs["feature_model"])
    assert model["sha256"] == slim.sha256
    assert model["mode"] == "dense"
    assert len(model["selection"]) == 10
    wanted = surface_features(
        base,
        grid,
        (0, 2),
        slim,
        select=model["selection"],
        value_range=model["value_range"],
        context=0,
    )
    np.testing.assert_array_equal(open_gib(path)["feature"][:, :, 8:], wanted)


def test_a_store_keeps_to_its_weights(slim, base, tmp_path):
    grid = GIBGrid((1, 2), (2, 2), (5.0, 1.0, 5.0 + 4 * STEP, 1.0 + 2 * STEP))
    path = tmp_path / "gib.zarr"
    create_gib(path, grid, features=3)
    fill_features(path, base, slim, regions=[(0, 0)], select=[1, 2, 3], context=0)
    other = Backbone("random", random_digest(4, 4), seed=4, width=4, device="cpu")
    for arguments, match in (
        ({"weights": other}, "sha256"),
        ({"weights": slim, "mode": "patch"}, "mode"),
        ({"weights": slim, "select": [1, 2, 4]}, "selection"),
        ({"weights": slim, "value_range": (0, 9)}, "value_range"),
    ):
        with pytest.raises(ModelError, match=match):
            fill_features(path, base, **arguments, context=0)
    with pytest.raises(InputError, match="2 features for a store of 3"):
        fill_features(path, base, slim, select=[1, 2], context=0)
    assert (open_gib(path)["state"].values & 1).tolist() == [[1, 0]]
    far = tmp_path / "far.zarr"
    create_gib(far, GIBGrid((1, 2), (2, 2), (5.0, 40.0, 6.0, 40.2)), features=3)
    with pytest.raises(CoverageError):
        fill_features(far, base, slim)
    assert not open_gib(far)["state"].any()


@pytest.mark.realdata
def test_real_albedo(real_data, slim):
    from lunarray.maps import open_map

    base = open_map(real_data / "maps" / "Albedo_Map.csv.gz", chunks=None)
    assert base.shape == (360, 720)
    # From Mare Imbrium to the highlands south of it, in steps of many pixels.
    lat, lon = np.array([35.0, 34.0, -25.0, -26.0]), np.array([-17.0, -18.0, 15.0, 16.0])
    out = patch_features(base, lat, lon, slim).values
    assert np.isfinite(out).all()
    apart = [np.linalg.norm(out[:, 0] - out[:, k]) for k in (1, 2, 3)]
    assert apart[0] < min(apart[1:])
