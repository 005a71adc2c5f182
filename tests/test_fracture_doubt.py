"""Tiles to label, and what was drawn in them."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.fractures.doubt import doubtful, drawn_labels, write_doubtful
from lunarray.geo import assign_grid, moon_crs


@pytest.fixture
def image():
    box = GeoBox.from_bbox((0, 0, 200, 160), moon_crs("equirectangular"), resolution=2)
    values = np.full((80, 100), 0.01, np.float32)
    values[40:60, 60:80] = 0.5  # the most doubtful tile of 20
    values[:20, :20] = 0.2
    values[60:, 80:] = np.nan
    return assign_grid(xr.DataArray(values, dims=("y", "x")), box)


@pytest.mark.parametrize("chunks", [None, 33, 20])
def test_ranking_by_entropy(image, chunks):
    given = image if chunks is None else image.chunk(chunks)
    tiles = doubtful(given, tile=20, count=100)
    assert tiles[["row", "column"]].to_numpy()[:2].tolist() == [[40, 60], [0, 0]]
    assert tiles["doubt"][0] == pytest.approx(1)
    assert tiles["doubt"][1] == pytest.approx(-0.2 * np.log2(0.2) - 0.8 * np.log2(0.8), rel=1e-5)
    assert tiles["found"][0] == 1
    assert len(tiles) == 19  # that without data is none
    assert (tiles["doubt"].diff()[1:] <= 0).all()
    assert tiles.geometry[0].bounds == (120, 40, 160, 80)
    assert len(doubtful(given, tile=20, count=3)) == 3
    with pytest.raises(InputError, match="no pixel has data"):
        doubtful(image.where(image > 2))
    for other in (
        image * 100,
        (image * 100).astype(np.uint8),
        image.values,
        image.to_dataset(name="p"),
    ):
        with pytest.raises(InputError, match="probability"):
            doubtful(other, tile=20)
    with pytest.raises(InputError, match="on t, y, x"):
        doubtful(image.expand_dims(t=2), tile=20)


def test_what_is_drawn_is_read_in_touched_tiles_only(image, tmp_path):
    path = write_doubtful(doubtful(image, tile=20, count=5), tmp_path / "round1.gpkg")
    with pytest.raises(InputError, match="no tile is touched"):
        drawn_labels(path, image)
    tiles = gpd.read_file(path, layer="tiles")
    lines = gpd.GeoDataFrame(
        {"width": ["small"]}, geometry=[shapely.LineString([(130, 60), (150, 60)])], crs=tiles.crs
    )
    lines.to_file(path, layer="lines", driver="GPKG")
    labels = drawn_labels(path, image)
    assert labels.attrs["tiles"] == 1
    assert (labels[40:60, 60:80] != 255).all()
    assert 0 < int((labels == 1).sum()) < 150
    assert int((labels != 255).sum()) == 400
    tiles["done"] = (tiles["rank"] == 2).astype(int)
    tiles.to_file(path, layer="tiles", driver="GPKG")
    more = drawn_labels(path, image.chunk(30))
    assert more.chunks is not None
    assert (more[:20, :20] == 0).all()
    assert int((more != 255).sum()) == 800
    with pytest.raises(InputError, match=r"not written as \.shp"):
        write_doubtful(tiles, tmp_path / "a.shp")


def test_files_and_images_that_do_not_belong_together(image, tmp_path):
    """Other grids would put labels elsewhere, without a word."""
    path = write_doubtful(doubtful(image, tile=20, count=5), tmp_path / "d.gpkg")
    tiles = gpd.read_file(path, layer="tiles")
    line = shapely.LineString([(130, 60), (150, 60)])
    lines = gpd.GeoDataFrame({"width": ["small"]}, geometry=[line], crs=tiles.crs)
    lines.to_file(path, layer="lines", driver="GPKG")
    wanted = drawn_labels(path, image)
    for other in (image[:30, :30], image[:, 4:], image.coarsen(y=2, x=2).mean()):
        with pytest.raises(GridError, match="elsewhere"):
            drawn_labels(path, other)
    with pytest.raises(InputError, match="a ndarray"):
        drawn_labels(path, image.values)
    # Without a CRS the lines are in that of the tiles; without widths they are tiny.
    for changed in (lines.set_crs(None, allow_override=True), lines.drop(columns="width")):
        changed.to_file(path, layer="lines", driver="GPKG")
        assert (drawn_labels(path, image) != 255).equals(wanted != 255)
    lines.set_crs("EPSG:4326", allow_override=True).to_file(path, layer="lines", driver="GPKG")
    with pytest.raises(BodyMismatchError):
        drawn_labels(path, image)
    with pytest.raises(InputError, match="cannot be read"):
        drawn_labels(tmp_path / "none.gpkg", image)
    lines.to_file(tmp_path / "o.gpkg", layer="others", driver="GPKG")
    with pytest.raises(InputError, match="layers others, not tiles and lines"):
        drawn_labels(tmp_path / "o.gpkg", image)
