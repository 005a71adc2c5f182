"""Lunar Prospector's tables: as written, as read, and on maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr

from lunarray import maps, xrf
from lunarray.errors import InputError, ProductFormatError
from lunarray.maps.kernels import find_cells
from lunarray.xrf.convert import element_fraction

SPECIES = ("MgO", "Al2O3", "SiO2", "CaO", "TiO2", "FeO", "K", "Th", "U")
FIVE = "lpgrs_high1_elem_abundance_5deg.tab"


def _cells(height: float) -> list[tuple[float, float, float, float]]:
    """Cells of about one area as the team laid them: half a band at each pole, whole bands between."""
    edges = [-90.0, *np.arange(-90 + height / 2, 90, height), 90.0]
    area = np.deg2rad(height) ** 2
    found = []
    for low, high in itertools.pairwise(edges):
        ring = 2 * np.pi * (np.sin(np.deg2rad(high)) - np.sin(np.deg2rad(low)))
        n = 1 if abs(low) == 90 or abs(high) == 90 else max(1, round(ring / area))
        width = 360.0 / n
        found += [(low, high, -180 + k * width, -180 + (k + 1) * width) for k in range(n)]
    return found


def write_table(path, height=30.0, seed=5):
    """A table as the PDS has it: fixed columns, exponents of three digits, no header. Returns what it says."""
    generator = np.random.default_rng(seed)
    cells = _cells(height)
    values = generator.uniform(0.01, 0.4, (len(cells), 9)) * np.where(np.arange(9) < 6, 1, 1000)
    root = generator.normal(0, 0.01, (len(cells), 9, 9)) * np.sqrt(values[:, :, None])
    covariance = root @ root.transpose(0, 2, 1)
    up = np.triu_indices(9)

    def exponent(number):
        mantissa, power = f"{number:.4e}".split("e")
        return f"{mantissa}e{int(power):+04d}"

    with open(path, "w", newline="") as stream:
        for k, (low, high, west, east) in enumerate(cells):
            row = f"{k:10d}{low:7.1f}{high:7.1f}{west:7.1f}{east:7.1f}"
            numbers = [21.6, 1.5e-6, *values[k], *covariance[k][up]]
            stream.write(row + "".join(f"{exponent(v):>15}" for v in numbers) + "\r\n")
    return np.array(cells), values, covariance


@pytest.mark.parametrize("height", [30.0, 18.0])
def test_table_is_read_as_written(tmp_path, height):
    path = tmp_path / "lpgrs_high1_elem_abundance_30deg.tab"
    cells, values, covariance = write_table(path, height)
    ds = maps.open_lunar_prospector(path)
    assert ds.sizes["cell"] == len(cells)
    scale = np.where(np.arange(9) < 6, 100.0, 1.0)
    for k, name in enumerate(SPECIES):
        np.testing.assert_allclose(ds[name], values[:, k] * scale[k], rtol=1e-4)
        std = np.sqrt(covariance[:, k, k]) * scale[k]
        np.testing.assert_allclose(ds[f"{name}_std"], std, rtol=1e-4)
        assert ds[name].attrs["units"] == ("percent" if k < 6 else "ug g-1")
    np.testing.assert_allclose(
        ds.covariance, covariance * scale[:, None] * scale, rtol=1e-3, atol=1e-12
    )
    np.testing.assert_array_equal(ds.covariance, ds.covariance.transpose("cell", "species_2", "species"))  # fmt: skip
    np.testing.assert_allclose(ds.lat_bounds, cells[:, :2])
    assert ds.lon.min() >= -180
    assert ds.lon.max() < 180
    # The label beside it says the same.
    path.with_suffix(".lbl").write_text("PDS_VERSION_ID = PDS3\r\nEND\r\n")
    assert maps.open_lunar_prospector(path.with_suffix(".lbl")).sizes == ds.sizes


def test_cells_of_a_table_become_elements(tmp_path):
    path = tmp_path / "a.tab"
    write_table(path)
    ds = maps.open_lunar_prospector(path)
    iron = xrf.oxides_to_elements(ds).abundance.sel(element="Fe")
    np.testing.assert_allclose(iron, ds.FeO * element_fraction("FeO"))


def test_corners_go_around_and_caps_enclose_the_pole(tmp_path):
    from lunarray.geo import footprint_area, footprint_polygons

    path = tmp_path / "a.tab"
    cells, _, _ = write_table(path, 10.0)
    ds = maps.open_lunar_prospector(path)
    area = footprint_area(ds.corner_lon, ds.corner_lat)
    exact = np.deg2rad(cells[:, 3] - cells[:, 2]) * np.diff(np.sin(np.deg2rad(cells[:, :2])))[:, 0]
    exact *= 1737.4**2
    low = np.abs(cells[:, :2]).max(axis=1) < 60
    np.testing.assert_allclose(area[low], exact[low], rtol=0.01)
    poles = footprint_polygons(ds.corner_lon[[0, -1]], ds.corner_lat[[0, -1]])
    assert [p.bounds[k] for p, k in zip(poles, (1, 3), strict=True)] == [-90, 90]


def test_every_pixel_has_the_cell_that_holds_its_centre(tmp_path):
    path = tmp_path / "a.tab"
    cells, values, _ = write_table(path, 10.0)
    ds = maps.open_lunar_prospector(path)
    found = maps.rasterize_cells(ds, resolution=2.0)
    assert found.FeO.dims == ("lat", "lon")
    assert not found.FeO.isnull().any()
    generator = np.random.default_rng(1)
    for _ in range(200):
        i, j = generator.integers(90), generator.integers(180)
        lat, lon = float(found.lat[i]), float(found.lon[j])
        inside = (cells[:, 0] <= lat) & (lat < cells[:, 1])
        inside &= (cells[:, 2] <= lon) & (lon < cells[:, 3])
        (own,) = np.flatnonzero(inside)
        np.testing.assert_allclose(found.FeO[i, j], 100 * values[own, 5], rtol=1e-4)
    # Means over the Moon are those of the cells by their areas.
    weight = np.cos(np.deg2rad(found.lat))
    area = np.deg2rad(cells[:, 3] - cells[:, 2]) * np.diff(np.sin(np.deg2rad(cells[:, :2])))[:, 0]
    mean = float((found.FeO * weight).sum() / (weight.sum() * 180))
    assert abs(mean - np.average(ds.FeO, weights=area)) < 0.01 * mean


def test_a_map_at_the_pole_and_only_what_is_asked_for(tmp_path):
    path = tmp_path / "a.tab"
    write_table(path)
    ds = maps.open_lunar_prospector(path)
    found = maps.rasterize_cells(ds, "south", resolution=50_000, variables=["Th", "covariance"])
    assert set(found.data_vars) == {"Th", "covariance"}
    assert found.covariance.dims == ("species", "species_2", "y", "x")
    assert float(found.Th[found.sizes["y"] // 2, found.sizes["x"] // 2]) == float(ds.Th[0])


@pytest.mark.parametrize("turn", [-360.0, 0.0, 360.0])
def test_places_are_found_on_edges_at_the_seam_and_at_the_poles(turn):
    lat = np.array([[-90.0, 0.0], [0.0, 90.0], [0.0, 90.0]])
    lon = np.array([[-180.0, 180.0], [170.0, 350.0], [-10.0, 170.0]]) + turn
    places = [0, 175, -175, 169.9, 170, -10, 0, 0, np.nan], [-90, 1, 1, 1, 1, 1, 0, 90, 0]
    got = find_cells(*places, lon, lat)
    np.testing.assert_array_equal(got, [0, 1, 1, 2, 1, 2, 2, 2, -1])
    alone = find_cells([-175, 0, -11], [5, 5, 5], lon[1:2], lat[1:2])
    np.testing.assert_array_equal(alone, [0, -1, 0])


def test_places_of_a_track_and_plain_numbers(tmp_path):
    path = tmp_path / "a.tab"
    write_table(path)
    ds = maps.open_lunar_prospector(path)
    lon = xr.DataArray([0.0, 359.0], dims="observation")
    lat = xr.DataArray([10.0, 10.0], dims="observation")
    track = maps.cells_at(ds, lon, lat)
    assert track.FeO.dims == ("observation",)
    assert maps.cells_at(ds, 359.0, 10.0).FeO.dims == ()
    assert float(maps.cells_at(ds, -1.0, 10.0).FeO) == float(track.FeO[1])
    with pytest.raises(InputError, match="same places"):
        maps.cells_at(ds, [1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.rstrip()[:-40], "number"),
        (lambda text: "\n".join(text.splitlines()[:9]), "9 cells cover"),
        (lambda text: text.replace("e-0", " x"), "no table of numbers"),
        (lambda text: "", "0 columns"),
        (lambda text: text.replace("  -90.0", "  990.0"), "row 1 is no cell"),
        (lambda text: "1 2 3\n4 5 6\n", "3 columns"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path, change, told):
    path = tmp_path / "a.tab"
    write_table(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ProductFormatError, match=told):
        maps.open_lunar_prospector(path)


def test_what_is_not_there_and_what_are_no_cells(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        maps.open_lunar_prospector(tmp_path / "none.tab")
    with pytest.raises(InputError, match="lat_bounds"):
        maps.rasterize_cells(xr.Dataset({"FeO": ("cell", [1.0])}))
    path = tmp_path / "a.tab"
    write_table(path)
    with pytest.raises(InputError, match="'Fe2O3'"):
        maps.open_lunar_prospector(path).lunar.rasterize_cells(variables="Fe2O3")


@pytest.mark.realdata
def test_real_table_at_the_two_orbits_of_the_spectral_profiler(real_data):
    ds = maps.open_lunar_prospector(real_data / "maps" / FIVE)
    assert ds.sizes["cell"] == 1790
    there = maps.cells_at(ds, [358.6, 5.3], [-13.9, 18.7])
    known = {
        "MgO": (9.1, 10.2), "Al2O3": (26.9, 20.1), "SiO2": (39.3, 38.4),
        "CaO": (16.2, 13.4), "TiO2": (0.8, 3.5), "FeO": (10.1, 13.9),
    }  # fmt: skip
    for name, values in known.items():
        np.testing.assert_allclose(there[name], values, atol=0.05)
    # As the data set says: a tenth of a per cent to two, more where the spectra are fewer.
    assert 0.3 < float(ds.FeO_std.median()) < 0.8
    # Thorium is highest in the Procellarum terrane: south of Imbrium.
    most = ds.isel(cell=int(ds.Th.values.argmax()))
    assert -30 < float(most.lon) < 10
    assert float(most.Th) > 8


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "oxide", "least"), [("LPFe_Map", "FeO", 0.94), ("LPTi_Map", "TiO2", 0.85)]
)
def test_real_table_agrees_with_the_half_degree_maps(real_data, name, oxide, least):
    """Which are of elements, and finer: no turn or flip, and the same mean to a tenth."""
    ds = maps.open_lunar_prospector(real_data / "maps" / FIVE)
    ours = maps.rasterize_cells(ds, resolution=0.5)[oxide].values * element_fraction(oxide)
    theirs = np.loadtxt(real_data / "maps" / f"{name}.csv.gz", delimiter=",")
    weight = np.repeat(np.cos(np.deg2rad(89.75 - 0.5 * np.arange(360)))[:, None], 720, 1)

    def agreement(a, b):
        a, b = (v - np.average(v, weights=weight) for v in (a, b))
        return np.average(a * b, weights=weight) / np.sqrt(
            np.average(a**2, weights=weight) * np.average(b**2, weights=weight)
        )

    straight = agreement(ours, theirs)
    assert straight > least
    for turned in (theirs[::-1], theirs[:, ::-1], np.roll(theirs, 360, 1)):
        assert agreement(ours, turned) < straight - 0.2
    shifts = {k: agreement(ours, np.roll(theirs, k, 1)) for k in range(-6, 7)}
    assert abs(max(shifts, key=shifts.get)) <= 1
    ratio = np.average(ours, weights=weight) / np.average(theirs, weights=weight)
    assert 0.85 < ratio < 1.15
