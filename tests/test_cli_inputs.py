"""What commands are given as maps: files, folders, patterns, tiles, and Zarr of whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray import geo
from lunarray.cli.inputs import open_map, open_maps
from lunarray.errors import InputError


@pytest.fixture
def maps() -> xr.Dataset:
    box = geo.lunar_grid("north", 5000.0, (-60_000, -40_000, 60_000, 40_000))
    rows, columns = np.indices(box.shape)
    values = (rows * 100.0 + columns).astype("f4")
    found = {
        name: (("y", "x"), values + k, {"units": "m"}) for k, name in enumerate(("FeO", "TiO2"))
    }
    return geo.assign_crs(xr.Dataset(found, geo.grid_coords(box)), box)


@pytest.fixture
def tiles(maps, tmp_path):
    """A map in six tiles, named as archives name them."""
    folder = tmp_path / "tiles"
    folder.mkdir()
    for k in range(2):
        for j in range(3):
            part = maps["FeO"][8 * k : 8 * k + 8, 8 * j : 8 * j + 8]
            part.rename(f"ldem_{k}{j}").to_dataset().lunar.to_cog(folder)
    return folder


def test_tiles_in_a_folder_or_by_a_pattern_are_one_map(tiles, maps):
    for given in (tiles, tiles / "ldem_*.tif", str(tiles / "**" / "*.tif")):
        found = open_map(given)
        np.testing.assert_array_equal(found.values, maps["FeO"].values)
        np.testing.assert_array_equal(found["x"], maps["x"])
        assert found.attrs["units"] == "m"
    assert open_map(tiles / "*_00.tif").shape == (8, 8)


def test_files_that_are_no_tiles_of_one_map_are_refused(tiles, maps):
    shifted = maps["FeO"].assign_coords(x=maps["x"] + 1234.0).drop_vars("spatial_ref")
    geo.assign_crs(shifted, "north").rename("other").to_dataset().lunar.to_cog(tiles)
    with pytest.raises(InputError, match="no tiles of one map"):
        open_map(tiles)


@pytest.mark.parametrize("kind", ["ours", "foreign", "version 2", "netCDF", "GeoTIFF", "gone"])
def test_one_map_of_whatever_holds_it(maps, tmp_path, kind):
    one, path = maps[["FeO"]], tmp_path / "map.zarr"
    if kind == "ours":
        one.lunar.to_zarr(path, progress=False)
    elif kind in ("foreign", "version 2"):
        one.to_zarr(path, zarr_format=2 if kind == "version 2" else 3, consolidated=False)
    elif kind == "netCDF":
        path = la.export.to_netcdf(one, tmp_path / "map.nc")
    elif kind == "GeoTIFF":
        (path,) = one.lunar.to_cog(tmp_path)
    else:
        with pytest.raises(InputError, match=r"no such|no maps"):
            open_map(tmp_path / "gone" / "*.tif")
        return
    np.testing.assert_array_equal(open_map(path).values, maps["FeO"].values)
    np.testing.assert_array_equal(open_maps(path)["FeO"].values, maps["FeO"].values)


def test_maps_by_name_in_a_folder_or_by_a_pattern(maps, tmp_path):
    maps.lunar.to_cog(tmp_path)
    for given in (tmp_path, tmp_path / "*.tif", tmp_path / "[FT]*O*.tif"):
        assert sorted(map(str, open_maps(given).data_vars)) == ["FeO", "TiO2"]
    assert list(open_maps(tmp_path / "Fe*.tif").data_vars) == ["FeO"]


def test_a_store_of_several_maps_is_not_one(maps, tmp_path):
    maps.lunar.to_zarr(tmp_path / "maps.zarr", progress=False)
    with pytest.raises(InputError, match="2 maps"):
        open_map(tmp_path / "maps.zarr")


@pytest.mark.parametrize("name", ["albedo.csv", "albedo.csv.gz"])
def test_a_table_of_numbers_is_a_map(tmp_path, name):
    np.savetxt(tmp_path / name, np.arange(18.0 * 36).reshape(18, 36), delimiter=",")
    assert open_map(tmp_path / name).dims == ("lat", "lon")
