"""How well footprints repeat, against numbers that are known."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import xarray as xr

import lunarray.superres as sr
from lunarray.errors import InputError
from lunarray.superres import repeats
from lunarray.superres.evaluation import format_table
from lunarray.superres.repeats import overlapping_pairs


def tracks(rng, count=400, shift=0.0, noise=1.0, stated=0.5):
    """Two tracks over the same ground, whose centres are `shift` widths apart."""
    lat = np.tile(np.linspace(-40, 40, count), 2)[:, None] + [0, 0, 0.1, 0.1]
    lon = np.repeat([179.5, 179.5 + shift], count)[:, None] + [0, 1, 1, 0]
    true = np.tile(rng.normal(10, 2, count), 2)[:, None]
    value = true + rng.normal(0, noise, (2 * count, 1))
    flat = rng.normal(20, noise, (2 * count, 1))
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), lat),
            "corner_lon": (("footprint", "corner"), (lon + 180) % 360 - 180),
            "abundance": (("footprint", "element"), np.hstack([value, flat]).clip(0)),
            "abundance_std": (("footprint", "element"), np.full((2 * count, 2), stated)),
        },
        {"element": ["Fe", "Si"], "track": ("footprint", np.repeat([7, 3], count))},
    )


def test_known_noise_is_found(rng):
    found = sr.repeatability(tracks(rng))
    assert found["pairs"].values.tolist() == [400, 400]
    assert found.attrs["footprint_pairs"] == 400
    np.testing.assert_allclose(found["scatter"], 1.0, rtol=0.1)
    np.testing.assert_allclose(found["r"], [0.8, 0.0], atol=0.1)
    np.testing.assert_allclose(found["relative"], np.sqrt(1 - found["r"]), rtol=1e-9)
    np.testing.assert_allclose(found["error_ratio"], 2.0, rtol=0.1)
    np.testing.assert_allclose(found["stated"], 0.5)


def test_order_of_a_pair_does_not_matter(rng):
    made = tracks(rng)
    turned = made.isel(footprint=slice(None, None, -1))
    for name, value in sr.repeatability(made).data_vars.items():
        np.testing.assert_allclose(sr.repeatability(turned)[name], value, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.1, 0.25, 0.5])
def test_share_in_common_is_that_of_rectangles(rng, shift):
    made = tracks(rng, 40, shift)
    corners = made["corner_lat"].values, made["corner_lon"].values
    pairs, share = overlapping_pairs(*corners, made["track"].values, 0.05)
    assert len(pairs) == 40
    # Edges are great circles, which leave the parallels away from the equator.
    np.testing.assert_allclose(share[19:21], (1 - shift) / (1 + shift), rtol=1e-3)


def test_over_a_pole_and_within_one_track():
    lat, lon = np.full((2, 4), 89.0), np.array([[0.0, 90, 180, 270], [45, 135, 225, 315]])
    pairs, share = overlapping_pairs(lat, lon, np.array([0, 1]), 0.5)
    assert pairs.tolist() == [[0, 1]]
    # Two squares turned by 45° share a regular octagon: 2 (√2 - 1) of each.
    both = 2 * (np.sqrt(2) - 1)
    np.testing.assert_allclose(share, both / (2 - both), rtol=1e-6)
    assert not len(overlapping_pairs(lat, lon, np.array([4, 4]), 0.5)[0])


def test_too_few_pairs_and_unknown_errors_tell_nothing(rng):
    few = sr.repeatability(tracks(rng, 9))
    assert few["pairs"].values.tolist() == [9, 9]
    assert np.isnan(few["scatter"]).all()
    none = sr.repeatability(tracks(rng, 30).isel(footprint=slice(0, 30)))
    assert none["pairs"].values.tolist() == [0, 0]
    made = tracks(rng, 30).drop_vars("abundance_std")
    made["abundance"][:25, 0] = np.nan
    found = sr.repeatability(made)
    assert found["pairs"].values.tolist() == [5, 30]
    assert np.isnan(found["scatter"].values).tolist() == [True, False]
    assert np.isnan(found["error_ratio"]).all()
    with pytest.raises(InputError, match="overlap"):
        sr.repeatability(made, overlap=1.5)


def test_the_floor_stands_below_the_methods(rng):
    made = tracks(rng, 40)
    grid = sr.GIBGrid((1, 1), (90, 24), (160.0, -45.0, 180.0, 45.0))
    flat = np.zeros((1, 90, 24), np.float32)
    mare = np.ones((90, 24), np.uint8)
    inside = made.assign(corner_lon=made["corner_lon"] * 0 + [170, 173, 173, 170])
    inside = inside.assign(corner_lat=inside["corner_lat"] + [0, 0, 1.5, 1.5])
    ways = ("mare/highland mean", "nearest footprint")
    table = sr.cross_validate(grid, flat, mare, inside, folds=2, methods=ways, progress=False)
    # Wild footprints elsewhere say nothing of these.
    wild = inside.assign(
        corner_lon=inside["corner_lon"] - 90, abundance=tracks(rng, 40, noise=9.0)["abundance"]
    )
    more = xr.concat([inside, wild], "footprint")
    again = sr.cross_validate(grid, flat, mare, more, folds=2, methods=ways[:1], progress=False)
    np.testing.assert_array_equal(again["floor"], table["floor"])
    want = sr.repeatability(inside)["scatter"]
    np.testing.assert_allclose(table["floor"], want)
    spread = table["measured"].values.std(axis=0)
    np.testing.assert_allclose(table["floor_relative"], (want / spread).mean())
    assert table["floor_relative"] < table["relative"].min()
    last = format_table(table).splitlines()[-1]
    assert last.startswith(f"| floor: {table['floor'].attrs['footprint_pairs']} repeats | ")
    assert "floor" not in format_table(table, "r")
    # Footprints beside each other make no pairs, and nothing is said.
    alone = inside.isel(footprint=slice(0, 40, 2))
    alone = alone.assign_coords(track=("footprint", np.arange(20)))
    few = sr.cross_validate(grid, flat, mare, alone, folds=2, methods=ways[:1], progress=False)
    assert "floor" not in few
    assert "floor" not in format_table(few)


def test_training_tells_what_is_noise(rng):
    from lunarray.cli.superres import _repeats

    iron, silicon = _repeats(sr.repeatability(tracks(rng)))
    assert iron.startswith("Fe: ±")
    assert iron.endswith(" times the stated errors")
    assert silicon.startswith("Si: ±")
    assert silicon.endswith("noise for the most part")
    # Twenty pairs are too few to say so.
    assert not any("noise" in line for line in _repeats(sr.repeatability(tracks(rng, 20))))
    assert _repeats(sr.repeatability(tracks(rng, 5))) == []


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:.*left out")
def test_real_tracks_know_their_silicon_least(real_data):
    table = real_data / "class" / "abundance" / "class_l2_tracks.csv"
    found = sr.repeatability(sr.read_class_tracks(table, uncertainty="fit", errors="skip"))
    assert found.attrs["footprint_pairs"] > 80
    by = found.set_index(element="element").sel
    assert abs(by(element="Si")["r"]) < 0.2 < by(element="Fe")["r"] < by(element="Al")["r"]
    assert 0.7 < found["relative"].mean() < 0.85
    assert (found["error_ratio"] > 2).all()


def test_example_runs():
    tests = doctest.DocTestFinder().find(repeats.repeatability, globs={})
    assert sum(doctest.DocTestRunner().run(t).attempted for t in tests) > 3
    assert not sum(doctest.DocTestRunner().run(t).failed for t in tests)
