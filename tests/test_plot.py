"""Pictures: what is on the axes, not only that there are some."""

from __future__ import annotations

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from lunarray import geo, plot
from lunarray.errors import GridError, InputError
from lunarray.plot import drawing

OXIDES = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2")


@pytest.fixture
def scene(rng):
    def make(pole="north", resolution=10_000.0, latitude=80.0, names=OXIDES):
        box = geo.polar_grid(pole, resolution, latitude)
        data = {
            name: (
                ("y", "x"),
                rng.normal(10.0, 2.0, tuple(box.shape)).astype(np.float32),
                {"units": "wt%"},
            )
            for name in names
        }
        return geo.assign_crs(xr.Dataset(data, coords=geo.grid_coords(box)), box)

    return make


@pytest.fixture
def tracks(rng):
    def make(orbits=2, n=40, south=False):
        total = orbits * n
        lat = np.tile(np.linspace(70.0, 89.0, n), orbits)
        coords = {
            "lat": ("observation", -lat if south else lat),
            "lon": ("observation", np.repeat(np.linspace(-170, 150, orbits), n)),
            "orbit": ("observation", np.repeat(np.arange(orbits), n)),
        }
        data = {
            name: ("observation", rng.normal(10, 1, total).astype(np.float32), {"units": "wt%"})
            for name in OXIDES
        }
        data["novelty"] = (
            "observation",
            np.where(np.arange(total) % 10 == 0, 1.5, 0.5).astype(np.float32),
        )
        return xr.Dataset(data, coords=coords)

    return make


def images(figure):
    return [image for axes in figure.axes for image in axes.get_images()]


def texts(figure):
    figure.canvas.draw()
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [axes.get_title() for axes in figure.axes]


# --- both poles -----------------------------------------------------------------------------------


def test_both_poles_share_one_colour_scale(scene):
    north, south = scene("north"), scene("south")
    south["FeO"] = south["FeO"] + 20.0
    figure = plot.polar_map(north, south, variable="FeO")
    both = images(figure)[:2]
    assert both[0].get_clim() == both[1].get_clim()
    everything = np.concatenate([north.FeO.values.ravel(), south.FeO.values.ravel()])
    np.testing.assert_allclose(both[0].get_clim(), np.percentile(everything, (1, 99)), rtol=1e-6)
    assert {"North pole", "South pole"} <= set(texts(figure))
    colour_bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert [axes.get_xlabel() for axes in colour_bars] == ["FeO (wt%)"]


def test_south_map_given_first_is_drawn_as_south(scene):
    figure = plot.polar_map(scene("south").FeO)
    assert "South pole" in texts(figure)
    assert "North pole" not in texts(figure)


@pytest.mark.parametrize("pole", ["north", "south"])
def test_meridians_are_labelled_where_they_are(scene, pole):
    """The label of a meridian must lie where the projection puts that longitude."""
    figure = plot.polar_map(scene(pole).FeO)
    figure.canvas.draw()
    axes = figure.axes[0]
    box = geo.polar_grid(pole, 10_000.0, 80.0)
    seen = 0
    for text in axes.texts:
        label = text.get_text()
        if label.endswith(("E", "W")) or label in ("0°", "180°"):
            value = float(label.split("°")[0]) * (-1 if label.endswith("W") else 1)
            sign = 1.0 if pole == "north" else -1.0
            row, column = geo.project(box, value, sign * 81.0)
            x, y = column[0] - box.shape[1] / 2, box.shape[0] / 2 - row[0]
            at_x, at_y = text.xy
            assert np.cos(np.arctan2(y, x) - np.arctan2(at_y, at_x)) == pytest.approx(1.0, abs=1e-4)
            seen += 1
    assert seen == 12


