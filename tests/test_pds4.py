"""Products of PDS4: the numbers as pds4_tools and GDAL read them, and labels that say where, when and what."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr

import lunarray as la
from lunarray.errors import GridError, InputError, WrongKindError
from lunarray.export import to_pds4
from lunarray.export.pds4 import MISSING
from lunarray.geo import assign_grid, lunar_grid, polar_grid

GRIDS = {
    "north": polar_grid("north", 20_000, 85),
    "south": polar_grid("south", 20_000, 85),
    "geographic": lunar_grid("geographic", 30.0),
    "equirectangular": lunar_grid("equirectangular", 500_000),
}


def maps(grid, lazy=False):
    rng = np.random.default_rng(0)
    dims = ("lat", "lon") if grid.crs.geographic else ("y", "x")
    iron = rng.random(grid.shape).astype(np.float32)
    iron[1, 2] = np.nan
    flags = rng.integers(0, 5, grid.shape).astype(np.uint8)
    if lazy:
        iron, flags = (da.from_array(a, chunks=5) for a in (iron, flags))
    ds = xr.Dataset(
        {
            "FeO": (dims, iron, {"units": "wt%", "long_name": "iron(II) oxide"}),
            "quality": (dims, flags, {"nodata": 255}),
            "spectrum": (("band", *dims), np.zeros((2, *grid.shape), np.float32)),
        }
    )
    return assign_grid(ds, grid)


def read(path):
    pds4_tools = pytest.importorskip("pds4_tools")
    (array,) = pds4_tools.read(str(path), quiet=True)
    return np.asarray(array.data)


def elements(path, name):
    return [e for e in ET.parse(path).iter() if e.tag.rpartition("}")[2] == name]


def text(path, name):
    return [e.text for e in elements(path, name)]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_numbers_are_read_as_they_were_written(tmp_path, name, lazy):
    ds = maps(GRIDS[name], lazy)
    labels = to_pds4(ds, tmp_path, time=("2008-01-01", "2009-06-10"))
    assert sorted(path.name for path in labels) == ["FeO.xml", "quality.xml"]
    files = ["FeO.img", "FeO.xml", "quality.img", "quality.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    iron = read(tmp_path / "FeO.xml")
    wanted = np.where(np.isfinite(ds.FeO.values), ds.FeO.values, np.float32(MISSING))
    np.testing.assert_array_equal(iron, wanted)
    assert iron.dtype.kind == "f"
    np.testing.assert_array_equal(read(tmp_path / "quality.xml"), ds.quality.values)
    with rasterio.open(tmp_path / "FeO.xml") as source:
        assert la.geo.MOON.holds(source.crs)
        # GDAL calls longitudes and latitudes what they are in metres.
        scale = np.radians(1737400.0) if name == "geographic" else 1.0
        placed, wanted = (tuple(t)[:6] for t in (source.transform, GRIDS[name].transform))
        np.testing.assert_allclose(placed, np.multiply(wanted, scale), rtol=1e-9, atol=1e-6)
        assert source.nodata == pytest.approx(MISSING)
    with rasterio.open(tmp_path / "quality.xml") as source:
        assert source.nodata == 255


def test_the_label_says_where_when_and_what(tmp_path):
    given = ("Chandrayaan-2", "urn:isro:isda:context:investigation:mission.chandrayaan2")
    to_pds4(
        maps(GRIDS["north"]),
        tmp_path,
        identifier="urn:nasa:pds:mine:data",
        investigation=given,
        observing_system="CLASS",
        time="2021-08-27T10:00",
    )
    label = tmp_path / "FeO.xml"
    assert "${" not in label.read_text()
    assert text(label, "logical_identifier") == ["urn:nasa:pds:mine:data:feo"]
    assert text(label, "title") == ["iron(II) oxide"]
    assert text(label, "start_date_time") == ["2021-08-27T10:00:00.000Z"]
    assert text(label, "stop_date_time") == ["2021-08-27T10:00:00.000Z"]
    assert "urn:nasa:pds:context:target:satellite.earth.moon" in text(label, "lid_reference")
    assert given[1] in text(label, "lid_reference")
    assert text(label, "unit") == ["wt%"]
    sides = ("west", "south", "east", "north")
    bounds = [float(text(label, f"{side}_bounding_coordinate")[0]) for side in sides]
    assert bounds == pytest.approx([-180, 82.55, 180, 90], abs=0.01)
    assert text(label, "map_projection_name") == ["Polar Stereographic"]


def test_times_that_nobody_knows_do_not_apply(tmp_path):
    to_pds4(maps(GRIDS["north"])["FeO"], tmp_path / "iron.xml")
    (start,) = elements(tmp_path / "iron.xml", "start_date_time")
    assert start.text is None
    assert start.attrib["nilReason"] == "inapplicable"


def test_what_is_no_product_is_refused_and_leaves_nothing(tmp_path):
    ds = maps(GRIDS["north"])
    for bad in ("mine", "urn:nasa:pds:A:data", "urn:nasa:pds:a"):
        with pytest.raises(InputError, match="identifier"):
            to_pds4(ds, tmp_path / "x", identifier=bad)
    with pytest.raises(InputError, match="xml"):
        to_pds4(ds["FeO"], tmp_path / "iron.img")
    with pytest.raises(InputError, match="no map"):
        to_pds4(ds[["spectrum"]], tmp_path / "x")
    with pytest.raises(GridError):
        to_pds4(ds["FeO"].drop_vars("spatial_ref"), tmp_path / "iron.xml")
    with pytest.raises(WrongKindError):
        to_pds4(3, tmp_path / "x")
    with pytest.raises(InputError, match="time"):
        to_pds4(ds["FeO"], tmp_path / "iron.xml", time="soon")
    assert not list(tmp_path.iterdir())
