"""Population: footprints, their cells, the exact division and the paper's, and what lands on the pixels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space
from scipy.optimize import minimize, nnls

import lunarray as la
from lunarray import superres as sr
from lunarray.errors import (
    InputError,
    LunarrayWarning,
    ProductFormatError,
    StoreConflictError,
    StoreError,
    StoreIncompleteError,
    StoreLockedError,
)
from lunarray.geo import great_circle_distance
from lunarray.superres import population_kernels as kernels
from lunarray.superres.footprints import cell_pixels, footprint_cells, touched_regions
from lunarray.superres.population import (
    Division,
    divide_footprints,
    populate_pixels,
    population_loss,
    split_abundances,
)
from lunarray.xrf import ELEMENTS, HIGHLAND, MARE

GRID = sr.GIBGrid(regions=(2, 4), shape=(30, 30))
EXPECTED = np.array([list(MARE.values()), list(HIGHLAND.values())])
VARIABLES = ("abundance", "abundance_std", "count", "provenance")


def tracks(n: int, seed: int = 0, *, elements=("Mg", "Al", "Si", "Fe"), length=6.0, width=1.5):
    """Footprints that run north to south anywhere, also over ±180° and near the poles."""
    rng = np.random.default_rng(seed)
    lat = rng.uniform(-88, 88 - length, n)
    lon = rng.uniform(-180, 180, n)
    half = np.minimum(width / np.cos(np.deg2rad(lat + length / 2)), 30.0)
    corner_lat = np.stack([lat + length, lat, lat, lat + length], axis=1)
    corner_lon = np.stack([lon, lon, lon + half, lon + half], axis=1)
    typical = np.array([MARE[e] for e in elements])
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), corner_lat),
            "corner_lon": (("footprint", "corner"), corner_lon),
            "abundance": (
                ("footprint", "element"),
                typical * rng.uniform(0.5, 1.5, (n, len(elements))),
            ),
            "abundance_std": (("footprint", "element"), rng.uniform(0.3, 3, (n, len(elements)))),
        },
        {"element": list(elements)},
    )


def fill_mare(path, grid, seed=0):
    rng = np.random.default_rng(seed)
    for region in grid.all_regions():
        sr.write_region(path, region, mare=rng.integers(1, 3, grid.shape))


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """A bank with mare classes and nothing else, which tests only copy."""
    path = tmp_path_factory.mktemp("classified") / "gib.zarr"
    sr.create_gib(path, GRID, features=2)
    fill_mare(path, GRID)
    return path


@pytest.fixture
def store(tmp_path, classified):
    return shutil.copytree(classified, tmp_path / "gib.zarr")


@pytest.fixture
def other(tmp_path, classified):
    return shutil.copytree(classified, tmp_path / "other.zarr")


def contents(path):
    ds = sr.open_gib(path)
    return {name: ds[name].values for name in VARIABLES}


class TestCells:
    def test_along_a_meridian(self):
        fp = tracks(1, length=8.0).assign(
            corner_lat=(("footprint", "corner"), [[4.0, -4.0, -4.0, 4.0]]),
            corner_lon=(("footprint", "corner"), [[10.0, 10.0, 11.0, 11.0]]),
        )
        cells = footprint_cells(fp)
        np.testing.assert_allclose(cells.lat.values[0], np.arange(3.5, -4, -1), atol=0.002)
        np.testing.assert_allclose(cells.lon.values[0], 10.5, atol=1e-9)

    def test_which_axis_is_longer_does_not_depend_on_the_corners_order(self, rng):
        fp = tracks(20, 3)
        want = np.sort(footprint_cells(fp).lat.values, axis=1)
        for shift in range(1, 4):
            rolled = fp.roll(corner=shift)
            got = footprint_cells(rolled).lat.values
            np.testing.assert_allclose(np.sort(got, axis=1), want, atol=1e-9)
        back = fp.isel(corner=[3, 2, 1, 0])
        np.testing.assert_allclose(np.sort(footprint_cells(back).lat.values, 1), want, atol=1e-9)

    def test_equal_spacing_over_the_pole(self):
        # 20° from 85° N on one side to 75° N on the other.
        lat = np.array([[85.0, 75.0, 75.0, 85.0]])
        lon = np.array([[-3.0, 183.0, 177.0, 3.0]])
        got_lat, got_lon = kernels.cell_centres(lat, lon, 8)
        steps = great_circle_distance(got_lon[0, 1:], got_lat[0, 1:], got_lon[0, :-1], got_lat[0, :-1])  # fmt: skip
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
        assert got_lat.max() > 88
        assert ((np.abs(got_lon[0]) < 1e-6) | (np.abs(got_lon[0]) > 179.99)).all()

    def test_across_the_seam(self):
        fp = tracks(1).assign(
            corner_lat=(("footprint", "corner"), [[1.0, 1.0, -1.0, -1.0]]),
            corner_lon=(("footprint", "corner"), [[176.0, -176.0, -176.0, 176.0]]),
        )
        cells = footprint_cells(fp)
        assert np.sort(cells.lon.values[0] % 360) == pytest.approx(np.arange(176.5, 184), abs=0.01)
        assert (cells.lon < 180).all()
        same = footprint_cells(fp.assign(corner_lon=fp.corner_lon % 360))
        np.testing.assert_allclose(same.lon.values, cells.lon.values, atol=1e-9)
        assert {j for _, j in touched_regions(fp, GRID)} == {0, 3}

    def test_pixels_are_those_of_the_grid(self, rng):
        for grid in (GRID, sr.GIBGrid(), sr.GIBGrid((2, 2), (9, 11), (-20, -10, 60, 70))):
            fp = tracks(300, 5)
            cells = footprint_cells(fp)
            row, column = grid.pixel_of(cells.lat.values, cells.lon.values)
            expected = np.where(row < 0, -1, row * grid.size[1] + column)
            np.testing.assert_array_equal(cell_pixels(fp, grid), expected)


class TestExact:
    @staticmethod
    def problem(a, d):
        """‖E b − f‖² is the loss as it stands, over the known elements."""
        known = np.isfinite(a)
        cells = d.shape[1]
        scale = np.sqrt(np.sum(a[known] ** 2))
        return np.kron(np.eye(cells), a[known][:, None]) / scale, d[known].T.ravel() / scale

    @classmethod
    def qp(cls, a, d):
        """Least squares with inequalities by Lawson and Hanson (1974, chapter 23), on SciPy's NNLS.

        The equality is eliminated: b = 1 + N z, N a basis of what sums to nothing.
        """
        e, f = cls.problem(a, d)
        cells = e.shape[1]
        basis = null_space(np.ones((1, cells)))
        q, r = np.linalg.qr(e @ basis)
        start = q.T @ (f - e @ np.ones(cells))
        g = basis @ np.linalg.inv(r)
        h = -1.0 - g @ start
        u, _ = nnls(np.vstack([g.T, h]), np.append(np.zeros(cells - 1), 1.0))
        residual = np.vstack([g.T, h]) @ u - np.append(np.zeros(cells - 1), 1.0)
        return 1.0 + g @ (start - residual[:-1] / residual[-1])

    @classmethod
    def slsqp(cls, a, d):
        e, f = cls.problem(a, d)
        cells = e.shape[1]
        found = minimize(
            lambda b: np.sum((e @ b - f) ** 2),
            np.ones(cells),
            jac=lambda b: 2 * e.T @ (e @ b - f),
            method="SLSQP",
            bounds=[(0, None)] * cells,
            constraints={"type": "eq", "fun": lambda b: b.sum() - cells, "jac": np.ones_like},
            options={"ftol": 1e-16, "maxiter": 500},
        )
        return found.x

    def test_equals_a_general_solver(self, rng):
        worst, rough, bound = 0.0, 0.0, 0
        for _ in range(80):
            cells = int(rng.integers(2, 12))
            a = rng.uniform(0.0, 45.0, 8)
            a[rng.random(8) < 0.2] = np.nan
            if not np.isfinite(a).any():
                continue
            # Far beyond what mare and highland differ by, so that constraints bind.
            expected = rng.uniform(0, 60, (2, 8)) * rng.choice([0.1, 1.0, 4.0], (2, 1))
            classes = rng.integers(0, 3, (1, cells)).astype("u1")
            got = split_abundances(a[None], classes, expected=expected)[0]
            own = [expected[c - 1] if c else a for c in classes[0]]
            d = np.stack(own, axis=1)
            worst = max(worst, np.abs(got - self.qp(a, d)).max())
            rough = max(rough, np.abs(got - self.slsqp(a, d)).max())
            bound += (got == 0).any()
            assert got.min() >= 0
            assert got.sum() == pytest.approx(cells, abs=1e-12)
        assert worst < 1e-8
        # As far as SLSQP converges.
        assert rough < 1e-6
        assert bound > 5

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_no_feasible_division_is_better(self, seed):
        rng = np.random.default_rng(seed)
        a = rng.uniform(0.1, 45.0, (1, 4))
        expected = rng.uniform(0, 60, (2, 4))
        classes = rng.integers(0, 3, (1, 8)).astype("u1")
        best = population_loss(
            a, classes, split_abundances(a, classes, expected=expected), expected=expected
        )
        others = rng.dirichlet(np.full(8, rng.choice([0.1, 1.0, 30.0])), 50) * 8
        losses = population_loss(
            np.repeat(a, 50, 0), np.repeat(classes, 50, 0), others, expected=expected
        )
        assert (losses >= best * (1 - 1e-12)).all()

    def test_never_worse_than_the_descent(self, rng):
        n = 3000
        a = EXPECTED[rng.integers(0, 2, n)] * rng.uniform(0.6, 1.4, (n, 8))
        classes = rng.integers(0, 3, (n, 8)).astype("u1")
        exact = split_abundances(a, classes)
        descent = split_abundances(a, classes, method="lagrangian")
        # The descent leaves the constraints, and what breaks them can have any loss: it is held to them for comparison.
        off = np.abs(descent.sum(axis=1) - 8)
        assert off.max() > 0.01
        assert descent.min() > 0
        fair = descent * (8 / descent.sum(axis=1))[:, None]
        gain = population_loss(a, classes, fair) - population_loss(a, classes, exact)
        assert gain.min() >= -1e-9
        # As it stands, its lower loss is never more than what freeing the sum is worth: the exact minimum at its sum.
        own = EXPECTED[np.maximum(classes, 1) - 1]
        t = np.einsum("fe,fce->fc", a, own) / (a**2).sum(axis=1)[:, None]
        t = np.where(classes > 0, t, 1.0)
        freed = t + ((descent.sum(1) - t.sum(1)) / 8)[:, None]
        assert (
            population_loss(a, classes, descent) - population_loss(a, classes, freed)
        ).min() >= -1e-9

    def test_one_class_divides_evenly(self):
        a = np.array([list(HIGHLAND.values())]) * 0.8
        for c in (0, 1, 2):
            got = split_abundances(a, np.full((1, 8), c))
            np.testing.assert_allclose(got, 1.0, atol=1e-14)
        assert (split_abundances(np.zeros((1, 8)), np.full((1, 8), 1)) == 1).all()

    def test_mare_cells_get_more_iron(self):
        # Of iron alone: what is richer in it gets more.
        a = np.full((1, 8), np.nan)
        a[0, 0] = 8.0
        b = split_abundances(a, [[1, 1, 1, 1, 2, 2, 2, 2]])[0]
        assert (b[:4] > b[4:]).all()
        np.testing.assert_allclose(8 * (b[0] - b[4]), MARE["Fe"] - HIGHLAND["Fe"], rtol=1e-12)

    def test_python_agrees_with_the_compiled(self, rng):
        a = rng.uniform(0, 20, (5, 8))
        classes = rng.integers(0, 3, (5, 8)).astype("u1")
        for name, more in (
            ("exact_weights", ()),
            ("lagrangian_weights", (80, 1.0, 2.0, 1e-4)),
        ):
            kernel = getattr(kernels, name)
            np.testing.assert_allclose(
                kernel.py_func(a, classes, EXPECTED, *more),
                kernel(a, classes, EXPECTED, *more),
                rtol=1e-12,
            )

    @pytest.mark.parametrize(
        ("match", "a", "classes", "options"),
        [
            ("negative", -np.ones((1, 8)), np.ones((1, 8)), {}),
            ("other than 0, 1 and 2", np.ones((1, 8)), np.full((1, 8), 3), {}),
            ("expected", np.ones((1, 4)), np.ones((1, 8)), {}),
            ("method", np.ones((1, 8)), np.ones((1, 8)), {"method": "newton"}),
        ],
    )
    def test_nonsense(self, match, a, classes, options):
        with pytest.raises(InputError, match=match):
            split_abundances(a, classes, **options)


class TestLagrangian:
    def test_is_the_papers(self, rng):
        """The equations of the paper with matrices, as they are printed."""
        for _ in range(5):
            a = rng.uniform(0.2, 45, 8)[:, None]
            classes = rng.integers(1, 3, 8).astype("u1")
            d = EXPECTED[classes - 1].T
            b, lam, mu = np.ones((1, 8)), np.ones((8, 1)), np.full((1, 8), 2.0)
            one, eta = np.ones((8, 1)), 1e-4
            for _ in range(80):
                to_b = 2 * a.T @ (a @ b - d) + lam.T @ a + mu * np.sign(-b)
                to_lam = a @ (b @ one) - 8 * a
                to_mu = np.maximum(0, -b)
                b, lam, mu = b - eta * to_b, lam - eta * to_lam, mu - eta * to_mu
            got = split_abundances(a.T, classes[None], method="lagrangian")
            np.testing.assert_allclose(got, b, rtol=1e-12)

    def test_comes_near_the_exact(self):
        a = EXPECTED.mean(axis=0, keepdims=True)
        classes = np.array([[1, 1, 1, 1, 2, 2, 2, 2]])
        exact = split_abundances(a, classes)
        descent = split_abundances(a, classes, method="lagrangian")
        assert np.abs(exact - descent).max() < 0.05

    def test_missing_elements_do_not_count(self, rng):
        a = rng.uniform(1, 40, (3, 8))
        classes = rng.integers(0, 3, (3, 8))
        a[:, [1, 6]] = np.nan
        few = [0, 2, 3, 4, 5, 7]
        for method in ("exact", "lagrangian"):
            np.testing.assert_allclose(
                split_abundances(a, classes, method=method),
                split_abundances(a[:, few], classes, expected=EXPECTED[:, few], method=method),
                rtol=1e-12,
            )


class TestContrast:
    """The default: 100 wt% in every pixel, the footprint's own mean, and nearer to the truth than copying."""

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_mean_sum_and_sign_are_kept(self, seed):
        rng = np.random.default_rng(seed)
        n, cells = 6, int(rng.integers(1, 10))
        a = rng.uniform(0, 40, (n, 8)) * (rng.random((n, 8)) > 0.2)
        a[:, 7] += 1.0
        s = np.where(rng.random((n, 8)) < 0.1, np.nan, rng.uniform(0.1, 4, (n, 8)))
        classes = rng.integers(0, 3, (n, cells)).astype("u1")
        expected = rng.uniform(0, 30, (2, 8))
        d = divide_footprints(a, s, classes, ELEMENTS, expected=expected)
        held = d.abundance[:, None] + (d.weights - 1)[..., None] * d.direction[:, None]
        np.testing.assert_allclose(held.sum(axis=2), 100, atol=1e-9)
        np.testing.assert_allclose(held.mean(axis=1), d.abundance, atol=1e-9)
        assert held.min() > -1e-9
        # Of three elements nobody knows the sum.
        part = divide_footprints(
            a[:, :3], s[:, :3], classes, ELEMENTS[:3], expected=expected[:, :3]
        )
        np.testing.assert_array_equal(part.abundance, a[:, :3])
        held = part.abundance[:, None] + (part.weights - 1)[..., None] * part.direction[:, None]
        np.testing.assert_allclose(held.mean(axis=1), a[:, :3], atol=1e-9)
        assert held.min() > -1e-9

    def test_what_lacks_goes_where_errors_are_large(self):
        a = np.array([list(HIGHLAND.values())])
        a[0, 3] += 4
        s = np.array([[0.2, 0.2, 0.2, 2.0, 0.2, 0.2, 0.2, 0.2]])
        d = divide_footprints(a, s, np.full((1, 3), 2, "u1"), ELEMENTS)
        assert d.abundance[0, 3] == pytest.approx(HIGHLAND["Si"], abs=0.3)
        assert d.std[0, 3] < 0.6
        np.testing.assert_allclose(np.delete(d.abundance - a, 3), 0, atol=0.05)

    def test_mare_has_more_iron_and_pixels_of_several_footprints_close(self):
        rng = np.random.default_rng(3)
        a = np.array([list(MARE.values())]) * rng.uniform(0.9, 1.1, (40, 8))
        classes = rng.integers(1, 3, (40, 8)).astype("u1")
        d = divide_footprints(a, rng.uniform(0.1, 2, (40, 8)), classes, ELEMENTS)
        got = populate_pixels(rng.integers(0, 30, (40, 8)), d)
        assert got["count"].max() > 3
        np.testing.assert_allclose(got["abundance"].sum(axis=1), 100, atol=2e-5)
        mixed = d.direction[:, 0] > 0
        assert (d.weights[mixed][classes[mixed] == 1] > 1).all()

    @pytest.mark.parametrize("seed", [2, 21])
    def test_nearer_to_the_truth_than_copying(self, seed):
        from lunarray.simulate import track_scene

        grid = sr.GIBGrid((1, 1), (60, 100), (-75.0, 14.0, -68.4, 18.0))
        scene = track_scene(grid, seed, coverage=0.3)
        mare = sr.mare_class(grid.geobox, albedo=scene.basemap).values.ravel()
        table = scene.footprints.sel(element=list(ELEMENTS))
        pixel = cell_pixels(table, grid)
        on = pixel >= 0
        classes = np.where(on, mare[np.maximum(pixel, 0)], 0)
        a, s = table.abundance.values, table.abundance_std.values
        truth = scene.truth.abundance.transpose("lat", "lon", "element").values.reshape(-1, 8)
        unit = truth.std(axis=0)

        def error(values):
            return np.sqrt(np.mean((values[on] - truth[pixel[on]]) ** 2, axis=0)) / unit

        d = divide_footprints(a, s, classes, ELEMENTS)
        ours = error(d.abundance[:, None] + (d.weights - 1)[..., None] * d.direction[:, None])
        copied = error(np.repeat(a[:, None], 8, axis=1))
        assert ours.mean() < 0.95 * copied.mean()
        closed = error(np.repeat(d.abundance[:, None], 8, axis=1))
        assert ours.mean() < closed.mean()


