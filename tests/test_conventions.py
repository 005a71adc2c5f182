"""Conventions by which other programs find where a stored map lies."""

from __future__ import annotations

import json

import numpy as np
import pyproj
import pytest
import xarray as xr

import lunarray as la
from lunarray.geo import assign_grid, geobox_of, lunar_grid, polar_grid

GRIDS = {
    "north": polar_grid("north", resolution=20_000, latitude=85),
    "south": polar_grid("south", resolution=30_000, latitude=80),
    "global": lunar_grid("geographic", 30.0),
}


def map_on(grid):
    values = np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape)
    dims = ("lat", "lon") if grid.crs.geographic else ("y", "x")
    return assign_grid(xr.Dataset({"FeO": (dims, values)}), grid).chunk()


def said(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]


@pytest.mark.parametrize("name", GRIDS)
def test_a_stored_map_says_where_it_lies(tmp_path, name):
    grid = GRIDS[name]
    opened = map_on(grid).lunar.to_zarr(tmp_path / "m.zarr")
    attrs = said(tmp_path / "m.zarr")
    assert pyproj.CRS(attrs["proj:wkt2"]) == pyproj.CRS(grid.crs.to_wkt())
    assert attrs["spatial:transform"] == pytest.approx(list(grid.transform)[:6], rel=1e-12)
    assert attrs["spatial:shape"] == list(grid.shape)
    assert attrs["spatial:bbox"] == pytest.approx(list(grid.boundingbox.bbox))
    # Xarray's attributes are those that were given: a part of the map carries no transform of the whole along.
    assert not [key for key in opened.attrs if ":" in key or key == "zarr_conventions"]
    part = opened.isel({attrs["spatial:dimensions"][1]: slice(1, 4)})
    part.lunar.to_zarr(tmp_path / "part.zarr")
    box = geobox_of(part)
    assert said(tmp_path / "part.zarr")["spatial:transform"] == list(box.transform)[:6]
    assert said(tmp_path / "part.zarr")["spatial:shape"] == [grid.shape[0], 3]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.needs("zarr_cm")
def test_those_who_keep_the_conventions_read_them(tmp_path, name):
    from zarr_cm import proj, spatial

    map_on(GRIDS[name]).lunar.to_zarr(tmp_path / "m.zarr")
    metadata = json.loads((tmp_path / "m.zarr" / "zarr.json").read_text())
    proj.validate_group_metadata(metadata)
    spatial.validate_group_metadata(metadata)


def test_what_is_no_map_says_nothing(tmp_path):
    la.sample("sp_orbit").lunar.to_zarr(tmp_path / "sp.zarr")
    irregular = map_on(GRIDS["north"])
    irregular = irregular.assign_coords(x=irregular.x.values**3)
    irregular.lunar.to_zarr(tmp_path / "odd.zarr")
    for store in ("sp.zarr", "odd.zarr"):
        assert not [key for key in said(tmp_path / store) if ":" in key]


def test_words_of_another_grid_are_not_kept(tmp_path):
    odd = map_on(GRIDS["north"]).assign_attrs({"spatial:shape": [1, 1], "proj:code": "EPSG:4326"})
    odd.lunar.to_zarr(tmp_path / "m.zarr")
    attrs = said(tmp_path / "m.zarr")
    assert attrs["spatial:shape"] == list(GRIDS["north"].shape)
    assert "proj:code" not in attrs
