"""Element maps and footprints as pictures and as files for QGIS."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET

import geopandas
import numpy as np
import pytest
import rasterio
import xarray as xr

import lunarray as la
from lunarray import plot
from lunarray import superres as sr
from lunarray.errors import BodyMismatchError, InputError
from lunarray.plot.elements import spread, spread_sum
from lunarray.plot.footprints import class_breaks
from lunarray.superres.maps import footprint_frame

GRID = sr.GIBGrid((2, 2), (30, 40), (-20, -10, 60, 50))


@pytest.fixture(scope="module")
def tracks():
    rng = np.random.default_rng(3)
    lat, lon = rng.uniform(-8, 40, 30), rng.uniform(-18, 55, 30)
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), np.stack([lat, lat + 6, lat + 6, lat], 1)),
            "corner_lon": (("footprint", "corner"), np.stack([lon, lon, lon + 2, lon + 2], 1)),
            "abundance": (("footprint", "element"), rng.uniform(2, 15, (30, 2))),
            "abundance_std": (("footprint", "element"), rng.uniform(1, 2, (30, 2))),
        },
        {"element": ["Mg", "Fe"]},
    )


@pytest.fixture(scope="module")
def base():
    lat, lon = np.arange(89.0, -90, -2), np.arange(-179.0, 180, 2)
    values = 0.2 + 0.1 * np.cos(np.deg2rad(lon)) * np.cos(np.deg2rad(lat))[:, None]
    return xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"), "albedo")


@pytest.fixture(scope="module")
def store(tmp_path_factory, tracks):
    path = tmp_path_factory.mktemp("gib") / "gib.zarr"
    sr.create_gib(path, GRID, ("Fe", "Ti", "Mg"), features=1)
    sr.classify_mare(path, polygons=la.geo.Box(-20, -10, 20, 50))
    sr.populate(path, tracks)
    return path


class TestPictures:
    def test_heat_map_colours_are_the_values(self, base, tmp_path):
        grid = sr.GIBGrid((1, 1), (10, 20), (0, 0, 20, 10)).geobox
        values = np.full((10, 20), np.nan)
        values[2:5, 3:9] = 7.0
        array = xr.DataArray(
            values, coords=la.geo.grid_coords(grid), dims=("lat", "lon"), name="Mg"
        )
        figure = plot.heat_map(array, base=base, vmin=0, vmax=10, path=tmp_path / "heat.png")
        under, over = figure.axes[0].get_images()[1], figure.axes[0].get_images()[0]
        assert under.get_cmap().name == "gray"
        alpha = np.asarray(over.get_alpha())
        assert (alpha[np.isnan(values)] == 0).all()
        assert (alpha[~np.isnan(values)] == 1).all()
        # On the picture too, at the middle of the values, there is the colour of the bar.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.cm import ScalarMappable

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes = figure.axes[0]
        x, y = axes.transData.transform((6.5, 6.5))
        pixel = np.asarray(canvas.buffer_rgba())[::-1][int(y), int(x), :3] / 255
        wanted = ScalarMappable(over.norm, over.get_cmap()).to_rgba(7.0)[:3]
        np.testing.assert_allclose(pixel, wanted, atol=0.01)
        assert over.get_clim() == (0, 10)
        assert (tmp_path / "heat.png").stat().st_size > 5000

    def test_heat_map_of_a_store(self, store, base):
        figure = plot.heat_map(sr.open_gib(store), "Fe", base=base, radius=60, title="iron")
        assert figure.axes[0].get_title() == "iron"
        assert "Fe (wt%)" in figure.axes[1].get_ylabel()

    def test_predicted_maps_show_error_distance_and_footprints(self, base, tracks):
        grid = sr.GIBGrid((1, 1), (40, 80), (-40, -10, 40, 30))
        rng = np.random.default_rng(3)
        dims = ("element", "lat", "lon")
        maps = xr.Dataset(
            {
                "abundance": (dims, 9 + 0.01 * rng.normal(size=(1, 40, 80))),
                "abundance_std": (dims, np.full((1, 40, 80), 2.0)),
                "distance": (dims[1:], rng.uniform(0, 100, (40, 80)), {"units": "km"}),
            },
            {"element": ["Fe"], **la.geo.grid_coords(grid.geobox)},
        )
        figure = plot.heat_map(maps, base=base, footprints=tracks)
        labels = [a.get_ylabel() for a in figure.axes]
        assert any("error of the abundance" in text for text in labels)
        assert any("distance to a populated pixel (km)" in text for text in labels)
        # Nothing is stretched beyond what is known: differences of 0.01 with errors of 2 are one colour.
        low, high = figure.axes[0].get_images()[0].get_clim()
        assert high - low == pytest.approx(4.0)
        outlines = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
        assert len(outlines[0].get_segments()) >= tracks.sizes["footprint"]

    def test_spread_is_the_mean_of_what_is_near(self):
        # Against sums over all pairs with distances on the sphere, away from the poles.
        grid = sr.GIBGrid((1, 1), (60, 120), (-60, -30, 60, 30))
        rng = np.random.default_rng(1)
        values = np.full(grid.size, np.nan, "f4")
        at = rng.integers(5, 55, 40), rng.integers(5, 115, 40)
        values[at] = rng.uniform(2, 12, 40)
        array = xr.DataArray(values, {"lat": grid.lat(), "lon": grid.lon()}, ("lat", "lon"))
        got, weight = spread(array, 90.0, 10**6)
        lat, lon = np.meshgrid(grid.lat(), grid.lon(), indexing="ij")
        d = la.geo.great_circle_distance(lon[..., None], lat[..., None], lon[at], lat[at]) / 1e3
        w = np.exp(-0.5 * (d / 90.0) ** 2)
        inside = (d.min(axis=2) < 90) & (np.abs(lat) < 25) & (np.abs(lon) < 55)
        expected = (w * values[at]).sum(axis=2) / w.sum(axis=2)
        assert np.abs(got.values - expected)[inside].max() < 0.35
        assert (weight[at] > 0.95).all()
        assert weight[d.min(axis=2) > 400].max(initial=0) < 0.01

    def test_spread_goes_around_and_over_the_pole(self):
        lat, lon = 90 - (np.arange(90) + 0.5) * 2, -180 + (np.arange(180) + 0.5) * 2
        values = np.zeros((90, 180))
        values[45, 0] = 1.0
        out = spread_sum(values, lat, lon, 150.0)
        np.testing.assert_allclose(out[45, 179], out[45, 1], rtol=1e-9)
        assert out[45, 179] > 0.3 * out[45, 0]
        values[:] = 0
        values[0, 0] = 1.0
        out = spread_sum(values, lat, lon, 150.0)
        # 180° away in longitude, 2° on the ground.
        assert out[0, 90] > 0.5 * out[0, 0]
        # A constant stays one, except where the outside has been cut off.
        np.testing.assert_allclose(spread_sum(np.ones((90, 180)), lat, lon, 100.0), 1.0, atol=1e-3)

    def test_graduated_map(self, tracks, base, tmp_path):
        figure = plot.graduated_map(
            tracks, "Mg", base=base, breaks=(0, 5, 10, 20), path=tmp_path / "graduated.png"
        )
        labels = [t.get_text() for t in figure.legends[0].get_texts()]
        mg = tracks.abundance.values[:, 0]
        counts = [((mg >= a) & (mg < b)).sum() for a, b in ((0, 5), (5, 10), (10, 20))]
        assert [int(t.split("(")[1][:-1]) for t in labels] == counts
        (drawn,) = figure.axes[0].collections
        assert len(drawn.get_paths()) == 30
        colours = drawn.to_rgba(np.array([1.0, 4.9, 5.1]))
        assert (colours[0] == colours[1]).all()
        assert (colours[1] != colours[2]).any()
        west, east = figure.axes[0].get_xlim()
        assert west > -25
        assert east < 65
        assert plot.graduated_map(tracks, zoom=False).axes[0].get_xlim() == (-180, 180)

    def test_classes_hold_alike(self):
        edges = class_breaks(np.append(np.arange(100.0), np.nan), 4)
        assert np.histogram(np.arange(100.0), edges)[0].tolist() == [25, 25, 25, 25]
        assert class_breaks(np.ones(5), 4).tolist() == [0.5, 1.5]
        with pytest.raises(InputError, match="classes of 0 values"):
            class_breaks(np.full(3, np.nan), 4)

    def test_surface(self, base, tmp_path):
        figure = plot.surface_3d(base.assign_attrs(units="1"), path=tmp_path / "s.png", points=50)
        axes = figure.axes[0]
        assert axes.name == "3d"
        low, high = axes.get_zlim()
        assert base.min() <= low < high <= base.max()
        assert len(axes.collections[0].get_facecolor()) > 500

    def test_nonsense(self, store, tracks, base):
        ds = sr.open_gib(store)
        for match, call in (
            ("no map of Ca", lambda: plot.heat_map(ds, "Ca")),
            ("radius", lambda: plot.heat_map(ds, "Fe", radius=-1)),
            ("no variable", lambda: plot.heat_map(ds[["count"]], "Fe")),
            ("dimensions", lambda: plot.surface_3d(xr.DataArray(np.zeros(3), dims="z"))),
            ("nothing is known", lambda: plot.surface_3d(ds, "Ti")),
            ("no abundance of Ca", lambda: plot.graduated_map(tracks, "Ca")),
            ("borders", lambda: plot.graduated_map(tracks, breaks=(3, 2))),
        ):
            with pytest.raises(InputError, match=match):
                call()


class TestFiles:
    def test_geotiffs(self, store, tmp_path):
        ds = sr.open_gib(store)
        files = sr.write_element_maps(ds, tmp_path)
        names = sorted(f.name for f in files)
        # Of titanium nothing is known.
        assert names == sorted(
            f"{stem}.{kind}"
            for stem in ("Fe", "Fe_std", "Mg", "Mg_std", "count")
            for kind in ("tif", "qml")
        )
        with rasterio.open(tmp_path / "Fe.tif") as raster:
            values = raster.read(1)
            assert raster.bounds == (-20, -10, 60, 50)
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_array_equal(values, ds.abundance.sel(element="Fe").values)
        ramp = ET.parse(tmp_path / "Fe.qml").find(".//colorrampshader")
        known = values[np.isfinite(values)]
        low, high = float(ramp.get("minimumValue")), float(ramp.get("maximumValue"))
        np.testing.assert_allclose([low, high], np.percentile(known, [1, 99]), rtol=1e-6)
        only = sr.write_element_maps(ds["abundance"], tmp_path / "b", elements=["Mg"], std=False)
        assert [f.name for f in only] == ["Mg.tif", "Mg.qml"]

    def test_footprints(self, tracks, tmp_path):
        files = sr.write_element_vectors(tracks, tmp_path / "tracks.gpkg", element="Fe")
        assert {f.name for f in files} == {"tracks.gpkg", "tracks.qml"}
        frame = geopandas.read_file(tmp_path / "tracks.gpkg", layer="tracks")
        np.testing.assert_allclose(frame["Fe"], tracks.abundance.values[:, 1])
        assert la.geo.MOON.holds(frame.crs)
        assert frame.geometry[0].bounds == pytest.approx(
            (
                float(tracks.corner_lon[0].min()),
                float(tracks.corner_lat[0].min()),
                float(tracks.corner_lon[0].max()),
                float(tracks.corner_lat[0].max()),
            )
        )
        with sqlite3.connect(tmp_path / "tracks.gpkg") as base:
            ((style,),) = base.execute("SELECT styleQML FROM layer_styles").fetchall()
        assert 'attr="Fe"' in style
        sr.write_element_vectors(tracks, tmp_path / "tracks.shp")
        shapes = geopandas.read_file(tmp_path / "tracks.shp")
        assert {"Mg", "Mg_std", "Fe", "Fe_std"} <= set(shapes.columns)
        assert (tmp_path / "tracks.qml").exists()

    def test_across_the_seam(self, tracks):
        one = tracks.isel(footprint=[0]).assign(
            corner_lat=(("footprint", "corner"), [[0.0, 6.0, 6.0, 0.0]]),
            corner_lon=(("footprint", "corner"), [[179.0, 179.0, -179.0, -179.0]]),
        )
        frame = footprint_frame(one)
        assert frame.geometry[0].geom_type == "MultiPolygon"
        assert frame.geometry[0].area == pytest.approx(12.0, rel=1e-2)

    def test_pixels(self, store, tmp_path):
        ds = sr.open_gib(store)
        sr.write_element_vectors(ds, tmp_path / "pixels.gpkg", element="Mg")
        frame = geopandas.read_file(tmp_path / "pixels.gpkg", layer="pixels")
        known = ds.abundance.sel(element="Mg").values
        assert len(frame) == np.isfinite(known).sum()
        row, column = GRID.pixel_of(frame["lat"], frame["lon"])
        np.testing.assert_allclose(frame["Mg"], known[row, column])
        np.testing.assert_allclose(frame["count"], ds["count"].values[row, column])
        assert "Ti" not in frame.columns

    def test_nonsense(self, store, tracks, tmp_path):
        ds = sr.open_gib(store)
        for match, call in (
            ("no map of K", lambda: sr.write_element_maps(ds, tmp_path / "x", elements=["K"])),
            ("known of Ti", lambda: sr.write_element_maps(ds, tmp_path / "x", elements=["Ti"])),
            ("no abundance", lambda: sr.write_element_maps(ds[["mare"]], tmp_path / "x")),
            (
                "known of Ca",
                lambda: sr.write_element_vectors(tracks, tmp_path / "x.shp", element="Ca"),
            ),
            ("dimensions", lambda: sr.write_element_vectors(ds[["mare"]], tmp_path / "x.shp")),
            ("not written as", lambda: sr.write_element_vectors(tracks, tmp_path / "x.kml")),
        ):
            with pytest.raises(InputError, match=match):
                call()
        assert not list(tmp_path.glob("x*"))
        earth = footprint_frame(tracks).set_crs("EPSG:4326", allow_override=True)
        with pytest.raises(BodyMismatchError):
            la.export.to_vector(earth, tmp_path / "x.gpkg")