def test_pixels_are_drawn_where_the_grid_has_them():
    """A single bright pixel, found again through the image's extent, for grids with either direction of y."""
    box = geo.polar_grid("north", 10_000.0, 80.0)
    row, column = geo.pixel_of(box, 60.0, 84.0)
    values = np.zeros(tuple(box.shape), np.float32)
    values[row[0], column[0]] = 1.0
    bright = geo.assign_crs(
        xr.DataArray(values, dims=("y", "x"), coords=geo.grid_coords(box), name="v"), box
    )
    for array in (bright, bright.isel(y=slice(None, None, -1)), bright.transpose("x", "y")):
        image = images(plot.polar_map(array, vmin=0, vmax=1))[0]
        left, right, bottom, top = image.get_extent()
        shown = image.get_array()
        i, j = np.argwhere(shown == 1.0)[0]
        x = left + (j + 0.5) * (right - left) / shown.shape[1]
        y = top - (i + 0.5) * (top - bottom) / shown.shape[0]
        lon, lat = (
            np.rad2deg(np.arctan2(x, -y)),
            90 - 2 * np.rad2deg(np.arctan(np.hypot(x, y) / (2 * 1737.4))),
        )
        assert geo.great_circle_distance(lon, lat, 60.0, 84.0) < 8_000.0


def test_geographic_map_is_shown_at_both_poles():
    box = geo.lunar_grid("geographic", 5.0)
    lat = geo.grid_coords(box)["lat"].values
    array = geo.assign_crs(
        xr.DataArray(
            np.repeat(lat[:, None], 72, axis=1),
            dims=("lat", "lon"),
            coords=geo.grid_coords(box),
            name="lat",
        ),
        box,
    )
    first, second = images(plot.polar_map(array))[:2]
    assert first.get_array().max() == 87.5
    assert second.get_array().min() == -87.5
    assert first.get_array().min() > 45


def test_missing_values_are_grey_and_limits_robust(scene):
    ds = scene()
    ds["FeO"][:5] = np.nan
    ds["FeO"][10, 10] = 1e6
    image = images(plot.polar_map(ds, variable="FeO"))[0]
    assert image.get_array().mask[:5].all()
    assert image.get_clim()[1] < 100
    from matplotlib.colors import to_rgba

    np.testing.assert_allclose(image.get_cmap().get_bad(), to_rgba(drawing.NAN_COLOUR))


def test_limits():
    assert drawing.limits([np.array([1.0, 2.0, np.nan])], 0.0, 3.0) == (0.0, 3.0, "neither")
    low, high, extend = drawing.limits([np.arange(1000.0)], None, None)
    assert (round(low), round(high), extend) == (10, 989, "both")
    low, high, _ = drawing.limits([np.full(5, 7.0)], None, None)
    assert low < 7 < high
    assert drawing.limits([np.full(5, np.nan)], None, None) == (0.0, 1.0, "neither")
    assert drawing.limits([], None, None) == (0.0, 1.0, "neither")


def test_large_lazy_maps_are_decimated_before_they_are_read():
    box = geo.polar_grid("north", 500.0, 65.0)
    read = []

    def block(block_info=None):
        shape = block_info[None]["chunk-shape"]
        read.append(int(np.prod(shape)))
        return np.ones(shape, np.float32)

    chunks = da.core.normalize_chunks(256, tuple(box.shape))
    data = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    array = geo.assign_crs(
        xr.DataArray(data, dims=("y", "x"), coords=geo.grid_coords(box), name="v"), box
    )
    image = images(plot.polar_map(array, max_pixels=100_000))[0]
    assert image.get_array().size <= 100_000
    assert len(read) == data.npartitions  # each block once
    left, right, _, _ = image.get_extent()
    assert right - left == pytest.approx(1541.0, rel=0.01)