class TestCombine:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_against_loops(self, seed):
        rng = np.random.default_rng(seed)
        n, cells, elements = int(rng.integers(0, 12)), 3, 2
        pixel = rng.integers(-1, 5, (n, cells))
        weights = rng.uniform(0, 2, (n, cells))
        a = np.where(rng.random((n, elements)) < 0.2, np.nan, rng.uniform(0, 20, (n, elements)))
        s = np.where(rng.random((n, elements)) < 0.3, np.nan, rng.uniform(0.5, 2, (n, elements)))
        got = populate_pixels(pixel, Division(a, s, weights, a, False))
        assert got["pixel"].tolist() == sorted(set(pixel.ravel()) - {-1})
        for m, p in enumerate(got["pixel"]):
            hits = [f for f in range(n) if (pixel[f] == p).any()]
            assert got["count"][m] == len(hits)
            share = dict.fromkeys(hits, 0.0)
            for e in range(elements):
                values = {f: a[f, e] * weights[f][pixel[f] == p].mean() for f in hits}
                values = {f: v for f, v in values.items() if np.isfinite(v)}
                sure = {f: s[f, e] for f in values if np.isfinite(s[f, e])}
                w = {f: v**-2.0 for f, v in sure.items()} or dict.fromkeys(values, 1.0)
                total = sum(w.values())
                if not values:
                    assert np.isnan(got["abundance"][m, e])
                    continue
                mean = sum(w[f] * values[f] for f in w) / total
                np.testing.assert_allclose(got["abundance"][m, e], mean, rtol=1e-5)
                error = total**-0.5 if sure else np.nan
                np.testing.assert_allclose(got["abundance_std"][m, e], error, rtol=1e-5)
                for f in w:
                    share[f] += w[f] / total
            best = share[got["provenance"][m]]
            assert best >= max(share.values()) - 1e-9

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 4096, 4097, 10**7, 10**9]))
    def test_sort_is_stable(self, seed, high):
        rng = np.random.default_rng(seed)
        pixel = rng.integers(-1, high, rng.integers(0, 60))
        order = np.argsort(pixel, kind="stable")
        np.testing.assert_array_equal(kernels.sort_cells(pixel), order[pixel[order] >= 0])


