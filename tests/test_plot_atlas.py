"""Figures of the atlas: what is on the axes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from lunarray import geo, plot
from lunarray.errors import GridError, InputError
from lunarray.geo import Box, Circle, region_statistics
from lunarray.oxides import OXIDES


@pytest.fixture
def scene(rng):
    def make(pole="south", resolution=20_000.0, latitude=75.0):
        box = geo.polar_grid(pole, resolution, latitude)
        data = {
            name: (
                ("y", "x"),
                rng.normal(10, 2, tuple(box.shape)).astype(np.float32),
                {"units": "wt%"},
            )
            for name in (*OXIDES, "Mg_number")
        }
        return geo.assign_crs(xr.Dataset(data, coords=geo.grid_coords(box)), box)

    return make


def images(figure):
    found = list(figure.axes)
    return [image for axes in found for image in axes.get_images()]


def test_correlation_curves_are_the_correlations(tmp_path):
    nm = np.linspace(500, 1600, 150)
    values = xr.DataArray(
        np.linspace(-1, 1, 6)[:, None] * np.linspace(0.5, 1, 150), dims=("oxide", "wavelength"),
        coords={"oxide": list(OXIDES), "wavelength": nm},
    )  # fmt: skip
    figure = plot.correlation_curves(values.T, path=tmp_path / "c.png")
    axes = figure.axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) == 150]
    np.testing.assert_allclose([line.get_ydata() for line in curves], values.values)
    np.testing.assert_array_equal(curves[0].get_xdata(), nm)
    # Names at the ends are apart from each other though two curves may end together.
    names = [t for t in axes.texts if t.get_text()]
    heights = sorted(t.xyann[1] for t in names)
    assert len(names) == 6
    assert min(np.diff(heights)) > 0.09
    assert (tmp_path / "c.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="band_correlation"):
        plot.correlation_curves(values.isel(oxide=0))


@pytest.mark.parametrize("count", [400, 40_000])
def test_scatter_shows_points_line_and_numbers(rng, count):
    truth = xr.Dataset({o: ("sample", rng.normal(10, 2, count), {"units": "wt%"}) for o in OXIDES})
    guess = truth + 0.5
    guess["FeO"] = guess.FeO.where(np.arange(count) > 9)
    figure = plot.prediction_scatter(truth, guess)
    panels = [a for a in figure.axes if a.get_label() != "<colorbar>"]
    assert len(panels) == 6
    text = panels[0].texts[0].get_text()
    assert f"N = {count - 10:,}" in text
    assert "R² = 1.000" in text  # a constant offset: the squared correlation does not see it
    assert "RMSE = 0.500" in text
    assert "MAE = 0.500" in text
    assert panels[0].get_xlim() == panels[0].get_ylim()
    diagonal = panels[0].lines[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    if count < 20_000:
        offsets = panels[1].collections[0].get_offsets()
        assert len(offsets) == count
        np.testing.assert_allclose(np.sort(offsets[:, 1] - offsets[:, 0]), 0.5)
    else:
        assert panels[1].get_images()


def test_scatter_errors(rng):
    a = xr.Dataset({"FeO": ("sample", rng.normal(size=5))})
    with pytest.raises(InputError, match="no variable"):
        plot.prediction_scatter(a, a.rename(FeO="MgO"))
    with pytest.raises(InputError, match="same samples"):
        plot.prediction_scatter(a, a.isel(sample=slice(3)))


def test_pairs_of_poles_share_a_scale(scene):
    north, south = scene("north"), scene("south")
    south["FeO"] = south.FeO + 20
    figure = plot.polar_atlas({"south": south, "north": north}, variables=["FeO", "MgO"])
    found = images(figure)
    assert len(found) == 4
    assert found[0].get_clim() == found[1].get_clim()
    assert found[0].get_clim() != found[2].get_clim()
    titles = [a.get_title() for a in figure.axes]
    assert titles.count("North pole") == titles.count("South pole") == 2
    np.testing.assert_allclose(np.ma.filled(found[0].get_array()), north.FeO.values)
    assert len(images(plot.polar_atlas({"south": south}))) == 7
    with pytest.raises(InputError, match="K2O"):
        plot.polar_atlas({"south": south}, variables=["K2O"])
    with pytest.raises(InputError, match="nothing to draw"):
        plot.polar_atlas({})


def test_differences_are_symmetric_about_zero(scene):
    off = scene("north").FeO - 12
    figure = plot.difference_map(geo.assign_crs(off.rename("FeO"), "north"))
    low, high = images(figure)[0].get_clim()
    assert low == -high
    assert high == pytest.approx(np.percentile(np.abs(off), 98), rel=1e-5)
    assert images(plot.difference_map(scene("south"), limit=3.0))[0].get_clim() == (-3, 3)
    with pytest.raises(InputError, match="K2O"):
        plot.difference_map(scene("south"), variable="K2O")


def test_triptychs(rng):
    sets = []
    for name, box in (("A", Box(-10, 50, 10, 65)), ("B", Box(-130, -65, -110, -50))):
        grid = geo.region_grid(box, 1.0)
        shape = (3, *grid.shape)
        values = rng.normal(10, 2, shape).astype(np.float32)
        values[2] = values[1] - values[0]
        ds = xr.Dataset(
            {"FeO": (("panel", "lat", "lon"), values, {"units": "wt%"})},
            coords={**geo.grid_coords(grid), "panel": ["reference", "result", "difference"]},
            attrs={"region": name},
        )
        sets.append(geo.assign_crs(ds, grid))
    figure = plot.region_triptychs(sets)
    found = images(figure)
    assert len(found) == 6
    assert found[0].get_clim() == found[1].get_clim()
    assert found[2].get_clim() == found[5].get_clim()
    assert found[2].get_clim()[0] == -found[2].get_clim()[1]
    bias = float(sets[0].FeO.isel(panel=2).mean())
    texts = [t.get_text() for a in figure.axes for t in a.texts]
    assert any(f"bias {bias:+.2f}".replace("-", "−") in t for t in texts)
    with pytest.raises(InputError, match="MgO"):
        plot.region_triptychs(sets, variable="MgO")


def test_region_bars_stand_where_the_numbers_are(scene):
    regions = [Circle(lon, -85, 60e3, f"r{lon}") for lon in (0, 90, 180)]
    stats = region_statistics(scene(), regions)
    figure = plot.region_bars(stats, truth=stats + 0.5)
    axes = figure.axes[0]
    mean, std = (stats.FeO.sel(statistic=s).values for s in ("mean", "std"))
    np.testing.assert_allclose([p.get_y() for p in axes.patches], mean - std)
    np.testing.assert_allclose([p.get_height() for p in axes.patches], 2 * std)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), mean)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), mean + 0.5)
    with pytest.raises(InputError, match="statistics"):
        plot.region_bars(scene())


def test_region_map_draws_outlines_where_they_are(scene):
    region = Circle(45.0, -85.0, 60e3, "Somewhere", "S")
    figure = plot.region_map(scene().FeO, [region])
    axes = figure.axes[0]
    lines = [line for line in axes.lines if line.get_color() == "#c1121f"]
    x, y = lines[0].get_data()
    grid = geo.geobox_of(scene())
    row, column = geo.project(grid, 45.0, -85.0)
    centre = (
        np.array([column[0], -row[0]]) * 20 + np.array([grid.transform.c, grid.transform.f]) / 1000
    )
    np.testing.assert_allclose([x.mean(), y.mean()], centre, atol=3)
    assert np.hypot(x - centre[0], y - centre[1]) == pytest.approx(60, rel=0.02)
    assert "S" in [t.get_text() for t in axes.texts]
    with pytest.raises(GridError, match="none of the regions"):
        plot.region_map(scene(latitude=85).FeO, [Circle(45.0, -60.0, 60e3)])


def test_names_of_regions_hide_neither_each_other_nor_a_latitude(scene):
    from lunarray.oxides import artemis3_regions

    figure = plot.region_map(scene(latitude=83, resolution=5000.0).FeO, artemis3_regions())
    figure.draw_without_rendering()
    texts = [t for t in figure.axes[0].texts if "E" not in t.get_text() and "W" not in t.get_text()]
    boxes = [t.get_window_extent() for t in texts if t.get_text()]
    assert len(boxes) > 9
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize("title", [None, "Oxides"])
@pytest.mark.parametrize("rows", [1, 4])
def test_titles_of_the_atlas_lie_on_the_picture(scene, title, rows):
    names = list(scene().data_vars)[: 2 * rows]
    figure = plot.polar_atlas({"south": scene()}, variables=names, title=title)
    figure.draw_without_rendering()
    tops = [
        axes.title.get_window_extent().y1
        for part in figure.subfigs
        for axes in part.axes
        if axes.get_title()
    ]
    above = figure.bbox.y1 if title is None else figure._suptitle.get_window_extent().y0
    assert tops
    assert max(tops) < above
