"""An areal Gaussian process: element maps from footprints that are taken as what they are, means over an area.

Abundances z(x) are a constant, linear in the covariates of a pixel, a smooth function of them, and fields on the sphere
of several lengths; a footprint measures the mean of z over its own pixels, with an error of its own and one that its
track shares. Elements are whitened by their errors and rotated to components that are independent (the orthogonal
mixing of Bruinsma et al. 2020); what is known of their sums is taken out first, so that errors of one element do not
wander into another. Strengths follow from the evidence (:mod:`lunarray.superres.areal_evidence`).

The weights of constant, slopes and smooth functions are the same everywhere: a global mean, known from all footprints.
Fields are local: a prediction takes the footprints near it exactly, and all others by what they say of the weights.
That is the partially independent conditional of Snelson & Ghahramani (2007) with weights for inducing variables.
Inducing points on the sphere would have to lie as closely as the shortest field is long, ten thousands of them, and
Vecchia's neighbours change from pixel to pixel, which would be seen as seams. The cost is that of the near footprints,
whatever their number in all.

References
----------
Bruinsma, W., et al. (2020). Scalable exact inference in multi-output Gaussian processes. ICML. Snelson, E., &
Ghahramani, Z. (2007). Local and global sparse Gaussian process approximations. AISTATS. Gotway, C., & Young, L. (2002).
Combining incompatible spatial data. J. Am. Stat. Assoc. 97, 632-648 (change of support).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.areal_kernels import COARSE, FINE, cross, gram, lattice, root_of
from lunarray.superres.areal_mixing import Mixing

#: Pixels that are predicted at a time.
_CHUNK = 8192


@dataclass(frozen=True, kw_only=True)
class ArealSettings:
    """How an areal Gaussian process is made.

    Attributes
    ----------
    lengths : tuple of float
        Of the fields on the sphere, km.
    waves : int
        Cosines that the smooth function of the covariates is made of (random Fourier features; 0 for none).
    width : float
        Length of that function, in standard deviations of all covariates together.
    closure : bool
        Where all elements of :data:`lunarray.xrf.ELEMENTS` are there: abundances sum to 100 wt%, exactly.
    stoichiometry : bool
        There also: oxygen is that of the oxides, where the footprints do not say otherwise.
    shrink : bool
        Whether an element's share in a component counts only as far as it is seen.
    near : int
        Footprints that a prediction takes exactly, at most.
    evidence : int
        Footprints that strengths are found from, at most; whole tracks.
    seed : int
        Of the cosines, and of the tracks for the strengths.
    """

    lengths: tuple[float, ...] = (600.0, 150.0, 25.0)
    waves: int = 384
    width: float = 0.75
    closure: bool = True
    stoichiometry: bool = True
    shrink: bool = True
    near: int = 1200
    evidence: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.width, self.near, self.evidence, *self.lengths)
        if min(numbers) <= 0 or self.waves < 0 or self.seed < 0 or not self.lengths:
            raise InputError(
                f"settings that make no sense: {self}",
                where="ArealSettings",
                remedy="Give positive lengths, width and numbers of footprints",
            )

    def to_json(self) -> str:
        """The settings as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ArealSettings:
        """Undo :meth:`to_json`."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in json.loads(text).items() if k in known}
        return cls(**values | {"lengths": tuple(values["lengths"])})


@dataclass(frozen=True)
class Basis:
    """What a pixel's covariates become: standardised, and cosines of them; all float64.

    `mean` and `std` (feature,) are those of the surface; `directions` (feature + 1, wave) and `phases` (wave,).
    """

    mean: np.ndarray
    std: np.ndarray
    directions: np.ndarray
    phases: np.ndarray

    @classmethod
    def drawn(cls, mean: np.ndarray, std: np.ndarray, settings: ArealSettings) -> Basis:
        """The basis of features of so much mean and spread."""
        rng = np.random.default_rng([settings.seed, 77])
        count = len(mean) + 1
        directions = rng.standard_normal((count, settings.waves)) / (
            settings.width * np.sqrt(count)
        )
        phases = rng.uniform(0, 2 * np.pi, settings.waves)
        low = 1e-6 * np.maximum(np.abs(mean), 1e-6)
        return cls(mean, np.where(std > low, std, 1.0), directions, phases)

    def of(self, features: np.ndarray, mare: np.ndarray) -> np.ndarray:
        """Covariates and cosines (pixel, feature + 1 + wave) of pixels: features (pixel, feature), `mare` 0, 1 or 2.

        NaN where features are.
        """
        x = np.empty((len(features), len(self.mean) + 1))
        # A wild feature (a seam in the base map, a saturated pixel) must not throw its neighbourhood off.
        x[:, :-1] = np.clip((features - self.mean) / self.std, -8, 8)
        x[:, -1] = np.choose(np.clip(mare, 0, 2).astype(np.intp), (0.0, 1.0, -1.0))
        waves = self.directions.shape[1]
        out = np.empty((len(x), x.shape[1] + waves))
        out[:, : x.shape[1]] = x / np.sqrt(x.shape[1])
        if waves:
            out[:, x.shape[1] :] = np.sqrt(2 / waves) * np.cos(x @ self.directions + self.phases)
        return out

    @property
    def linear(self) -> int:
        """How many columns are covariates."""
        return len(self.mean) + 1


@dataclass(frozen=True)
class Footprints:
    """Footprints as a model takes them.

    `design` (footprint, column) are means over them of what :class:`Basis` gives; `corner_lat`, `corner_lon`
    (footprint, 4) degrees; `track` (footprint,) int64. `measured` and `error` (footprint, element), wt%, may hold NaN.
    """

    design: np.ndarray
    corner_lat: np.ndarray
    corner_lon: np.ndarray
    track: np.ndarray
    measured: np.ndarray
    error: np.ndarray

    def __len__(self) -> int:
        return len(self.design)

    def take(self, index: np.ndarray) -> Footprints:
        """Some of them."""
        return Footprints(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def lattices(self) -> tuple[np.ndarray, np.ndarray]:
        """Points that stand for their areas, fine and coarse, km."""
        corners = self.corner_lat, self.corner_lon
        return lattice(*corners, FINE), lattice(*corners, COARSE)


@dataclass
class ArealModel:
    """A fitted areal Gaussian process of `elements`; how to make one is in :mod:`lunarray.superres.areal_fit`.

    `values` (footprint, component) and `scale` (footprint,) are what the footprints say, whitened and rotated by
    `mixing`. For each component there are some sets of strengths: `logs` (component, set, kernel + 2) with `weights`
    (component, set), which sum to 1. `centre` (component,) is the level of the footprints, `flat` the prior variance of
    the constant. `factor` (element,) is what standard deviations are multiplied by so that they hold on tracks that
    were held out. `card` says what it was made of and how well it did.
    """

    elements: tuple[str, ...]
    settings: ArealSettings
    basis: Basis
    footprints: Footprints
    mixing: Mixing
    values: np.ndarray
    scale: np.ndarray
    logs: np.ndarray
    weights: np.ndarray
    centre: np.ndarray
    flat: np.ndarray
    factor: np.ndarray
    card: dict[str, Any] = field(default_factory=dict)
    _blocks: Any = None

    # --- parts of a prediction ---

    def prior(self, component: int, logs: np.ndarray) -> np.ndarray:
        """Variance of each weight: constant, slopes, cosines."""
        linear = self.basis.linear
        waves = self.footprints.design.shape[1] - linear
        return np.concatenate(
            [
                [self.flat[component]],
                np.full(linear, np.exp(logs[0])),
                np.full(waves, np.exp(logs[1])),
            ]
        )

    def noise(self, index: np.ndarray, logs: np.ndarray) -> np.ndarray:
        """Covariance of the errors of some footprints."""
        track = self.footprints.track[index]
        errors = np.exp(logs[-2]) * (track[:, None] == track)
        errors[np.diag_indices_from(errors)] += np.exp(logs[-1]) * self.scale[index] ** 2 + 1e-8
        return errors

    def near(self, points: np.ndarray) -> np.ndarray:
        """Numbers of the footprints that a prediction at points (point, 3), km, takes exactly: whole blocks of them."""
        blocks, _, nearest = self.blocks()
        if len(self.values) <= self.settings.near:
            return np.arange(len(self.values))
        from scipy.spatial import cKDTree

        gap = cKDTree(points).query(nearest)[0]
        away = np.array([gap[b].min() for b in blocks])
        # Fields that are much longer than the others are known there from the weights.
        lengths = sorted(self.settings.lengths)
        reach = 3 * lengths[len(lengths) // 2]
        taken: list[np.ndarray] = []
        count = 0
        for number in np.argsort(away, kind="stable"):
            count += len(blocks[number])
            if taken and (count > self.settings.near or away[number] > reach):
                break
            taken.append(blocks[number])
        return np.sort(np.concatenate(taken))

    def _gram(self, footprints: Footprints) -> np.ndarray:
        fine, coarse = footprints.lattices()
        return gram(fine, coarse, np.array(self.settings.lengths))

    def blocks(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Footprints in blocks of neighbours, the middles of blocks and of footprints, km."""
        if self._blocks is None:
            middle = self.footprints.lattices()[1].mean(axis=1)
            size = max(1, min(128, self.settings.near // 8))
            blocks = list(halves(np.arange(len(middle)), middle, size))
            self._blocks = blocks, np.array([middle[b].mean(axis=0) for b in blocks]), middle
        return self._blocks

    def predict(
        self, design: Any, points: np.ndarray | tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict pixels, or means over areas.

        `design` (place, column) is of :class:`Basis`; `points` (place, 3), km, or the lattices of areas. Gives mean
        and variance (place, element), wt%.
        """
        areal = isinstance(points, tuple)
        where = points[1].mean(axis=1) if isinstance(points, tuple) else points
        near = self.near(where)
        own = self.footprints.take(near)
        fine, coarse = own.lattices()
        lengths = np.array(self.settings.lengths)
        grams = gram(fine, coarse, lengths)
        systems = [self._system(k, near, grams) for k in range(len(self.centre))]
        mean = np.empty((len(design), len(self.elements)))
        variance = np.empty_like(mean)
        for start in range(0, len(design), _CHUNK):
            part = slice(start, start + _CHUNK)
            if isinstance(points, tuple):
                theirs = tuple(p[part] for p in points)
                fields_ = np.swapaxes(gram(fine, coarse, lengths, theirs), 1, 2)
                selves = np.stack([np.diag(g) for g in gram(theirs[0], theirs[1], lengths)], axis=1)
            else:
                fields_ = cross(points[part], fine, coarse, lengths)
                selves = np.ones((len(points[part]), len(lengths)))
            found = [s.predict(design[part], own.design, fields_, selves) for s in systems]
            m, v = (np.stack(a, axis=1) for a in zip(*found, strict=True))
            mean[part], variance[part] = self.mixing.restore(m, v, closed=not areal)
        return mean, variance * self.factor**2

    def _system(self, component: int, near: np.ndarray, grams: np.ndarray) -> _System:
        """What a component says at places near some footprints."""
        sets = self.logs[component] if len(near) == len(self.values) else self.logs[component][:1]
        weights = self.weights[component] if len(sets) > 1 else np.ones(1)
        parts = []
        for logs, weight in zip(sets, weights, strict=True):
            if weight < 0.02:
                continue
            root, shift = self._weights_of_far(component, near, logs)
            strength = np.exp(logs[2:-2])
            own = _with_one(self.footprints.design[near])
            rooted = own * root if root.ndim == 1 else own @ root
            total = (
                rooted @ rooted.T + np.tensordot(strength, grams, axes=1) + self.noise(near, logs)
            )
            lower = root_of(total)
            inverse = _inverse_lower(lower)
            rest = self.values[near, component] - own @ shift
            alpha = inverse.T @ (inverse @ rest)
            parts.append((weight, root, shift, strength, rooted, inverse, alpha))
        total_weight = sum(p[0] for p in parts)
        return _System([(p[0] / total_weight, *p[1:]) for p in parts], self.centre[component])

    def _weights_of_far(
        self, component: int, near: np.ndarray, logs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Root of the covariance, and mean, of the weights as the footprints that are not near tell them."""
        prior = self.prior(component, logs)
        if len(near) == len(self.values):
            return np.sqrt(prior), np.zeros(len(prior))
        information, vector = self._information(component)
        information, vector = information.copy(), vector.copy()
        inside = np.zeros(len(self.values), bool)
        inside[near] = True
        for block in self.blocks()[0]:
            if inside[block[0]]:
                a, b = self.block_information(component, block, logs)
                information -= a
                vector -= b
        information[np.diag_indices_from(information)] += 1 / prior
        lower = root_of(information)
        # Of the inverse: J = L Lᵀ, so that J⁻¹ = L⁻ᵀ L⁻¹.
        root = _inverse_lower(lower).T
        return root, root @ (root.T @ vector)

    def _information(self, component: int) -> tuple[np.ndarray, np.ndarray]:
        """What all footprints say of the weights, blocks being independent; kept."""
        kept = self.__dict__.setdefault("_kept", {})
        if component not in kept:
            logs = self.logs[component][0]
            parts = [self.block_information(component, b, logs) for b in self.blocks()[0]]
            kept[component] = sum(p[0] for p in parts), sum(p[1] for p in parts)
        return kept[component]

    def block_information(
        self, component: int, block: np.ndarray, logs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a block of footprints says of the weights: information matrix and vector."""
        own = self.footprints.take(block)
        grams = self._gram(own)
        total = np.tensordot(np.exp(logs[2:-2]), grams, axes=1) + self.noise(block, logs)
        inverse = _inverse_lower(root_of(total))
        left = inverse @ _with_one(own.design)
        return left.T @ left, left.T @ (inverse @ self.values[block, component])


@dataclass(frozen=True)
class _System:
    """One component near some footprints, solved; `parts` for each set of strengths."""

    parts: list[tuple[Any, ...]]
    centre: float

    def predict(
        self, design: np.ndarray, own: np.ndarray, fields_: np.ndarray, selves: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean less the centre, and variance, at places; `fields_` are covariances with the footprints."""
        x = _with_one(design)
        first = np.zeros(len(x))
        second = np.zeros(len(x))
        for weight, root, shift, strength, rooted, inverse, alpha in self.parts:
            here = x * root if root.ndim == 1 else x @ root
            covariance = here @ rooted.T + np.tensordot(strength, fields_, axes=1)
            mean = x @ shift + covariance @ alpha - self.centre
            variance = (here**2).sum(axis=1) + selves @ strength
            variance -= ((covariance @ inverse.T) ** 2).sum(axis=1)
            first += weight * mean
            second += weight * (np.maximum(variance, 1e-9) + mean**2)
        return first, np.maximum(second - first**2, 1e-9)


def _with_one(design: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(design)), design])


def _inverse_lower(lower: np.ndarray) -> np.ndarray:
    from scipy.linalg import solve_triangular

    return solve_triangular(lower, np.eye(len(lower)), lower=True)


def halves(index: np.ndarray, points: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Divide points (point, 3) into compact blocks of `size` at most, by halves along the widest axis."""
    if len(index) <= size:
        yield index
        return
    axis = int(np.argmax(np.ptp(points[index], axis=0)))
    order = index[np.argsort(points[index, axis], kind="stable")]
    middle = len(order) // 2
    yield from halves(order[:middle], points, size)
    yield from halves(order[middle:], points, size)