class TestFootprints:
    def test_of_fits(self, rng):
        fp = tracks(4, elements=ELEMENTS)
        fit = fp.rename(footprint="time").assign_coords(
            time=np.arange(4).astype("M8[D]").astype("M8[ns]")
        )
        got = sr.as_footprints(fit.chunk(time=2))
        assert got.abundance.dims == ("footprint", "element")
        np.testing.assert_array_equal(got.abundance.values, fp.abundance.values)
        assert got.time.dims == ("footprint",)

    @pytest.mark.parametrize(
        ("match", "name", "value"),
        [
            ("a corner is missing", "corner_lat", np.nan),
            ("a latitude beyond ±90°", "corner_lat", 91.0),
            ("no longitude in degrees", "corner_lon", 1e4),
            ("longer than 40°", "corner_lat", 60.0),
            ("a negative abundance", "abundance", -0.1),
            ("an infinite abundance", "abundance", np.inf),
            ("an abundance above 100 wt%", "abundance", 101.0),
            ("an error that is not positive", "abundance_std", -1.0),
        ],
    )
    def test_bad_ones(self, match, name, value, store):
        fp = tracks(5, 1)
        fp["corner_lat"][2] = [3.0, -3.0, -3.0, 3.0]
        values = fp[name].values.copy()
        values[2, 0] = value
        fp[name] = fp[name].dims, values
        with pytest.raises(InputError, match=f"1 of 5 footprints are bad: 1 × {match}.* number 2"):
            sr.as_footprints(fp)
        with pytest.raises(InputError, match=match):
            sr.populate(store, fp)
        assert sr.gib_footprints(store).sizes["footprint"] == 0
        assert not (sr.open_gib(store).state.values & 4).any()
        with pytest.warns(LunarrayWarning, match=match):
            got = sr.as_footprints(fp, errors="skip")
        assert got.sizes["footprint"] == 4
        assert got.attrs["skipped_rows"] == 1

    def test_order_and_area(self):
        fp = tracks(2, 1)
        twisted = fp.isel(corner=[0, 2, 1, 3])
        with pytest.warns(LunarrayWarning, match="of 2 of 2 footprints"):
            ordered = sr.as_footprints(twisted)
        for k in (0, 1):
            places = [
                set(zip(d.corner_lat.values[k], d.corner_lon.values[k], strict=True))
                for d in (fp, ordered)
            ]
            assert places[0] == places[1]
        again = sr.as_footprints(ordered)
        np.testing.assert_array_equal(again.corner_lon, ordered.corner_lon)
        # Over a pole, and one whose second corner lies within the others.
        polar = fp.assign(
            corner_lat=(
                fp.corner_lat.dims,
                [[88.503, 86.3406, 86.5458, 88.0745], [0.0, 3.0, 6.0, 3.0]],
            ),
            corner_lon=(
                fp.corner_lon.dims,
                [[176.107, -62.2032, -52.6461, -168.259], [0.0, 0.2, 0.0, 2.0]],
            ),
        )
        with (
            pytest.warns(LunarrayWarning, match="of 1 of 2 footprints"),
            pytest.raises(InputError, match="1 × a re-entrant corner; the first is number 1"),
        ):
            sr.as_footprints(polar)
        point = fp.assign(corner_lat=fp.corner_lat * 0, corner_lon=fp.corner_lon * 0)
        with pytest.raises(InputError, match="2 × no area"):
            sr.as_footprints(point)
        empty = fp.assign(abundance=fp.abundance * np.nan)
        with pytest.raises(InputError, match="2 × no abundance"):
            sr.as_footprints(empty)

    def test_shapes(self):
        fp = tracks(2, 1)
        for match, bad in (
            ("no corner_lat", fp.drop_vars("corner_lat")),
            ("dimensions", fp.rename(corner="edge")),
            ("dimensions", fp.drop_vars("element")),
            ("3 corners", fp.isel(corner=slice(3))),
        ):
            with pytest.raises(InputError, match=match):
                sr.as_footprints(bad)
        with pytest.raises(InputError, match="a DataArray"):
            sr.as_footprints(fp.abundance)

    def test_table_that_is_none(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(ProductFormatError, match="no columns V0_LATITUDE"):
            sr.read_class_tracks(path)
        with pytest.raises(ProductFormatError, match="cannot be read"):
            sr.read_class_tracks(tmp_path / "none.csv")

    @pytest.mark.realdata
    def test_real_table(self, real_data):
        path = real_data / "class" / "abundance" / "class_l2_tracks.csv"
        with pytest.warns(LunarrayWarning, match="4 of 2722 rows left out: 4 × corners"):
            fp = sr.read_class_tracks(path)
        assert fp.sizes["footprint"] == 2718
        assert fp.attrs["skipped_rows"] == 4
        assert list(fp.element.values) == ["Mg", "Al", "Si", "Fe"]
        np.testing.assert_allclose(fp.abundance.values[0], [4.09, 15.33, 18.02, 3.64])
        np.testing.assert_allclose(fp.abundance_std.values[0], [1.34, 3.67, 4.41, 4.10])
        assert fp.corner_lat.values[0].tolist() == [-44.76, -50.51, -50.49, -44.74]
        # Fits of iron that say no error: 224 footprints stay, with what is known of them.
        with pytest.warns(LunarrayWarning):
            fit = sr.read_class_tracks(path, uncertainty="fit")
        assert fit.sizes["footprint"] == 2718
        unknown = np.isnan(fit.abundance_std.values)
        assert unknown.sum(axis=0).tolist() == [0, 0, 0, 224]
        assert np.isfinite(fit.abundance.values).all()

    @pytest.mark.parametrize("form", ["V0_LATITUDE", "lat0", "spaces"])
    def test_forms_of_public_tables(self, form, tmp_path):
        """Corners and abundances under the names of each public form, eight elements, and no errors."""
        rows = np.random.default_rng(3).uniform(0.1, 9, (5, 8))
        corners = np.array([[10.0, 20.0, 10.0, 20.5, 4.0, 20.5, 4.0, 20.0]]) + np.arange(5)[:, None]
        order = ["Mg", "Al", "Si", "Fe", "Na", "O", "Ti", "Ca"]
        places = [f"V{k}_{a}" for k in range(4) for a in ("LATITUDE", "LONGITUDE")]
        names = [f"{e.upper()}_WT" for e in order]
        if form == "lat0":
            places = [f"{a}{k}" for k in range(4) for a in ("lat", "lon")]
            names = order
        if form == "spaces":
            places = [f" {name}" for name in places]
        table = np.column_stack([corners, rows, np.full(5, 1.5)])
        # A blank row, and one that comes twice.
        table = np.vstack([np.r_[np.zeros(8), table[0, 8:]], table, table[2]])
        text = [
            ",".join([*places, *names, "chi2"]),
            *(",".join(map(repr, map(float, r))) for r in table),
        ]
        path = tmp_path / "table.csv"
        path.write_text("\n".join(text))
        with pytest.warns(
            LunarrayWarning, match=r"2 of 7 rows left out: 1 × corners .*row 0.*row 6"
        ):
            fp = sr.read_class_tracks(path)
        assert list(fp.element.values) == order
        assert fp["row"].values.tolist() == [1, 2, 3, 4, 5]
        assert fp.attrs["skipped_rows"] == 2
        np.testing.assert_allclose(fp.abundance, rows)
        assert np.isnan(fp.abundance_std).all()
        np.testing.assert_allclose(fp.corner_lat[0], [10, 10, 4, 4])
        with pytest.warns(LunarrayWarning):
            assert la.open(path).sizes["element"] == 8


class TestPopulate:
    def test_conserves_the_mean(self, store):
        # One footprint: the mean of its pixels is its abundance, whatever the classes.
        fp = tracks(1, 4, elements=ELEMENTS, length=30.0)
        done = sr.populate(store, fp, method="exact")
        assert (done.footprints, done.added, done.known) == (1, 1, 0)
        got = contents(store)
        hit = got["count"] > 0
        assert hit.sum() == 8
        np.testing.assert_allclose(
            got["abundance"][:, hit].mean(axis=1), fp.abundance.values[0], rtol=1e-6
        )
        np.testing.assert_allclose(
            got["abundance_std"][:, hit],
            fp.abundance_std.values[0][:, None].repeat(8, 1),
            rtol=1e-6,
        )
        assert got["abundance"][0][hit].std() > 0
        assert (got["provenance"][hit] == 0).all()
        assert (got["provenance"][~hit] == -1).all()
        assert np.isnan(got["abundance"][:, ~hit]).all()
        ds = sr.open_gib(store)
        assert {tuple(map(int, r)) for r in np.argwhere(ds.state.values & 4)} == set(done.regions)

    def test_missing_elements(self, store):
        fp = tracks(3, 4)
        sr.populate(store, fp)
        ds = sr.open_gib(store)
        known = np.isfinite(ds.abundance.values).any(axis=(1, 2))
        assert [e for e, k in zip(ds.element.values, known, strict=True) if k] == ["Fe", "Si", "Al", "Mg"]  # fmt: skip

    @pytest.mark.parametrize("method", ["contrast", "exact", "lagrangian"])
    def test_update_equals_starting_over(self, store, other, method):
        fp = tracks(120, 7)
        sr.populate(other, fp, method=method)
        touched = []
        for part in (slice(0, 80), slice(80, 83), slice(83, 120)):
            new = fp.isel(footprint=part)
            done = sr.populate(store, new, method=method)
            assert list(done.regions) == touched_regions(new, GRID)
            touched.append(len(done.regions))
        assert touched[1] < 8
        one, two = contents(store), contents(other)
        for name in VARIABLES:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        assert one["count"].max() > 1
        xr.testing.assert_identical(sr.gib_footprints(store), sr.gib_footprints(other))

    def test_untouched_regions_are_not_written(self, store):
        sr.populate(store, tracks(60, 7))
        before = {f: f.stat().st_mtime_ns for f in store.rglob("c/*/*") if f.is_file()}
        new = tracks(1, 8)
        done = sr.populate(store, new)
        assert 0 < len(done.regions) < 8
        after = {f: f.stat().st_mtime_ns for f in store.rglob("c/*/*") if f.is_file()}
        changed = {tuple(map(int, f.parts[-2:])) for f in before if after[f] != before[f]}
        assert changed <= set(done.regions)

    def test_the_same_again_changes_nothing(self, store):
        fp = tracks(40, 7)
        sr.populate(store, fp)
        before = contents(store)
        again = sr.populate(store, fp.isel(footprint=slice(None, None, -1)))
        assert (again.added, again.known, again.regions) == (0, 40, ())
        more = sr.populate(store, xr.concat([fp, tracks(1, 9), tracks(1, 9)], "footprint"))
        assert (more.added, more.known) == (1, 41)
        sr.populate(store)
        assert not np.array_equal(before["count"], contents(store)["count"])

    def test_interrupted_is_completed(self, store, other, monkeypatch):
        import lunarray.superres.population as module

        fp = tracks(50, 7)
        real, calls = module.write_population, []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                root, _, _, region = args[:4]
                root["populated"][region] = -1
                raise OSError(28, "No space left on device")
            real(*args, **kwargs)

        monkeypatch.setattr(module, "write_population", failing)
        with pytest.raises(StoreError, match="No space left"):
            sr.populate(store, fp)
        monkeypatch.undo()
        with pytest.raises(StoreIncompleteError, match="interrupted"):
            sr.open_gib(store)
        assert (sr.open_gib(store, incomplete=True).state.values & 4 > 0).sum() == 2
        done = sr.populate(store, fp)
        assert done.added == 0
        assert len(done.regions) == len(touched_regions(fp, GRID)) - 2
        sr.populate(other, fp)
        for name, values in contents(other).items():
            np.testing.assert_array_equal(contents(store)[name], values)

    def test_a_second_writer_is_refused(self, store, monkeypatch):
        from lunarray.superres import population

        append, refused = population.append_footprints, []

        def hooked(path, table):
            with pytest.raises(StoreLockedError):
                sr.populate(store, tracks(5, 9))
            refused.append(path)
            append(path, table)

        monkeypatch.setattr(population, "append_footprints", hooked)
        assert sr.populate(store, tracks(4, 1)).footprints == 4
        assert len(refused) == 1
        assert sr.gib_footprints(store).sizes["footprint"] == 4

    def test_other_classes_make_it_out_of_date(self, store, other):
        fp = tracks(50, 7)
        sr.populate(store, fp)
        sr.write_region(store, (0, 1), mare=np.ones(GRID.shape), overwrite=True)
        assert not (sr.open_gib(store).state.values & 4).any()
        sr.populate(store)
        sr.write_region(other, (0, 1), mare=np.ones(GRID.shape), overwrite=True)
        sr.populate(other, fp)
        for name, values in contents(other).items():
            np.testing.assert_array_equal(contents(store)[name], values)

    def test_needs_the_mare_class(self, tmp_path):
        path = tmp_path / "gib.zarr"
        sr.create_gib(path, GRID, features=2)
        fp = tracks(5, 1)
        with pytest.raises(StoreIncompleteError, match="no mare in"):
            sr.populate(path, fp)
        assert sr.gib_footprints(path).sizes["footprint"] == 0

    def test_outside_of_the_grid(self, tmp_path):
        grid = sr.GIBGrid((2, 2), (30, 30), (-20, -20, 20, 20))
        path = tmp_path / "gib.zarr"
        sr.create_gib(path, grid, features=2)
        fill_mare(path, grid)
        fp = tracks(200, 3)
        with pytest.raises(InputError, match=r"of 200 footprints lie outside of the grid"):
            sr.populate(path, fp)
        assert sr.gib_footprints(path).sizes["footprint"] == 0
        done = sr.populate(path, fp, outside="skip")
        inside = (cell_pixels(fp, grid) >= 0).any(axis=1)
        assert (done.added, done.outside) == (inside.sum(), (~inside).sum())
        assert 0 < done.added < 50
        partly = (cell_pixels(fp, grid)[inside] < 0).any(axis=1)
        assert partly.any()

    def test_over_the_pole_and_the_seam(self, store):
        fp = tracks(2).assign(
            corner_lat=(
                ("footprint", "corner"),
                [[85.0, 75.0, 75.0, 85.0], [1.0, 1.0, -1.0, -1.0]],
            ),
            corner_lon=(
                ("footprint", "corner"),
                [[-3.0, 183.0, 177.0, 3.0], [170.0, -170.0, -170.0, 170.0]],
            ),
        )
        done = sr.populate(store, fp)
        assert done.added == 2
        got = contents(store)
        polar = np.unique(np.nonzero(got["provenance"] == 0)[0])
        assert polar.min() == 0
        columns = np.nonzero(got["provenance"] == 1)[1]
        assert columns.min() == 0
        assert columns.max() == GRID.size[1] - 1

    def test_one_way_only(self, store):
        sr.populate(store, tracks(5, 1))
        for match, options in (
            ("another method", {"method": "lagrangian"}),
            ("another cells", {"cells": 4}),
            ("another expected", {"expected": {"mare": HIGHLAND, "highland": MARE}}),
        ):
            with pytest.raises(StoreConflictError, match=match):
                sr.populate(store, tracks(5, 2), **options)
        with pytest.raises(InputError, match="nothing is expected of"):
            sr.populate(store, tracks(5, 2), expected={"mare": {"Fe": 3.0}, "highland": HIGHLAND})
        odd = tracks(5, 2).assign_coords(element=["Mg", "Al", "Si", "K"])
        with pytest.raises(InputError, match="elements K are not in the store"):
            sr.populate(store, odd)

    @pytest.mark.realdata
    def test_real_tracks(self, real_data, tmp_path):
        with pytest.warns(LunarrayWarning):
            fp = sr.read_class_tracks(
                real_data / "class" / "abundance" / "class_l2_tracks.csv", errors="skip"
            )
        grid = sr.GIBGrid((2, 2), (171, 171), (-45, -22.5, 0, 22.5))
        path = tmp_path / "gib.zarr"
        sr.create_gib(path, grid, ("Mg", "Al", "Si", "Fe"), features=2)
        albedo = la.maps.open_map(real_data / "maps" / "Albedo_Map.csv.gz", chunks=None)
        sr.classify_mare(path, albedo=albedo)
        done = sr.populate(path, fp, outside="skip")
        assert done.added > 100
        ds = sr.open_gib(path)
        # Iron is richer in the maria that albedo shows, which the tracks know nothing of.
        fe = ds.abundance.sel(element="Fe").values
        mare = ds.mare.values
        assert np.nanmean(fe[mare == 1]) > np.nanmean(fe[mare == 2]) + 2
        table = sr.gib_footprints(path)
        row = int(ds.provenance.values.max())
        assert row < table.sizes["footprint"] == done.added
