"""What a network must beat: interpolations of the same populated pixels, and regressions on the same features.

Pure NumPy, SciPy and scikit-learn. Every function takes known places, unit vectors (sample, 3), or inputs (sample,
input), with their values (sample, element), and gives values (point, element) at those that are wanted; `baseline_maps`
runs them all on one region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError, needs
from lunarray.geo import RADIUS, unit_vectors

if TYPE_CHECKING:
    from lunarray.superres.regions import RegionData

#: Baselines of :func:`baseline_maps`, in the order of a table.
BASELINES = (
    "nearest footprint",
    "inverse distance",
    "ordinary kriging",
    "mare/highland mean",
    "boosted trees",
    "footprint ridge",
)


def _near(known: np.ndarray, wanted: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Chords and numbers (point, neighbour) of the nearest known places."""
    from scipy.spatial import cKDTree

    count = min(neighbours, len(known))
    distance, index = cKDTree(known).query(wanted, count)
    return distance.reshape(-1, count), index.reshape(-1, count)


def _km(chord: np.ndarray) -> np.ndarray:
    """Distance on the sphere of the ends of chords of the unit sphere."""
    return 2 * np.arcsin(np.minimum(chord / 2, 1)) * RADIUS / 1e3


def nearest(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Value of the nearest known place."""
    return values[_near(known, wanted, 1)[1][:, 0]]


def inverse_distance(
    known: np.ndarray,
    values: np.ndarray,
    wanted: np.ndarray,
    *,
    power: float = 2.0,
    neighbours: int = 32,
) -> np.ndarray:
    """Mean of the nearest known places, weighted by a power of the inverse distance (Shepard 1968)."""
    distance, index = _near(known, wanted, neighbours)
    # At a known place its value; the scale keeps powers finite.
    weight = 1 / np.maximum(distance / max(distance.max(), 1e-12), 1e-9) ** power
    return np.einsum("pk,pke->pe", weight / weight.sum(axis=1, keepdims=True), values[index])


def fit_variogram(
    known: np.ndarray, values: np.ndarray, *, bins: int = 20
) -> tuple[float, float, float]:
    """Exponential variogram nugget + sill (1 − exp(−d/range)) of one element (sample,), by weighted least squares.

    Gives nugget and sill (squared units of `values`) and the range (km). There are so many `bins` of the distance up to
    half of the largest. Cressie, N. (1985). Fitting variogram models by weighted least squares. Math. Geol. 17,
    563-586.
    """
    from scipy.optimize import least_squares
    from scipy.spatial.distance import pdist

    distance = _km(pdist(known))
    half = pdist(values[:, None], "sqeuclidean") / 2
    top = distance.max() / 2
    edges = np.linspace(0, top, bins + 1)
    number = np.digitize(distance, edges) - 1
    inside = (number >= 0) & (number < bins)
    count = np.bincount(number[inside], minlength=bins)
    good = count > 0
    lag = np.bincount(number[inside], distance[inside], bins)[good] / count[good]
    gamma = np.bincount(number[inside], half[inside], bins)[good] / count[good]
    level = max(float(values.var()), 1e-12)
    if good.sum() < 3:
        return 0.1 * level, level, max(top / 3, 1.0)

    def model(p: np.ndarray) -> np.ndarray:
        return p[0] + p[1] * (1 - np.exp(-lag / p[2]))

    def misfit(p: np.ndarray) -> np.ndarray:
        return np.sqrt(count[good]) * (gamma - model(p)) / level

    bounds = ([0, 1e-6 * level, top / 200], [10 * level, 20 * level, 3 * top])
    nugget, sill, length = least_squares(
        misfit, [0.1 * level, level, top / 4], bounds=bounds
    ).x.tolist()
    return nugget, sill, length


def ordinary_kriging(
    known: np.ndarray,
    values: np.ndarray,
    wanted: np.ndarray,
    *,
    subset: int = 1500,
    neighbours: int = 32,
    seed: int = 0,
) -> np.ndarray:
    """Ordinary kriging of each element with an exponential variogram, from the nearest known places.

    At most `subset` known places are used, drawn at random. Cressie, N. (1993). Statistics for Spatial Data, section
    3.2.
    """
    if len(known) > subset:
        keep = np.sort(np.random.default_rng(seed).choice(len(known), subset, replace=False))
        known, values = known[keep], values[keep]
    distance, index = _near(known, wanted, neighbours)
    count = index.shape[1]
    result = np.empty((len(wanted), values.shape[1]))
    models = [fit_variogram(known, values[:, e]) for e in range(values.shape[1])]
    for start in range(0, len(wanted), 4096):
        part = slice(start, start + 4096)
        near = known[index[part]]
        gap = _km(np.linalg.norm(near[:, :, None] - near[:, None], axis=-1))
        away = _km(distance[part])
        for e, (nugget, sill, length) in enumerate(models):
            system = np.ones((len(near), count + 1, count + 1))
            system[:, :count, :count] = sill * np.exp(-gap / length)
            diagonal = np.arange(count)
            # The nugget is error of measurement here: the surface itself is predicted, without it.
            system[:, diagonal, diagonal] += nugget + 1e-9 * sill
            system[:, count, count] = 0
            right = np.ones((len(near), count + 1, 1))
            right[:, :count, 0] = sill * np.exp(-away / length)
            weight = np.linalg.solve(system, right)[:, :count, 0]
            result[part, e] = np.sum(weight * values[index[part], e], axis=1)
    return result


def class_mean(classes: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean of the known values of each class (1 mare, 2 highland); of all where a class has none."""
    result = np.broadcast_to(values.mean(axis=0), (len(wanted), values.shape[1])).copy()
    for kind in (1, 2):
        own = classes == kind
        if own.any():
            result[wanted == kind] = values[own].mean(axis=0)
    return result


def boosted_trees(
    x: np.ndarray, values: np.ndarray, wanted: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    """Gradient-boosted trees of each element on the same inputs as the network.

    Friedman, J. (2001). Greedy function approximation: a gradient boosting machine. Ann. Stat. 29, 1189-1232.
    """
    with needs("sklearn", "the baseline of boosted trees"):
        from sklearn.ensemble import HistGradientBoostingRegressor

    columns = []
    for e in range(values.shape[1]):
        model = HistGradientBoostingRegressor(
            learning_rate=0.06, max_iter=150, min_samples_leaf=10, l2_regularization=1.0,
            max_features=0.3, random_state=seed,
        )  # fmt: skip
        columns.append(model.fit(x, values[:, e]).predict(wanted))
    return np.stack(columns, axis=1)


def baseline_maps(
    data: RegionData, names: Sequence[str] = BASELINES, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Map one region by each of the simpler methods.

    Parameters
    ----------
    data : RegionData
        The region, as the network gets it.
    names : sequence of str
        Which, of :data:`BASELINES`. All but two take the populated pixels for points. "nearest footprint" takes what
        the nearest footprint measured. "footprint ridge" regresses what footprints measured on the mean inputs over
        them, in closed form: the linear trend that a network may add to.
    seed : int
        Of what is random in them.

    Returns
    -------
    dict of ndarray, (element, row, column), float32
        wt%.

    Raises
    ------
    InputError
        If a name is unknown, or no pixel is populated.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> from lunarray.superres.regions import region_data
    >>> data = region_data(sr.open_gib("bank.zarr"), (0, 0))
    >>> maps = sr.baseline_maps(data, ["nearest footprint"])
    >>> maps["nearest footprint"].shape
    (8, 20, 30)
    """
    from lunarray.superres.settings import TrainSettings
    from lunarray.superres.subgraphs import input_planes
    from lunarray.superres.trend import fit_scaling

    unknown = set(names) - set(BASELINES)
    if unknown:
        raise InputError(
            f"no baseline {', '.join(sorted(unknown))}",
            where="baseline_maps",
            remedy=f"Choose from {', '.join(BASELINES)}",
        )
    count, rows, columns = data.abundance.shape
    flat = data.abundance.reshape(count, -1).T.astype(np.float64)
    known = np.isfinite(flat).all(axis=1)
    if not known.any():
        raise InputError(
            "no populated pixel", where=f"region {data.region}", remedy="Populate the region"
        )
    scaling, _ = fit_scaling(data, TrainSettings.footprint_aware())
    x = input_planes(data, scaling)[0].reshape(rows * columns, -1)
    lat, lon = (v.ravel() for v in np.meshgrid(data.lat, data.lon, indexing="ij"))
    places = unit_vectors(lon, lat)
    classes, values = data.mare.ravel(), flat[known]
    at, support = places[known], data.support
    seen = (at, values)
    if support.count:
        measured = support.measured[support.footprint]
        good = np.isfinite(measured).all(axis=1)
        seen = (places[support.pixel[good]], measured[good])
    ways: dict[str, Callable[[], np.ndarray]] = {
        "nearest footprint": lambda: nearest(*seen, places),
        "inverse distance": lambda: inverse_distance(at, values, places),
        "ordinary kriging": lambda: ordinary_kriging(at, values, places, seed=seed),
        "mare/highland mean": lambda: class_mean(classes[known], values, classes),
        "boosted trees": lambda: boosted_trees(x[known], values, x, seed=seed),
        "footprint ridge": lambda: scaling.mean + x @ scaling.trend,
    }
    return {n: ways[n]().T.reshape(count, rows, columns).astype(np.float32) for n in names}
