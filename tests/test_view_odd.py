"""The interactive map of what is odd: no numbers, nothing, damage, flags without words."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import xarray as xr

from lunarray import geo, view
from lunarray.errors import InputError
from lunarray.store import to_zarr
from lunarray.view.cache import Blocks, Files
from lunarray.view.pyramid import Pyramid
from lunarray.view.sources import open_sources
from tests.test_view import on


def test_bands_are_told_apart_when_the_first_ones_are_forgotten(tmp_path):
    """Blocks outlive their pyramid, and a new object often gets the id of one that is gone."""
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    blocks, files = Blocks(), Files(tmp_path)
    for k in range(20):
        values = np.full(box.shape, float(k), np.float32)
        made = Pyramid(values, box, flags=False, blocks=blocks, files=files)
        assert made.read(0, 0, 4, 0, 4).max() == k
        del made


def test_maps_of_nothing_are_nothing_to_look_at():
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    cube = on(box, np.ones((2, *box.shape)))
    with pytest.raises(InputError, match="neither maps"):
        view.serve(cube.isel(wavelength=slice(0, 0)), port=0)


def _asked(viewer, path) -> tuple[int, dict]:
    def none(word):
        raise AssertionError(f"{word} is not JSON")

    try:
        with urllib.request.urlopen(viewer.url + path, timeout=60) as answer:
            return answer.status, json.loads(answer.read(), parse_constant=none)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read(), parse_constant=none)


def test_numbers_that_are_none_are_answered_as_nothing():
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    odd = np.resize([np.nan, np.inf, -np.inf, 1.0], box.shape).astype("f4")
    cube = on(box, np.stack([odd, odd])).assign_coords(wavelength=[np.nan, np.inf])
    track = xr.Dataset(
        {"a": ("n", [1.0, np.inf]), "s": (("n", "w"), np.full((2, 2), np.nan))},
        {"lon": ("n", [10.0, np.nan]), "lat": ("n", [80.0, 1.0]), "w": [np.inf, np.nan]},
    )
    with view.serve([cube, track], port=0) as viewer:
        status, found = _asked(viewer, "api/at?lon=0&lat=89.9")
        assert status == 200
        assert found["sources"][0]["spectra"][0]["x"] == [None, None]
        status, found = _asked(viewer, "api/along?layer=1&place=0")
        assert status == 200
        assert found["sources"][0]["spectra"][0]["x"] == [None, None]


@pytest.mark.parametrize("attrs", [{"flag_masks": "a b"}, {"flag_values": [1, None]}, {}])
def test_flags_that_say_nothing_have_no_words(attrs):
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    flags = on(box, np.ones(box.shape, "u1"), flag_meanings="a b", **attrs)
    with view.serve(flags, port=0) as viewer:
        status, found = _asked(viewer, "api/at?lon=0&lat=89.9")
    assert status == 200
    assert "meanings" not in found["sources"][0]["values"][0]


def test_a_polar_map_that_lies_on_the_other_side_is_found():
    box = geo.lunar_grid("north", 1e6, (1.0e9, 1.0e9, 1.01e9, 1.01e9))
    with view.serve(on(box, np.ones(box.shape)), port=0) as viewer:
        assert viewer.layers[0].described()["home"] == "south"
        assert _asked(viewer, "api/limits?layer=0&minus=0")[0] == 200


def test_a_track_of_nothing_and_footprints_without_an_area():
    empty = xr.Dataset({"a": ("n", [])}, {"lon": ("n", []), "lat": ("n", [])})
    with view.serve(empty, port=0) as viewer:
        asked = "api/vectors?layer=0&grid=north&view=-1,-1,1,1&resolution=1"
        assert _asked(viewer, asked)[1]["features"] == []
    corners = {n: (("n", "corner"), np.ones((1, 2))) for n in ("corner_lon", "corner_lat")}
    with pytest.raises(InputError, match="three corners"):
        view.serve(xr.Dataset({"a": ("n", [1.0])}, corners), port=0)


def test_a_notebook_shows_the_frame_of_a_damaged_store(tmp_path):
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    store = to_zarr(on(box, np.ones(box.shape, "f4")).to_dataset(), tmp_path / "a.zarr", progress=False)  # fmt: skip
    for part in (tmp_path / "a.zarr" / "FeO").rglob("*"):
        if part.is_file() and part.name != "zarr.json":
            part.write_bytes(b"not what it was" * 40)
    assert store is not None
    with view.serve(tmp_path / "a.zarr", port=0) as viewer:
        assert "<iframe" in viewer._repr_html_()
        status, found = _asked(viewer, "api/limits?layer=0")
        assert status == 400
        assert "damaged" in found["error"]


def test_stores_of_one_name_are_told_apart(tmp_path):
    box = geo.lunar_grid("north", 20_000.0, latitude=85)
    for folder in ("mine", "demo"):
        maps = on(box, np.ones(box.shape, "f4")).to_dataset()
        maps.to_zarr(tmp_path / folder / "oxides.zarr", consolidated=False)
    paths = [tmp_path / folder / "oxides.zarr" for folder in ("mine", "demo")]
    names = [source.name for source in open_sources(paths)]
    assert names == ["mine/oxides.zarr", "demo/oxides.zarr"]
    assert [source.name for source in open_sources(paths[:1])] == ["oxides.zarr"]
