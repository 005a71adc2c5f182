"""Covariates of pixels from maps of any kind, and the banks that hold them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from lunarray.errors import CoverageError, InputError, ModelError
from lunarray.geo import assign_crs, moon_crs
from lunarray.superres import GIBGrid, create_gib, fill_features, open_gib, surface_features
from lunarray.superres.covariates import map_features


def map_of(value, step, shape, west, north):
    """A map of one value."""
    lat, lon = (
        north - step * (np.arange(shape[0]) + 0.5),
        west + step * (np.arange(shape[1]) + 0.5),
    )
    return assign_crs(
        xr.DataArray(np.full(shape, float(value)), {"lat": lat, "lon": lon}, ("lat", "lon")),
        moon_crs("geographic"),
    )


def test_covariates_follow_a_field_on_the_sphere():
    # Poles and ±180° included: x of the unit vector falls off by a Gaussian's share, and slopes by its sine.
    whole = GIBGrid((1, 1), (60, 120), (-180.0, -90.0, 180.0, 90.0))
    field = map_of(0.0, 0.5, (360, 720), west=-180.0, north=90.0)
    lat, lon = (np.deg2rad(field[n].values) for n in ("lat", "lon"))
    field = field.copy(data=3 + np.cos(lat)[:, None] * np.cos(lon))
    out = map_features({"m": field}, whole, (0, 0), scales=(10, 100), textures=(100,))
    assert list(out["feature"].values) == [
        "m_mean_10km", "m_mean_100km", "m_slope_100km", "m_spread_100km"
    ]  # fmt: skip
    x = np.cos(np.deg2rad(whole.lat()))[:, None] * np.cos(np.deg2rad(whole.lon()))
    slope = np.sqrt(1 - x**2) * 100 / 1737.4
    np.testing.assert_allclose(out[0], 3 + x, atol=1e-3)
    np.testing.assert_allclose(out[1], 3 + x, atol=5e-3)
    np.testing.assert_allclose(out[2], slope, atol=1e-3)
    np.testing.assert_allclose(out[3], slope, atol=5e-3)


def test_covariates_do_not_know_of_regions_or_meridians(rng):
    field = map_of(0.0, 0.5, (360, 720), west=-180.0, north=90.0)
    field = field.copy(data=rng.normal(0.2, 0.05, field.shape))
    field[100:110, 300:320] = np.nan
    for extent in ((-10.0, 20.0, 10.0, 40.0), (160.0, 70.0, 180.0, 90.0)):
        one, four = GIBGrid((1, 1), (40, 40), extent), GIBGrid((2, 2), (20, 20), extent)
        whole = map_features({"m": field}, one, (0, 0))
        parts = np.concatenate(
            [
                np.concatenate([map_features({"m": field}, four, (i, j)) for j in (0, 1)], axis=2)
                for i in (0, 1)
            ],
            axis=1,
        )
        np.testing.assert_allclose(parts, whole, rtol=2e-3, atol=2e-5)
    assert np.isfinite(whole).all()
    # The same field half a turn on: no meridian is special.
    turned = field.roll(lon=360, roll_coords=False)
    east, west = (GIBGrid((1, 1), (20, 20), (a, 0.0, a + 10.0, 10.0)) for a in (170.0, -10.0))
    np.testing.assert_allclose(
        map_features({"m": field}, east, (0, 0)),
        map_features({"m": turned}, west, (0, 0)),
        rtol=2e-3,
        atol=2e-5,
    )


def test_covariates_of_what_is_missing():
    grid = GIBGrid((1, 1), (20, 20), (-2.0, -2.0, 2.0, 2.0))
    field = map_of(0.0, 0.1, (100, 100), west=-5.0, north=5.0)
    field = field.copy(data=np.where(field["lon"].values > 0, np.nan, 1e4 + 0 * field.values))
    out = map_features({"m": field}, grid, (0, 0))
    known = np.isfinite(out.values).all(axis=0)
    assert known[:, :9].all()
    assert not known[:, 12:].any()
    # A plain is one, at the border of what is known too, and far from zero.
    np.testing.assert_allclose(out.values[:4][:, known], 1e4, rtol=1e-6)
    np.testing.assert_allclose(out.values[4:][:, known], 0.0, atol=1e-3)


def test_a_bank_of_covariates(tmp_path, rng):
    grid = GIBGrid((1, 2), (6, 6), (0.0, 0.0, 4.0, 2.0))
    field = map_of(0.0, 0.1, (100, 100), west=-3.0, north=6.0)
    wac, other = (field.copy(data=rng.normal(0.2, 0.05, field.shape)) for _ in range(2))
    oxides = xr.concat([wac, other], xr.Variable("oxide", ["FeO", "MgO"]))
    path = tmp_path / "gib.zarr"
    assert create_gib(path, grid).sizes["feature"] == 0
    maps = {"wac": wac, "sp": oxides}
    assert fill_features(path, maps=maps, regions=[(0, 1)]) == [(0, 1)]
    assert fill_features(path, maps=maps) == [(0, 0)]
    ds = open_gib(path)
    names = [str(n) for n in ds["feature_name"].values]
    assert len(names) == 24
    assert names[0] == "wac_mean_1.5km"
    assert "sp_FeO_spread_4km" in names
    wanted = map_features({"wac": wac}, grid, (0, 0))
    np.testing.assert_array_equal(ds["feature"][:8, :, :6], wanted)
    card = json.loads(ds.attrs["feature_model"])
    assert card["kind"] == "maps"
    assert card["scales_km"] == [1.5, 4.0, 10.0, 24.0]
    assert set(card["maps"]) == {"wac", "sp_FeO", "sp_MgO"}
    # Laid out the same: gone on with; other maps: another bank, even where no region is left to fill.
    assert create_gib(path, grid)["state"].values.tolist() == [[1, 1]]
    assert fill_features(path, maps={"wac": wac, "sp": oxides}) == []
    for regions in (None, [(0, 0)]):
        with pytest.raises(ModelError, match="maps"):
            fill_features(path, maps={"wac": other, "sp": oxides}, regions=regions)
    third = tmp_path / "third.zarr"
    create_gib(third, grid)
    fill_features(third, wac, regions=[(0, 0)])
    with pytest.raises(ModelError, match="maps"):
        fill_features(third, other)


def test_covariates_that_make_no_sense(tmp_path):
    grid = GIBGrid((1, 1), (6, 6), (0.0, 0.0, 2.0, 2.0))
    field = map_of(1.0, 0.1, (100, 100), west=-3.0, north=6.0)
    path = tmp_path / "gib.zarr"
    create_gib(path, grid)
    for arguments, match in (
        ({}, "neither maps nor a base map"),
        ({"basemap": field, "maps": {"a": field}}, "maps and a base map"),
        ({"maps": {}}, "without maps"),
        ({"maps": {"a": field.values}}, "ndarray"),
        ({"maps": {"a": field}, "scales": (0.0,)}, "scales"),
        ({"maps": {"a": field}, "weights": "random"}, "weights"),
    ):
        with pytest.raises(InputError, match=match):
            fill_features(path, **arguments)
    with pytest.raises(CoverageError, match=r"maps: a.*covers 0 % of region"):
        fill_features(path, maps={"a": map_of(1.0, 0.1, (20, 20), west=100.0, north=6.0)})
    with pytest.raises(ModelError, match="no weights are named"):
        surface_features(field, grid, (0, 0))
    for odd in (("Xx",), ("Fe", "iron")):
        with pytest.raises(InputError, match="no chemical element"):
            create_gib(tmp_path / "odd.zarr", grid, odd)


def test_cells_of_a_coarse_map_are_not_seen(rng):
    # Half a degree a cell, two kilometres a pixel: interpolation alone has an edge at each middle of a cell.
    field = map_of(0.0, 0.5, (360, 720), west=-180.0, north=90.0)
    field = field.copy(data=rng.normal(0.2, 0.05, field.shape))
    grid = GIBGrid((1, 1), (80, 80), (0.0, 0.0, 5.0, 5.0))
    out = map_features({"m": field}, grid, (0, 0))
    # A slope over less than a cell is that of the interpolation: it jumps from cell to cell.
    for name, most in (("m_slope_4km", 0.17), ("m_spread_4km", 0.085)):
        values = out.sel(feature=name).values
        assert np.diff(values, 2, axis=1).std() < most * values.std()
