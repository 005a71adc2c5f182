"""to_netcdf: the same numbers, in a file that follows CF."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray.errors import InputError, WrongKindError


@pytest.fixture(scope="module")
def maps() -> xr.Dataset:
    spectra = la.sample("sp_orbit").lunar.condition()
    cube = spectra.lunar.grid("geographic", resolution=0.2, bounds=(-25, 5, -15, 20))
    return cube.lunar.invert_oxides()


def test_numbers_stay_and_types_are_of_cf(maps, tmp_path):
    path = maps.lunar.to_netcdf(tmp_path / "maps.nc", institution="a house")
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as found:
        assert found.attrs["Conventions"] == "CF-1.8"
        assert found.attrs["institution"] == "a house"
        assert "FeO" in found.attrs["title"]
        for name in maps.data_vars:
            np.testing.assert_array_equal(found[name], maps[name].compute(), err_msg=str(name))
            assert found[name].dtype.str[1:] in {"i1", "i2", "i4", "f4", "f8"}, name
        assert found["quality"].attrs["flag_masks"].dtype == found["quality"].dtype
        for axis in ("lat", "lon"):
            assert "_FillValue" not in found[axis].attrs
        assert found["FeO"].attrs["grid_mapping"] == "spatial_ref"
        assert "crs_wkt" in found["spatial_ref"].attrs
    assert maps["quality"].dtype == "uint8"
    assert [p.name for p in tmp_path.iterdir()] == ["maps.nc"]


def test_times_come_back(tmp_path):
    tracks = la.sample("sp_orbit").lunar.condition().lunar.invert_oxides()
    path = tracks.lunar.to_netcdf(tmp_path / "tracks.nc")
    with xr.open_dataset(path, engine="h5netcdf") as found:
        late = abs(found["time"].values - tracks["time"].values) / np.timedelta64(1, "us")
        assert late.max() <= 1


def test_opens_again_with_the_reader_of_netcdf(maps, tmp_path):
    path = maps["FeO"].lunar.to_netcdf(tmp_path / "iron.nc")
    again = la.open(path)
    np.testing.assert_array_equal(again["FeO"], maps["FeO"].compute())
    assert la.geo.crs_of(again).is_geographic


def test_what_is_no_netcdf_is_refused(maps, tmp_path):
    with pytest.raises(InputError, match=r"End the name in \.nc"):
        maps.lunar.to_netcdf(tmp_path / "maps.tif")
    with pytest.raises(WrongKindError):
        la.export.to_netcdf(3, tmp_path / "maps.nc")
    assert not list(tmp_path.iterdir())


def test_failure_leaves_nothing(maps, tmp_path):
    def fail(block):
        raise RuntimeError("at compute time")

    bad = maps["FeO"].chunk().map_blocks(fail, template=maps["FeO"].chunk())
    with pytest.raises(RuntimeError, match="at compute time"):
        bad.lunar.to_netcdf(tmp_path / "bad.nc")
    assert not list(tmp_path.iterdir())
