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


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"a": ("x", np.array([1j, 2.0]))}, "complex"),
        ({"a": ("x", np.array(["a", 3], object))}, "objects"),
        ({"a": ("x", np.ones(2, np.longdouble))}, "float128"),
        ({"a/b": ("x", [1.0, 2.0])}, "'a/b'"),
        ({3: ("x", [1.0, 2.0])}, "3"),
        ({"": ("x", [1.0, 2.0])}, "''"),
        ({"a": ("x/y", [1.0, 2.0])}, "'x/y'"),
        ({"a": ("x", np.array([2**53 + 1, 0]))}, "2\\*\\*53"),
        ({"a": ("x", np.array([2**64 - 1, 0], "u8"))}, "2\\*\\*53"),
        ({"a": ("x", np.array([1, 2], "u1"), {"flag_masks": "all"})}, "flag_masks 'all'"),
    ],
)
def test_what_netcdf_does_not_have_is_refused_by_name(tmp_path, variables, said):
    path = tmp_path / "a.nc"
    with pytest.raises(InputError, match=said):
        la.export.to_netcdf(xr.Dataset(variables), path)
    assert not list(tmp_path.iterdir())


def test_whole_numbers_that_float64_does_not_hold_are_found_in_lazy_ones_too(tmp_path):
    ds = xr.Dataset({"a": ("x", np.array([1, 2, 2**60 + 1]))}).chunk(x=1)
    with pytest.raises(InputError, match="2\\*\\*53"):
        la.export.to_netcdf(ds, tmp_path / "a.nc")
    la.export.to_netcdf(ds.isel(x=slice(0, 2)), tmp_path / "a.nc")
    assert xr.open_dataset(tmp_path / "a.nc")["a"].values.tolist() == [1, 2]


def test_an_index_of_levels_is_refused(tmp_path):
    ds = xr.Dataset({"a": (("y", "x"), np.eye(2))}, {"x": [1, 2], "y": [1, 2]}).stack(p=("y", "x"))
    with pytest.raises(InputError, match="levels"):
        la.export.to_netcdf(ds, tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (True, 1),
        ([True, False], [1, 0]),
        (np.str_("x"), "x"),
        (np.array(["a", "ü"]), ["a", "ü"]),
        ({"b": 1}, '{"b": 1}'),
        ([1, "a"], '[1, "a"]'),
        ([[1], [1, 2]], "[[1], [1, 2]]"),
        (np.datetime64("2009-01-01"), "2009-01-01"),
        (2**70, str(2**70)),
        (b"xx", "xx"),
        ("a\0b\ud800", "ab?"),
    ],
)
def test_attributes_of_every_kind_are_kept(tmp_path, value, read):
    ds = xr.Dataset({"a": ("x", [1.0, 2.0], {"own": value})}, attrs={"own": value, "none": None})
    back = xr.open_dataset(la.export.to_netcdf(ds, tmp_path / "a.nc"))
    for attrs in (back.attrs, back["a"].attrs):
        assert np.array_equal(attrs["own"], read)
    assert "none" not in back.attrs


def test_an_array_that_is_called_as_its_coordinate_is_written(tmp_path):
    array = xr.DataArray([1.0, 2.0], dims="y", coords={"y": [3, 4]}, name="y")
    back = xr.open_dataset(la.export.to_netcdf(array, tmp_path / "a.nc"))
    assert back["y_values"].values.tolist() == [1, 2]


def test_what_times_are_counted_in_is_the_files_to_say(tmp_path):
    when = np.array(["2009-01-01"], "M8[ns]")
    ds = xr.Dataset({"a": ("x", when, {"units": "s", "calendar": "none"})})
    back = xr.open_dataset(la.export.to_netcdf(ds, tmp_path / "a.nc"))
    assert back["a"].values == when
