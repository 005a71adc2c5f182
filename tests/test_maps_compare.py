"""Element maps of several sources on one grid."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app
from lunarray.errors import InputError
from lunarray.maps import compare_elements, open_lunar_prospector, open_map
from lunarray.superres import GIBGrid
from lunarray.xrf.convert import OXIDE_OF


def maps_on(grid, **elements):
    """Element maps on a grid."""
    coords = {"element": list(elements), **la.geo.grid_coords(grid)}
    values = np.stack([np.broadcast_to(v, tuple(grid.shape)) for v in elements.values()])
    array = xr.DataArray(values, coords, ("element", "lat", "lon"), "abundance")
    return la.geo.assign_grid(array, grid).to_dataset()


@pytest.fixture
def fine():
    rng = np.random.default_rng(1)
    grid = GIBGrid((1, 1), (40, 60), (10.0, -10.0, 40.0, 10.0)).geobox
    return maps_on(grid, Fe=rng.uniform(2, 15, (40, 60)), Al=rng.uniform(3, 18, (40, 60)))


def test_oxides_elements_and_single_maps_are_one(fine):
    iron, aluminium = (fine["abundance"].sel(element=e, drop=True) for e in ("Fe", "Al"))
    feo, alumina = (iron * 71.844 / 55.845, aluminium * 101.961 / (2 * 26.982))
    assert OXIDE_OF["Fe"][0] == "FeO"
    others = {
        "oxides": xr.Dataset({"FeO": feo, "Al2O3": alumina}),
        "elements": xr.Dataset({"Al": aluminium + 1}),
        "one map": iron.rename("Fe"),
    }
    found = compare_elements(fine, others, name="ours")
    assert list(found["source"].values) == ["ours", "oxides", "elements", "one map"]
    np.testing.assert_allclose(
        found["abundance"].sel(source="oxides"), fine["abundance"], rtol=1e-3
    )
    np.testing.assert_allclose(found["r"].sel(source="oxides"), 1, atol=1e-5)
    np.testing.assert_allclose(found["bias"].sel(source="elements", element="Al"), 1, atol=1e-5)
    assert np.isnan(found["bias"].sel(source="elements", element="Fe"))
    assert found["pixels"].sel(source="one map").values.tolist() == [2400, 0]
    lazy = compare_elements(fine.chunk(lat=20), {"oxides": others["oxides"].chunk(lat=7)})
    assert lazy["abundance"].chunks
    np.testing.assert_allclose(lazy["abundance"].compute()[1], found["abundance"][1], rtol=1e-6)


def test_a_fine_map_is_held_against_a_coarse_one_by_its_means(fine):
    iron = fine["abundance"].sel(element="Fe", drop=True).rename("Fe")
    coarse = la.geo.reproject(iron, GIBGrid((1, 1), (8, 12), (10.0, -10.0, 40.0, 10.0)).geobox)
    found = compare_elements(fine, {"coarse": coarse})
    assert found.sizes["lat"] < 12
    assert float(found["r"].sel(source="coarse", element="Fe")) > 0.95
    assert compare_elements(fine, {"coarse": coarse}, grid=fine)["abundance"].shape[2:] == (40, 60)


def test_what_cannot_be_compared(fine):
    for others, options, match in (
        ({}, {}, "no other source"),
        ({"x": fine["abundance"].isel(element=0, drop=True)}, {}, "without element"),
        ({"x": fine.isel(element=[0])}, {"elements": ["Ti"]}, "no Ti in both"),
        ({"x": fine.assign_coords(element=["Ca", "Si"])}, {}, "no element in both"),
    ):
        with pytest.raises(InputError, match=match):
            compare_elements(fine, others, **options)
    with pytest.raises(InputError, match="no maps of several sources"):
        la.plot.element_comparison(fine)


@pytest.mark.realdata
def test_lunar_prospector_beside_itself(real_data, tmp_path):
    """Two products of one instrument: both agree on iron, on one grid, in one picture."""
    folder = real_data / "maps"
    iron = open_map(folder / "LPFe_Map.csv.gz", name="Fe", chunks=None)
    table = open_lunar_prospector(folder / "lpgrs_high1_elem_abundance_5deg.tab")
    found = compare_elements(xr.Dataset({"Fe": iron}), {"cells of 5°": table}, grid=2.0)
    assert found.sizes["lat"] == 90
    assert float(found["r"].sel(source="cells of 5°", element="Fe")) > 0.9
    figure = la.plot.element_comparison(found, path=tmp_path / "c.png")
    assert "r 0.9" in figure.axes[1].get_title()
    iron.to_dataset(name="Fe").to_netcdf(tmp_path / "maps.nc")
    result = CliRunner().invoke(
        app,
        ["gib", "compare", str(tmp_path / "maps.nc"), "-o", str(tmp_path / "d.png"),
         "--with", f"cells={folder / 'lpgrs_high1_elem_abundance_5deg.tab'}",
         "--with", f"map:Fe={folder / 'LPFe_Map.csv.gz'}", "--resolution", "2"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "d.png").stat().st_size > 5000
    assert "0.9" in result.output