def test_polar_map_errors(scene):
    ds = scene()
    with pytest.raises(InputError, match="nothing to draw"):
        plot.polar_map()
    with pytest.raises(InputError, match="both maps"):
        plot.polar_map(ds.FeO, ds.FeO)
    with pytest.raises(InputError, match="'K2O'"):
        plot.polar_map(ds, variable="K2O")
    with pytest.raises(InputError, match="two dimensions"):
        plot.polar_map(ds.to_dataarray("oxide"))
    box = geo.lunar_grid("equirectangular", 500_000.0)
    flat = xr.DataArray(
        np.zeros(tuple(box.shape)), dims=("y", "x"), coords=geo.grid_coords(box), name="v"
    )
    with pytest.raises(GridError, match="stereographic"):
        plot.polar_map(geo.assign_crs(flat, box))


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_saved_whole_and_alone(scene, tmp_path, suffix, magic):
    path = tmp_path / "new" / f"map{suffix}"
    plot.polar_map(scene().FeO, path=path, title="A title")
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_failed_saving_leaves_nothing(scene, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    target = tmp_path / "map.png"
    target.write_bytes(b"old")

    def fail(self, name, **kwargs):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.polar_map(scene().FeO, path=target)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_unknown_format(scene, tmp_path):
    with pytest.raises(InputError, match=r"\.xyz"):
        plot.polar_map(scene().FeO, path=tmp_path / "map.xyz")
    assert not list(tmp_path.iterdir())


def test_unknown_option(scene):
    with pytest.raises(TypeError, match="'titel'"):
        plot.polar_map(scene().FeO, titel="A title")


def test_base_map_lies_as_its_grid_runs():
    """A grey map under others: bright in the north on grids whose rows run up as on those whose rows run down."""
    from matplotlib.figure import Figure

    from lunarray.plot.mapping import draw_base, frame_of

    lat, lon = np.arange(89.0, -90, -2), np.arange(-179.0, 180, 2)
    base = xr.DataArray(np.repeat(lat[:, None], 180, 1), {"lat": lat, "lon": lon}, ("lat", "lon"))
    for down in (geo.lunar_grid("geographic", 5.0), geo.lunar_grid("geographic", 5.0).flipy()):
        axes = Figure().subplots()
        draw_base(axes, base, down, frame_of(down, geographic=True))
        shown = axes.get_images()[0].get_array()
        assert shown[0].mean() > 80 > -80 > shown[-1].mean()


def test_no_pyplot_and_lazy_import():
    code = "import sys, lunarray.plot; assert 'matplotlib' not in sys.modules; import numpy as np, xarray as xr\n"
    code += "da = xr.DataArray(np.ones((3, 4)), dims=('observation', 'wavelength'))\n"
    code += "da = da.assign_coords(wavelength=[1.0, 2.0, 3.0, 4.0])\n"
    code += "lunarray.plot.spectra(da); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- all oxides -----------------------------------------------------------------------------------


def test_maps_has_a_panel_for_each_oxide(scene):
    ds = scene(names=(*OXIDES, "Mg_number", "novelty"))
    figure = plot.maps(ds.chunk(y=16))
    assert len(images(figure)) >= 7
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["FeO", "TiO$_2$", "Al$_2$O$_3$", "CaO", "MgO", "SiO$_2$", "Mg#"]


def test_maps_on_other_grids(rng):
    for name, resolution in (("geographic", 10.0), ("equirectangular", 300_000.0)):
        box = geo.lunar_grid(name, resolution)
        dims = geo.grid_dims(box)
        ds = geo.assign_crs(
            xr.Dataset({"Th": (dims, rng.random(tuple(box.shape)))}, coords=geo.grid_coords(box)),
            box,
        )
        figure = plot.maps(ds)
        assert images(figure)[0].get_array().shape == tuple(box.shape)
        figure.canvas.draw()
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert any("E" in label for label in labels) == (name == "geographic")


def test_maps_of_a_tile_away_from_the_pole(scene):
    part = scene(latitude=60.0).isel(y=slice(10, 30), x=slice(120, 150))
    figure = plot.maps(part, variables=["FeO"])
    assert any("E" in text for text in texts(figure))


def test_few_orbits_are_drawn_as_profiles(tracks):
    ds = tracks(2)
    figure = plot.maps(ds)
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == 2 * len(OXIDES)
    titles = [axes.get_title() for axes in panels[:2]]
    assert titles[0].startswith("orbit 0")
    assert "170.0° W" in titles[0]
    assert "40 footprints" in titles[1]
    points = panels[0].lines[0]
    good = ds.novelty.values[:40] <= 1
    np.testing.assert_allclose(points.get_xdata(), ds.lat.values[:40][good])
    np.testing.assert_allclose(points.get_ydata(), ds.FeO.values[:40][good])
    np.testing.assert_allclose(
        panels[0].lines[1].get_ydata(), ds.FeO.values[:40][~good]
    )  # flagged, hollow
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("flagged" in label for label in labels)


def test_many_orbits_are_drawn_as_positions(tracks):
    for south in (False, True):
        figure = plot.maps(tracks(30, south=south).chunk(observation=100))
        scatter = [axes.collections[0] for axes in figure.axes if axes.collections]
        x, y = scatter[0].get_offsets()[0]
        assert x < 0  # 170° W
        assert (y > 0) == (not south)
    spread = tracks(30)
    spread = spread.assign_coords(lat=spread.lat - 80.0)
    axes = plot.maps(spread).axes[0]
    assert axes.get_xlabel() == "longitude (°)"


def test_profile_statistics():
    at, middle, low, high = plot.tracks.running_percentiles(np.arange(50.0), np.arange(50.0))
    np.testing.assert_allclose(middle, at)
    assert (low < middle).all()
    assert (high > middle).all()
    assert plot.tracks.running_percentiles(np.arange(3.0), np.full(3, np.nan))[0].size == 0


def test_maps_errors(tracks, scene):
    with pytest.raises(InputError, match="'K2O'"):
        plot.maps(scene(), variables=["K2O"])
    with pytest.raises(InputError, match="'lon'"):
        plot.maps(tracks().drop_vars("lon"))
    with pytest.raises(InputError, match="nothing to draw"):
        plot.maps(xr.Dataset())
    with pytest.raises(InputError, match="neither maps nor tracks"):
        plot.maps(xr.Dataset({"FeO": ("time", np.zeros(3))}))


@pytest.mark.parametrize("max_pixels", [500_000, 2_000])
def test_maps_are_cut_to_what_they_hold(max_pixels):
    values = np.full((360, 720), np.nan)
    values[101:107, 300] = np.arange(6)
    grid = geo.lunar_grid("geographic", 0.5)
    track = xr.DataArray(values, geo.grid_coords(grid), ("lat", "lon"), name="Fe")
    axes = plot.maps(track.chunk(lat=100), max_pixels=max_pixels).axes[0]
    shown = axes.get_images()[0].get_array()
    assert shown.count() == 6
    assert shown.size < 200
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < -30 < -29.5 < right
    assert bottom < 36.5 < 39.5 < top
    # Across 180° the picture goes on; ticks are round.
    values[101:107, 300] = np.nan
    values[200:240, [718, 719, 0, 1]] = [1, 2, 3, 4]
    axes = plot.maps(track.copy(data=values), max_pixels=max_pixels).axes[0]
    row = next(r.compressed() for r in axes.get_images()[0].get_array() if r.count())
    np.testing.assert_array_equal(row, [1, 2, 3, 4])
    left, right = axes.get_xlim()
    assert left < 180 < right < 200
    axes.figure.canvas.draw()
    names = [t.get_text() for t in axes.get_xticklabels()]
    assert "180°" in names
    assert all(float(t.split("°")[0]).is_integer() for t in names)
    # What is mostly filled stays whole.
    whole = track.copy(data=np.ones_like(values))
    ends = plot.maps(whole, max_pixels=max_pixels).axes[0].get_xlim()
    assert ends == pytest.approx((-180.0, 180.0), abs=1.0)


# --- comparison -----------------------------------------------------------------------------------


def test_comparison_shows_error_and_numbers(scene):
    truth = scene()
    result = truth + 0.5
    result["FeO"][:3] = np.nan
    figure = plot.comparison(truth, result)
    shown = images(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("bias +0.50\nRMSE 0.50") == 6
    errors = [
        image
        for image in shown
        if image.get_cmap().name == drawing.DIVERGING and image.get_array().ndim == 2
    ]
    errors = [image for image in errors if image.get_array().shape == truth.FeO.shape]
    assert len(errors) == 6
    np.testing.assert_allclose(errors[0].get_array().compressed(), 0.5, atol=1e-5)
    assert errors[0].get_clim()[0] == -errors[0].get_clim()[1]
    truth_image, result_image = figure.axes[0].get_images()[0], figure.axes[6].get_images()[0]
    assert truth_image.get_clim() == result_image.get_clim()


def test_comparison_shows_the_stated_error_and_how_much_lies_within(scene):
    truth = scene()
    result = truth + 0.5
    result["FeO_std"] = (truth.FeO * 0 + 0.4).where(truth.x > 0, 0.6)
    figure = plot.comparison(truth, result, variables=["FeO", "TiO2"])
    shown = [i for i in images(figure) if i.get_cmap().name == "magma"]
    np.testing.assert_allclose(np.unique(shown[0].get_array().compressed()), [0.4, 0.6])
    assert "truth within σ: 50%" in [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize("draw", ["polar_map", "polar_atlas"])
def test_a_polar_map_flatter_than_its_error_says_so(scene, draw):
    maps = scene(names=("FeO",))
    maps["FeO_std"] = maps["FeO"] * 0 + 20.0
    given = {"north": maps} if draw == "polar_atlas" else maps
    labels = _labels(getattr(plot, draw)(given))
    assert "FeO (wt%)\nflatter than its error, ±20" in labels
    sure = maps.assign(FeO_std=maps["FeO_std"] * 0 + 1e-3)
    given = {"north": sure} if draw == "polar_atlas" else sure
    assert not any("flatter" in label for label in _labels(getattr(plot, draw)(given)))
    if draw == "polar_map":  # limits that are asked for are those
        assert not any("flatter" in label for label in _labels(plot.polar_map(maps, vmin=0)))


def _labels(figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes]


def test_a_map_flatter_than_its_error_says_so(scene):
    ds = scene(names=("FeO", "MgO"))
    ds["FeO_std"], ds["MgO_std"] = ds.FeO * 0 + 20.0, ds.MgO * 0 + 1.0
    figure = plot.maps(ds)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert "FeO (wt%)\nflatter than its error, ±20" in labels
    assert "MgO (wt%)" in labels
    low, high = figure.axes[0].get_images()[0].get_clim()
    assert high - low == pytest.approx(40.0)
    low, high = figure.axes[1].get_images()[0].get_clim()
    assert high - low < 12


def test_comparison_errors(scene):
    with pytest.raises(GridError, match="same grid"):
        plot.comparison(scene(), scene(resolution=20_000.0))
    with pytest.raises(InputError, match="in common"):
        plot.comparison(scene(names=("FeO",)), scene(names=("CaO",)))
    with pytest.raises(InputError, match="K2O"):
        plot.comparison(scene(), scene(), variables=["K2O"])


# --- spectra --------------------------------------------------------------------------------------


@pytest.fixture
def spectral_tracks(rng):
    wavelength = np.linspace(520.0, 1570.0, 30)
    data = 0.1 + 1e-4 * (wavelength - 520.0) + rng.normal(0, 0.01, (80, 1))
    coords = {
        "wavelength": wavelength,
        "lat": ("observation", np.linspace(10, 20, 80)),
        "lon": ("observation", np.full(80, 5.0)),
        "orbit": ("observation", np.repeat([7, 8], 40)),
    }
    return xr.Dataset(
        {"reflectance": (("observation", "wavelength"), data.astype(np.float32))}, coords=coords
    )


def test_spectra_of_orbits(spectral_tracks):
    spectral_tracks["reflectance"][3] = np.nan
    axes = plot.spectra(spectral_tracks.chunk(observation=9)).axes[0]
    labelled = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in labelled] == ["orbit 7 (39)", "orbit 8 (40)"]
    np.testing.assert_allclose(
        labelled[0].get_ydata(), np.nanmedian(spectral_tracks.reflectance[:40], axis=0), rtol=1e-6
    )
    assert len(axes.collections) == 2  # the bands
    assert axes.get_xlabel() == "wavelength (nm)"


def test_single_spectra_and_places(spectral_tracks):
    few = plot.spectra(spectral_tracks.isel(observation=slice(0, 3)), by=None).axes[0]
    assert len(few.lines) == 3
    one = plot.spectra(spectral_tracks.reflectance[0]).axes[0]
    np.testing.assert_array_equal(one.lines[0].get_ydata(), spectral_tracks.reflectance[0])
    placed = plot.spectra(spectral_tracks, at=[(5.0, 20.0)]).axes[0]
    np.testing.assert_array_equal(placed.lines[0].get_ydata(), spectral_tracks.reflectance[-1])


def test_spectra_of_a_map(rng):
    box = geo.polar_grid("north", 50_000.0, 80.0)
    coords = {**geo.grid_coords(box), "wavelength": [500.0, 600.0, 700.0]}
    cube = xr.DataArray(
        rng.random((3, *box.shape)),
        dims=("wavelength", "y", "x"),
        coords=coords,
        name="reflectance",
    )
    cube = geo.assign_crs(cube, box)
    whole = plot.spectra(cube.chunk(y=4)).axes[0]
    np.testing.assert_allclose(whole.lines[-1].get_ydata(), cube.median(("y", "x")))
    row, column = geo.pixel_of(box, 30.0, 85.0)
    placed = plot.spectra(cube, at=[(30.0, 85.0)]).axes[0]
    np.testing.assert_array_equal(placed.lines[0].get_ydata(), cube[:, row[0], column[0]])
    with pytest.raises(InputError, match="outside"):
        plot.spectra(cube, at=[(30.0, 10.0)])


def test_detectors_are_not_joined(spectral_tracks):
    ds = spectral_tracks.assign_coords(detector=("wavelength", np.repeat(["VIS", "NIR1"], 15)))
    labelled = list(plot.spectra(ds.isel(observation=[0]), by=None).axes[0].lines)
    assert [line.get_xdata().size for line in labelled] == [15, 15]


def test_spectra_errors(spectral_tracks):
    with pytest.raises(InputError, match="radiance"):
        plot.spectra(spectral_tracks, variable="radiance")
    with pytest.raises(InputError, match="spectral axis"):
        plot.spectra(spectral_tracks.reflectance.rename(wavelength="band"))
    with pytest.raises(InputError, match="missing"):
        plot.spectra(spectral_tracks * np.nan)
    box = geo.polar_grid("north", 100_000.0, 80.0)
    nothing = np.full((30, *box.shape), np.nan)
    coords = {**geo.grid_coords(box), "wavelength": spectral_tracks.wavelength.values}
    cube = geo.assign_crs(xr.DataArray(nothing, dims=("wavelength", "y", "x"), coords=coords), box)
    with pytest.raises(InputError, match="every pixel"):
        plot.spectra(cube)


@pytest.mark.realdata
def test_real_tracks(real_data, tmp_path):
    import lunarray as la

    ds = la.open_sp(str(real_data / "sp" / "*.spc"))
    figure = plot.spectra(ds, path=tmp_path / "spectra.png")
    labels = [
        line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")
    ]
    assert labels == ["orbit 2358 (38)", "orbit 4184 (38)"]
    assert (tmp_path / "spectra.png").stat().st_size > 10_000
