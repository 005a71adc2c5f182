"""Where the light comes from, and images turned so that it comes from the left."""

import itertools
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray.errors import InputError, LunarrayWarning
from lunarray.fractures.batches import ArrayTiles, lit_from_left
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.sunlight import Turn, azimuth_of, light_azimuth


def bowls(azimuth, shape=(600, 700), seed=0):
    """Ground with bowl-shaped craters and nothing else, lit at 60° incidence."""
    rng = np.random.default_rng(seed)
    height = np.zeros(shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(250):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        radius = 2.0 * (1 - rng.random()) ** -0.5
        if radius < 30:
            part = (
                slice(max(int(cy - 31), 0), int(cy + 32)),
                slice(max(int(cx - 31), 0), int(cx + 32)),
            )
            r2 = ((y[part] - cy) ** 2 + (x[part] - cx) ** 2) / radius**2
            height[part] -= 0.25 * radius * np.clip(1 - r2, 0, None)
    down, along = np.gradient(height)
    a = np.deg2rad(azimuth)
    # A slope that rises with the light faces the sun.
    shade = 1 + np.tan(np.deg2rad(60)) * (-np.sin(a) * along + np.cos(a) * down)
    return np.clip(shade, 0.02, None) + 0.02 * rng.standard_normal(shape)


def apart(a, b):
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("azimuth", [0, 35, 90, 130, 200, 270, 310])
def test_pits_tell_where_the_light_comes_from(azimuth):
    found, certainty = light_azimuth(bowls(azimuth))
    assert apart(found, azimuth) < 10
    assert certainty > 0.9
    # Mounds are pits with the sun on the other side.
    other, _ = light_azimuth(2 - bowls(azimuth))
    assert apart(other, azimuth + 180) < 10


def test_light_of_a_lazy_image_and_of_one_with_gaps():
    image = bowls(200).astype(np.float32)
    lazy = light_azimuth(da.from_array(image, chunks=(171, 256)))
    assert lazy == light_azimuth(image)
    image[:, :150] = np.nan
    assert apart(light_azimuth(image)[0], 200) < 10
    assert light_azimuth(np.full((300, 300), np.nan)) == (0.0, 0.0)
    assert light_azimuth(np.zeros((1, 1))) == (0.0, 0.0)


def test_noise_does_not_tell_and_says_so(rng):
    image = xr.DataArray(rng.standard_normal((1200, 1200)), dims=("y", "x"))
    with pytest.warns(LunarrayWarning, match="clearly where its light"):
        azimuth_of(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert azimuth_of(image, 370.0) == (10.0, True)
        assert azimuth_of(image.assign_attrs(sun_azimuth=-90)) == (270.0, True)
    for wrong in (np.nan, "east", 1e6):
        with pytest.raises(InputError, match="sun_azimuth"):
            azimuth_of(image, wrong)


@pytest.mark.parametrize("azimuth", range(0, 360, 15))
def test_turned_images_are_lit_from_the_left(azimuth):
    """The turn of an azimuth brings a gradient along the light to one that rises to the right, and a little down."""
    a = np.deg2rad(azimuth)
    y, x = np.mgrid[:40, :56]
    along = -np.sin(a) * x + np.cos(a) * y
    turn = Turn.of(azimuth)
    down, right = (g.mean() for g in np.gradient(turn.apply(along)))
    assert right >= down - 1e-9
    assert down > -1e-9
    assert 270 - 1e-6 <= turn.azimuth(azimuth) <= 315 + 1e-6
    np.testing.assert_array_equal(turn.undo(turn.apply(along)), along)
    lazy = da.from_array(along, chunks=(13, 20))
    np.testing.assert_array_equal(turn.undo(turn.apply(lazy)), along)


def test_turns_are_all_eight_of_a_square():
    image = np.arange(6).reshape(2, 3)
    made = {Turn(*flags).apply(image).tobytes() for flags in itertools.product((False, True), repeat=3)}  # fmt: skip
    assert len(made) == 8


def test_what_is_found_is_the_same_however_an_image_lies(tmp_path):
    """A model for light from the left finds the same in an image, a turned one, and a lazy one."""
    import torch

    torch.manual_seed(3)
    rule = Normalisation(sun="left", window=8)
    path = la.fractures.save_model(
        tmp_path / "m.safetensors", la.fractures.light(width=8), normalisation=rule, overlap=64
    )
    image = xr.DataArray(bowls(290, (256, 256)).astype(np.float32), dims=("y", "x"))
    image.attrs["sun_azimuth"] = 290.0
    found = la.fractures.map_fractures(image, path, tile=128)["probability"]
    turned = image.copy(data=np.ascontiguousarray(image.values[::-1].T))
    # Upside down: 250; axes exchanged: 20.
    turned.attrs["sun_azimuth"] = 20.0
    again = la.fractures.map_fractures(turned, path, tile=128)["probability"]
    np.testing.assert_allclose(again.values.T[::-1], found.values, atol=1e-6)
    lazy = la.fractures.map_fractures(image.chunk({"y": 100, "x": 90}), path, tile=128)
    assert lazy["probability"].chunks == image.chunk({"y": 100, "x": 90}).chunks
    np.testing.assert_allclose(lazy["probability"].values, found.values, atol=1e-6)
    other = la.fractures.map_fractures(image, path, tile=128, sun_azimuth=110.0)["probability"]
    assert np.abs(other.values - found.values).max() > 1e-3


def test_where_the_light_is_unknown_both_sides_are_tried(tmp_path, rng):
    path = la.fractures.save_model(
        tmp_path / "m.safetensors", la.fractures.light(width=8), normalisation=Normalisation(sun="left", window=8)
    )  # fmt: skip
    image = xr.DataArray(rng.random((192, 192)).astype(np.float32), dims=("y", "x"))
    azimuth, _ = light_azimuth(image.values)
    with pytest.warns(LunarrayWarning, match="or the other side"):
        found = la.fractures.map_fractures(image, path, tile=96)["probability"].values
    sides = [
        la.fractures.map_fractures(image, path, tile=96, sun_azimuth=a)["probability"].values
        for a in (azimuth, azimuth + 180)
    ]
    np.testing.assert_array_equal(found, np.maximum(*sides))


def test_an_azimuth_for_a_model_that_takes_any_light_is_refused(tmp_path):
    path = la.fractures.save_model(tmp_path / "m.safetensors", la.fractures.light(width=8))
    image = xr.DataArray(np.ones((64, 64), np.float32), dims=("y", "x"))
    with pytest.raises(InputError, match="light from anywhere"):
        la.fractures.map_fractures(image, path, sun_azimuth=10.0)


def test_a_rule_keeps_its_sun_and_files_of_others_stay_as_they_were():
    rule = Normalisation(sun="left")
    assert Normalisation.from_json(rule.to_json()) == rule
    assert "sun" not in Normalisation().to_json()
    with pytest.raises(la.errors.ModelError, match="sun"):
        Normalisation(sun="right")


def test_training_tiles_are_turned_with_their_masks():
    scene = la.simulate.nac_scene((192, 192), azimuth=200.0, seed=5).dataset
    tiles = la.fractures.tiles(scene["image"], scene["mask"], size=64, overlap=0.0)
    rule = Normalisation(sun="left")
    turn = Turn.of(200.0)
    for made in (tiles, tiles.with_rotations()):
        turned = lit_from_left(made, rule)
        assert len(turned) == len(made)
        for plain, other in zip(tiles, (turned[i] for i in range(len(tiles))), strict=True):
            for a, b in zip(plain, other, strict=True):
                np.testing.assert_array_equal(turn.apply(a), b)
    assert lit_from_left(tiles, Normalisation()) is tiles
    image = bowls(90, (512, 512)).astype(np.float32)
    blocks = image.reshape(4, 128, 4, 128).swapaxes(1, 2).reshape(16, 128, 128)
    array = ArrayTiles(blocks, np.zeros(blocks.shape, np.uint8))
    own = lit_from_left(array, rule)[3][0]
    assert any(np.array_equal(own, Turn.of(a).apply(blocks[3])) for a in (80, 100))
