"""Simulated NAC mosaics: seamless, lit as geometry says, and with a truth that fits the pixels."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lunarray as la
from lunarray.errors import GridError, InputError
from lunarray.geo import geobox_of
from lunarray.simulate import NacSettings, nac_scene, terrain
from lunarray.simulate.nac_ground import PATTERNS, WIDTH_CLASSES
from lunarray.simulate.nac_pixels import lommel_seeliger_share

LAYERS = ("image", "mask", "width_class", "ridge", "source")
SMALL = {"shape": (300, 340), "fractures": 40.0, "melt": 0.9, "strip_width": 120.0}


def made_of(*arguments, **options):
    """A scene by options of the settings and of the function alike."""
    names = {f.name for f in dataclasses.fields(NacSettings)} & options.keys()
    settings = NacSettings(**{n: options.pop(n) for n in names})
    return nac_scene(*arguments, settings=settings, **options)


def same(a, b) -> None:
    for name in LAYERS:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@pytest.fixture(scope="module")
def scene():
    return made_of(**SMALL, seed=5, incidence=60, azimuth=120)


# The mosaic --------------------------------------------------


@pytest.mark.parametrize("chunks", [64, 177, 300])
@pytest.mark.parametrize(("incidence", "azimuth"), [(60, 120), (78, 305)])
def test_chunks_do_not_matter(chunks, incidence, azimuth):
    options = {**SMALL, "seed": 5, "incidence": incidence, "azimuth": azimuth}
    whole = made_of(**options).dataset
    parts = made_of(**options, chunks=chunks).dataset
    assert max(parts["image"].data.chunksize) <= chunks
    same(whole, parts.compute(scheduler="synchronous"))


def test_chunked_is_lazy(no_compute):
    made = made_of(**SMALL, seed=5, chunks=100)
    assert all(made.dataset[name].chunks is not None for name in LAYERS)
    assert len(made.lines)
    assert len(made.polygons) == len(made.table)


def test_a_huge_mosaic_is_drawn_by_blocks():
    """One block of 10 000 × 10 000 pixels, without the others."""
    made = made_of((10_000, 10_000), chunks=512, seed=3, fractures=1.0)
    block = made.dataset.isel(y=slice(5120, 5632), x=slice(5120, 5632)).compute(
        scheduler="synchronous"
    )
    assert np.isfinite(block["image"].values).mean() > 0.9
    assert made.dataset["image"].data.npartitions == 400


def test_seeds(scene):
    same(scene.dataset, made_of(**SMALL, seed=5, incidence=60, azimuth=120).dataset)
    other = made_of(**SMALL, seed=6, incidence=60, azimuth=120).dataset
    assert np.nanmax(np.abs(other["image"] - scene.dataset["image"])) > 0.01
    assert (other["mask"] != scene.dataset["mask"]).any()


def test_the_ground_does_not_depend_on_the_sun(scene):
    other = made_of(**SMALL, seed=5, incidence=30, azimuth=300)
    for name in ("mask", "width_class", "ridge", "source"):
        np.testing.assert_array_equal(other.dataset[name], scene.dataset[name])
    assert other.lines.equals(scene.lines)
    assert float(np.nanmean(other.dataset["image"])) > float(np.nanmean(scene.dataset["image"]))


def test_no_data_and_seams(scene):
    ds = scene.dataset
    missing = np.isnan(ds["image"].values)
    assert missing.any()
    assert not missing.all()
    np.testing.assert_array_equal(missing, ds["mask"].values == 255)
    np.testing.assert_array_equal(missing, ds["source"].values == -1)
    assert len(np.unique(ds["source"].values)) > 3  # -1 and several images
    whole = made_of(**{**SMALL, "strip_width": None}, seed=5, nodata=False).dataset
    assert np.isfinite(whole["image"].values).all()
    assert (whole["source"].values == 0).all()
    assert whole["mask"].values.max() == 1


def test_seams_are_steps_of_brightness():
    """Without relief and noise what is left of a strip is its gain and offset."""
    options = {
        "shape": (64, 400), "fractures": 0, "craters": 0, "boulders": 0, "ridges": 0, "roughness": 0, "noise": 0,
        "seed": 2, "melt": 1.0, "incidence": 0,
    }  # fmt: skip
    one = made_of(**options, strip_width=None).dataset
    many = made_of(**options, strip_width=100).dataset
    source, image, base = (a.values for a in (many["source"], many["image"], one["image"]))
    for number in np.unique(source[source >= 0]):
        here = (source == number) & np.isfinite(base)
        gain, offset = np.polyfit(base[here], image[here], 1)
        assert np.abs(gain * base[here] + offset - image[here]).max() < 1e-5
        assert 0.6 < gain < 1.4
        assert abs(offset) < 0.01


def test_grid(scene):
    ds = scene.dataset
    box = geobox_of(ds["image"])
    assert box.shape == (300, 340)
    assert box.transform.a == 1.5
    polar = made_of((40, 50), 6.0, crs="south", origin=(1200.0, -600.0), seed=1).dataset
    assert la.geo.crs_code(la.geo.crs_of(polar)) == "IAU_2015:30135"
    assert polar["x"].values[0] == 1203.0
    assert polar["y"].values[0] == -603.0


def test_a_scene_travels(scene):
    again = pickle.loads(pickle.dumps(scene))
    assert again.lines.equals(scene.lines)
    assert again.polygons.geometry.area.sum() == scene.polygons.geometry.area.sum()


# The truth --------------------------------------------------


def test_polygons_are_the_mask():
    from rasterio.features import rasterize

    made = made_of(**{**SMALL, "strip_width": None}, seed=5, nodata=False)
    box = geobox_of(made.dataset["image"])
    drawn = rasterize(made.polygons.geometry, out_shape=box.shape, transform=box.transform)
    mask = made.dataset["mask"].values
    # GDAL's rule for pixels whose centre lies in a polygon is the kernel's; circles are polygons of 48 corners here.
    assert (drawn != mask).sum() < 0.003 * mask.sum()
    area = made.polygons.union_all().area / 1.5**2
    assert area == pytest.approx(mask.sum(), rel=0.03)


def test_lines_lie_in_polygons(scene):
    lines, polygons = scene.lines, scene.polygons.set_index("id").geometry
    assert len(lines) > 20
    for number, line in zip(lines["id"], lines.geometry, strict=True):
        assert polygons[number].buffer(1e-6).covers(line)


def test_classes_of_width(scene):
    limits = {
        "tiny": (0, 5),
        "small": (5, 10),
        "medium": (10, 20),
        "large": (20, 30),
        "huge": (30, 99),
    }
    pixels = scene.lines["width_m"] / 1.5
    for name, width in zip(scene.lines["width"], pixels, strict=True):
        low, high = limits[name]
        assert low <= width < high
    # Nominal widths are the mean ones: area over length, for lines much longer than wide.
    made = made_of(
        (900, 900), seed=4, fractures=20, melt=1.0, patterns={"curvilinear": 1}, chunks=900
    )
    polygons, lines = made.polygons.set_index("id").geometry, made.lines
    long = lines[lines.length > 12 * lines["width_m"]]
    assert len(long) > 10
    mean = [polygons[n].area / g.length for n, g in zip(long["id"], long.geometry, strict=True)]
    assert np.median(np.array(mean) / long["width_m"]) == pytest.approx(1, abs=0.15)


def test_width_class_layer(scene):
    names = (*WIDTH_CLASSES, "pit")
    ds, polygons = scene.dataset, scene.polygons
    box = geobox_of(ds["image"])
    inside = 0
    for shape, name in zip(polygons.geometry, polygons["width"], strict=True):
        point = shape.representative_point()
        column, row = ~box.transform * (point.x, point.y)
        value = int(ds["width_class"].values[int(row), int(column)])
        assert value >= names.index(name) + 1  # of crossing ones the widest counts
        inside += value == names.index(name) + 1
    assert inside > 0.7 * len(polygons)
    assert not (ds["ridge"].values & (ds["width_class"].values > 0)).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    made = made_of(
        (400, 400), seed=8, fractures=30, melt=1.0, patterns={pattern: 1.0}, widths={"small": 1.0}, pits=0,
        nodata=False, strip_width=None,
    )  # fmt: skip
    lines = made.lines
    assert set(lines["pattern"]) == {pattern}
    assert set(lines["width"]) <= {"tiny", "small", "medium"}
    assert (lines["width"] == "small").mean() > 0.6
    if pattern == "polygonal":
        # A network meets in nodes: most lines touch others of their complex.
        degree = [
            sum(other.distance(line) < 1e-6 for other in lines.geometry) - 1
            for line in lines.geometry
        ]
        assert np.median(degree) >= 2
    if pattern == "en echelon":
        for _, group in lines.groupby("complex"):
            if len(group) < 4:
                continue
            ends = np.array(
                [np.diff(np.array(g.coords)[[0, -1]], axis=0)[0] for g in group.geometry]
            )
            angle = np.degrees(np.arctan2(ends[:, 1], ends[:, 0]))
            # Parallel to each other, whichever end comes first.
            spread = np.abs((angle - angle[0] + 90) % 180 - 90)
            assert np.median(spread) < 25


def test_fractures_are_in_ponds():
    """Ponds are smooth ground: the brightness of ground without fractures scatters less there."""
    made = made_of(
        (700, 700), seed=1, fractures=20, melt=0.35, craters=0, boulders=0, ridges=0, pits=0, noise=0, nodata=False,
        strip_width=None,
    )  # fmt: skip
    from scipy.ndimage import binary_dilation, generic_gradient_magnitude, sobel

    rough = generic_gradient_magnitude(made.dataset["image"].values, sobel)
    mask = made.dataset["mask"].values == 1
    assert mask.any()
    beside = binary_dilation(mask, iterations=25) & ~binary_dilation(mask, iterations=12)
    far = ~binary_dilation(mask, iterations=60)
    assert np.median(rough[beside]) < 0.75 * np.median(rough[far])


# Light --------------------------------------------------


def plane(gx: float, gy: float, size: int = 16) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return (gx * x + gy * y).astype(np.float32)


@given(
    gx=st.floats(-0.6, 0.6), gy=st.floats(-0.6, 0.6), incidence=st.floats(0, 80), azimuth=st.floats(0, 360),
    share=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_plane_is_lit_as_the_law_says(gx, gy, incidence, azimuth, share):
    i, a = math.radians(incidence), math.radians(azimuth)
    sun = np.array([math.sin(a) * math.sin(i), -math.cos(a) * math.sin(i), math.cos(i)])
    one = np.ones((16, 16), np.float32)
    image = terrain.shade(plane(gx, gy), one, one, sun, share, 0.0)
    normal = np.array([-gx, -gy, 1.0]) / math.sqrt(1 + gx**2 + gy**2)
    mu0, mu = float(normal @ sun), float(normal[2])
    expected = max(share * 2 * mu0 / (mu0 + mu) + (1 - share) * mu0, 0.0) if mu0 > 0 else 0.0
    np.testing.assert_allclose(image, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("azimuth", "axis", "step"), [(0, 0, 1), (90, 1, -1), (180, 0, -1), (270, 1, 1)]
)
@pytest.mark.parametrize("incidence", [30.0, 60.0, 75.0])
def test_length_of_a_shadow(azimuth, axis, step, incidence):
    """A wall of 10 pixels height throws a shadow of 10 tan(incidence)."""
    height = np.zeros((101, 101), np.float32)
    wall = [slice(None), slice(None)]
    wall[axis] = 50
    height[tuple(wall)] = 10.0
    lit = terrain.lit_share(height, 1000, -37, incidence, azimuth, 90)
    line = np.moveaxis(lit, axis, 0)[:, 50]
    dark = float((1 - line).sum())
    assert dark == pytest.approx(10 * math.tan(math.radians(incidence)), abs=1.01)
    behind = line[51:] if step > 0 else line[:50]
    assert (1 - behind).sum() == pytest.approx(dark)


@given(
    seed=st.integers(0, 1000), incidence=st.floats(20, 80), azimuth=st.floats(0, 360), window=st.integers(3, 40)
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_shadows_by_walking_to_the_sun(seed, incidence, azimuth, window):
    """The queue finds what a walk along every ray finds, and an offset of the window changes nothing."""
    rng = np.random.default_rng(seed)
    height = rng.normal(0, 2, (23, 31)).astype(np.float32)
    row0, column0 = (int(n) for n in rng.integers(-1000, 1000, 2))
    lit = terrain.lit_share(height, row0, column0, incidence, azimuth, window)
    east, south = math.sin(math.radians(azimuth)), -math.cos(math.radians(azimuth))
    swap = abs(east) > abs(south)
    major, minor = (east, south) if swap else (south, east)
    ground, start, other = (height.T, column0, row0) if swap else (height, row0, column0)
    slope, sign = minor / major, 1 if major > 0 else -1
    descent = math.hypot(1, slope) / math.tan(math.radians(incidence))
    expected = np.ones(ground.shape)
    for m in range(ground.shape[0]):
        for n in range(ground.shape[1]):
            ray = other + n - math.floor((start + m) * slope + 0.5)
            highest = -math.inf
            for t in range(1, window + 1):
                k = m + sign * t
                x = ray + math.floor((start + k) * slope + 0.5) - other
                if not 0 <= k < ground.shape[0]:
                    break
                if 0 <= x < ground.shape[1]:
                    highest = max(highest, ground[k, x] - descent * t)
            expected[m, n] = 1 - min(max((highest - ground[m, n]) / descent, 0), 1)
    np.testing.assert_allclose(lit, expected.T if swap else expected, atol=1e-4)


def test_walls_of_a_trough():
    """With the sun in the east the western wall, which faces it, is bright and the eastern one dark."""
    height = np.zeros((40, 60), np.float32)
    trough, label = np.zeros_like(height), np.zeros(height.shape, np.uint8)
    segment = np.array([[30.0, -5, 8, 30.0, 45, 8, 0.2, 0.0, 3.0]])
    terrain.trace_segments(trough, label, 0, 0, segment)
    one = np.ones_like(height)
    sun = np.array([math.sin(math.radians(50)), 0.0, math.cos(math.radians(50))])
    image = terrain.shade(height - trough, one, one, sun, 0.5, 0.0)
    level = image[20, 5]
    assert image[20, 26] > 1.15 * level > 1.3 * image[20, 34]


def test_dark_side_is_not_black():
    made = made_of(
        (200, 200),
        seed=2,
        incidence=78,
        roughness=1.5,
        melt=0,
        noise=0,
        strip_width=None,
        nodata=False,
    )
    image = made.dataset["image"].values
    assert (image > 0).all()
    assert np.percentile(image, 0.5) < 0.2 * np.median(image)


def test_share_of_lommel_seeliger():
    assert lommel_seeliger_share(0) == 1
    values = [lommel_seeliger_share(a) for a in range(0, 121, 10)]
    assert all(0 <= v <= 1 for v in values)
    assert values == sorted(values, reverse=True)
    # McEwen (1996): L(60°) = 1 - 1.14 + 0.8712 - 0.31536
    assert lommel_seeliger_share(60) == pytest.approx(0.41584, abs=1e-5)


# Kernels --------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("profile", [0.0, 1.0])
def test_profile_of_a_trough(compiled, profile):
    trace = terrain.trace_segments if compiled else terrain.trace_segments.py_func
    relief, label = np.zeros((21, 41), np.float32), np.zeros((21, 41), np.uint8)
    trace(relief, label, 100, 200, np.array([[200.0, 110, 5, 240, 110, 5, 0.3, profile, 2.0]]))
    across = relief[:, 20]
    assert across[10] == pytest.approx(0.3 * 10)
    # A pixel on the very edge is outside.
    assert (label[:, 20] == 2).sum() == 9
    assert across[5] == across[15] == 0
    if profile:
        assert across[8] == across[10]  # flat floor
        assert across[13] == pytest.approx(3 * 0.81743, rel=1e-4)  # smoothstep at 8/11
    else:
        np.testing.assert_allclose(np.diff(across[5:11]), 0.6, rtol=1e-5)
    np.testing.assert_allclose(across, across[::-1], rtol=1e-6)


def test_crossing_troughs_are_not_deeper():
    relief, label = np.zeros((41, 41), np.float32), np.zeros((41, 41), np.uint8)
    segments = np.array(
        [[-9.0, 20, 4, 50, 20, 4, 0.25, 0, 1], [20.0, -9, 6, 20, 50, 6, 0.25, 0, 2]]
    )
    terrain.trace_segments(relief, label, 0, 0, segments)
    assert relief[20, 20] == 3.0
    assert label[20, 20] == 2
    assert label[20, 2] == 1
    again, both = np.zeros_like(relief), np.zeros_like(label)
    terrain.trace_segments(again, both, 0, 0, segments[::-1].copy())
    np.testing.assert_array_equal(again, relief)
    np.testing.assert_array_equal(both, label)


def test_segment_of_one_point_is_a_disc():
    relief, label = np.zeros((30, 30), np.float32), np.zeros((30, 30), np.uint8)
    terrain.trace_segments(relief, label, 0, 0, np.array([[15.0, 15, 7, 15, 15, 7, 0.2, 1, 1]]))
    y, x = np.mgrid[0:30, 0:30]
    np.testing.assert_array_equal(label == 1, np.hypot(x - 15, y - 15) < 7)


def test_depth_of_a_crater():
    height, albedo = np.zeros((101, 101), np.float32), np.ones((101, 101), np.float32)
    terrain.add_craters(height, albedo, 0, 0, np.array([[50.0, 50, 20, 0.2]]))
    # Rim to floor is 0.2 diameters, and the rim stands a fifth of that above the plain.
    assert height[50, 50] == pytest.approx(-0.8 * 8)
    assert height[50, 70] == pytest.approx(0.2 * 8, abs=1e-3)
    assert height[50, 100] == 0
    assert albedo[50, 50] > 1 == albedo[50, 0]
    worn = np.zeros_like(height)
    terrain.add_craters(worn, albedo.copy(), 0, 0, np.array([[50.0, 50, 20, 0.05]]))
    # The rim wears faster than the bowl: a sixteenth of a fresh one's is left.
    assert worn[50, 50] == pytest.approx(0.1 - 2)
    assert worn.max() <= 0.1


def test_boulder():
    height, albedo = np.zeros((21, 21), np.float32), np.ones((21, 21), np.float32)
    terrain.add_boulders(height, albedo, -5, 3, np.array([[13.0, 5, 4, 0.8]]))
    assert height[10, 10] == pytest.approx(3.2)
    assert height[10, 14] == 0
    assert (height > 0).sum() == (albedo > 1).sum() == 45  # pixels closer than 4 to a centre


@given(seed=st.integers(0, 2**31), wavelength=st.floats(2.5, 300))
@settings(max_examples=15, deadline=None)
def test_octave_by_points(seed, wavelength):
    out = np.zeros((9, 12), np.float32)
    terrain.add_noise(out, 1234, -77, seed, wavelength, 2.0, np.empty((0, 0), np.float32))
    row, column = np.mgrid[1234:1243, -77:-65].astype(float)
    points = terrain.gradient_noise(seed, row.ravel(), column.ravel(), wavelength)
    np.testing.assert_allclose(out.ravel(), 2 * points, atol=1e-5)
    assert np.abs(points).max() <= 0.7072


def test_noise_of_the_sensor():
    image = np.full((400, 400), 0.04, np.float32)
    terrain.add_sensor_noise(image, 0, 0, 9, 3e-4, 2e-3)
    assert image.mean() == pytest.approx(0.04, abs=1e-5)
    assert image.std() == pytest.approx(math.hypot(3e-4, 2e-3 * 0.2), rel=0.02)
    z = (image - image.mean()) / image.std()
    assert abs((z**3).mean()) < 0.03
    assert (z**4).mean() == pytest.approx(3, abs=0.1)
    # White: neighbours have nothing to do with each other.
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.01
    assert abs((z[1:] * z[:-1]).mean()) < 0.01


def test_uniform_hash():
    values = np.array(
        [terrain.hash_uniform(3, r, c) for r in range(-15, 15) for c in range(-20, 20)]
    )
    assert len(np.unique(values)) == values.size
    assert 0 < values.min() < values.max() < 1
    from scipy.stats import kstest

    assert kstest(values, "uniform").pvalue > 1e-3


# Faults --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"shape": (0, 5)}, "shape"),
        ({"shape": 7}, "shape"),
        ({"incidence": 95}, "incidence"),
        ({"incidence": math.nan}, "incidence"),
        ({"melt": 1.5}, "melt"),
        ({"fractures": -1}, "fractures"),
        ({"resolution": 0}, "resolution"),
        ({"chunks": 0}, "chunks"),
        ({"strip_width": 3}, "strip_width"),
        ({"widths": {"wide": 1}}, "widths"),
        ({"patterns": {"curvilinear": 0.0}}, "patterns"),
    ],
)
def test_faults(options, where):
    with pytest.raises(InputError) as caught:
        made_of(**{"shape": (32, 32), **options})
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_geographic_grid_is_refused():
    with pytest.raises(GridError, match="projected"):
        made_of((32, 32), crs="geographic")


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (33, 2)])
def test_tiny_scenes(shape):
    made = made_of(shape, seed=1, nodata=False)
    assert made.dataset["image"].shape == shape
    assert np.isfinite(made.dataset["image"].values).all()


def test_no_fractures():
    made = made_of((64, 64), fractures=0, nodata=False)
    assert len(made.lines) == len(made.polygons) == len(made.pits) == 0
    assert made.dataset["mask"].values.max() == 0


# What may be taken for a fracture ----------------------------

OTHERS = {"wrinkles": 25.0, "massifs": 12.0, "scarps": 25.0, "terraces": 12.0, "tracks": 40.0}
BARE = {"shape": (220, 240), "fractures": 0.0, "craters": 0.0, "boulders": 0.0, "ridges": 0.0}
BARE |= {"noise": 0.0, "psf": 0.0, "strip_width": None, "nodata": False, "seed": 8}


def test_others_and_wear_do_not_depend_on_chunks():
    options = {**SMALL, "wear": 0.6, "others": {**OTHERS, "patches": 0.3}, "light": "hapke"}
    options |= {"seed": 6, "incidence": 70, "azimuth": 200}
    same(made_of(**options).dataset, made_of(**options, chunks=90).dataset.compute())


@pytest.mark.parametrize("kind", [*OTHERS, "patches"])
def test_each_of_the_others_changes_the_image_and_no_label(kind):
    plain = made_of(**BARE).dataset
    others = {kind: 0.3 if kind == "patches" else 4 * OTHERS[kind]}
    found = made_of(**BARE, others=others).dataset
    assert (found["image"].values != plain["image"].values).mean() > 0.002
    assert not found["mask"].any()
    assert found["ridge"].any() == (kind == "wrinkles")


def test_wear_makes_fractures_soft_and_leaves_them_where_they_are(scene):
    worn = made_of(**SMALL, wear=1.0, seed=5, incidence=60, azimuth=120)
    same_labels = (worn.dataset["mask"] == scene.dataset["mask"]).all()
    assert same_labels
    assert set(worn.lines["profile"]) <= {"W", "F"}
    assert set(scene.lines["profile"]) <= {"V", "U"}
    there = scene.dataset["mask"].values == 1

    def contrast(made):
        return np.std(made.dataset["image"].values[there])

    assert contrast(worn) < 0.7 * contrast(scene)


def test_scarps_are_steep_on_one_side():
    height = np.zeros((40, 60), np.float32)
    line = np.array(
        [
            [30.0, -40.0, 30.0, 19.0, 4.0, 0.5, 5.0, 0.0],
            [30.0, 19.0, 30.0, 80.0, 4.0, 0.5, 5.0, 0.0],
        ]
    )
    terrain.add_scarps(height, 0, 0, line)
    across = height[20]
    assert across.argmax() == 30
    assert across[:10].max() == across[51:].max() == 0
    up, down = np.flatnonzero(across[:31] > 0), np.flatnonzero(across[30:] > 0)
    assert {up.size, down.size} == {4, 20}


def test_light_like_hapkes_and_settings_that_make_no_sense():
    plain, other = (
        made_of(**BARE, light=law).dataset["image"] for law in ("lunar-lambert", "hapke")
    )
    assert float(other.mean()) == pytest.approx(float(plain.mean()), rel=0.02)
    assert float(abs(other / plain - 1).max()) > 0.005
    for bad, what in (
        ({"others": {"rilles": 1.0}}, "others"), ({"others": {"patches": 2.0}}, "patches"),
        ({"wear": 2.0}, "wear"), ({"light": "lambert"}, "light"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=what):
            NacSettings(**bad)
