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
from lunarray.superres.areal_mixing import Closure, Mixing

#: Pixels that are predicted at a time at most, and pixels times footprints.
_CHUNK, _ENTRIES = 8192, 3_000_000
#: Footprints up to which strengths are summed over in a prediction: more of them leave no doubt about these.
_FEW = 300


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

    Examples
    --------
    >>> import lunarray as la
    >>> la.superres.ArealSettings(lengths=(300.0, 50.0)).lengths
    (300.0, 50.0)
    """

    lengths: tuple[float, ...] = (600.0, 150.0, 25.0)
    waves: int = 384
    width: float = 0.75
    closure: bool = True
    stoichiometry: bool = True
    shrink: bool = True
    near: int = 400
    evidence: int = 600
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
class Member:
    """One way to make elements of independent components, and what is known of these.

    `values` (footprint, component) are what footprints say, whitened and rotated by `mixing`. For each component there
    are some sets of strengths: `logs` (component, set, kernel + 2), likeliest first, with `weights` (component, set),
    which sum to 1. `flat` (component,) is the prior variance of the constant.
    """

    mixing: Mixing
    values: np.ndarray
    logs: np.ndarray
    weights: np.ndarray
    flat: np.ndarray

    def sets(self, component: int, few: bool) -> list[tuple[float, np.ndarray]]:
        """Weights and strengths that count; of many footprints the likeliest says it all."""
        weights, logs = self.weights[component], self.logs[component]
        chosen = np.flatnonzero(weights >= 0.02) if few else np.zeros(1, np.intp)
        total = weights[chosen].sum()
        return [(weights[i] / total, logs[i]) for i in chosen]


@dataclass
class ArealModel:
    """A fitted areal Gaussian process of `elements`; how to make one is in :mod:`lunarray.superres.areal_fit`.

    Its `members` are ways to part elements into components. A map is the mean of what they say, with `share` (member,
    element) by how well each predicts tracks that it has not seen, and then of the sums that `closure` knows. `scale`
    (footprint,) is how many units the errors of footprints are. `factor` (element,) is what standard deviations are
    multiplied by so that they hold on tracks that were held out. `card` says what it was made of and how well it did.
    """

    elements: tuple[str, ...]
    settings: ArealSettings
    basis: Basis
    footprints: Footprints
    scale: np.ndarray
    members: tuple[Member, ...]
    share: np.ndarray
    closure: Closure
    factor: np.ndarray
    card: dict[str, Any] = field(default_factory=dict)
    _blocks: Any = None

    # --- parts of a prediction ---

    def prior(self, flat: float, logs: np.ndarray) -> np.ndarray:
        """Variance of each weight: constant, slopes, cosines."""
        linear = self.basis.linear
        waves = self.footprints.design.shape[1] - linear
        return np.concatenate(
            [[flat], np.full(linear, np.exp(logs[0])), np.full(waves, np.exp(logs[1]))]
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
        if len(self.footprints) <= self.settings.near:
            return np.arange(len(self.footprints))
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
        near = self.near(points[1].mean(axis=1) if isinstance(points, tuple) else points)
        own = self.footprints.take(near)
        fine, coarse = own.lattices()
        lengths = np.array(self.settings.lengths)
        grams = self._grams(own.design, own.design, gram(fine, coarse, lengths))
        systems = [
            [s for k in range(len(m.flat)) for s in self._systems(m, k, near, grams)]
            for m in self.members
        ]
        mean = np.empty((len(design), len(self.elements)))
        variance = np.empty_like(mean)
        step = int(np.clip(_ENTRIES // max(len(near), 1), 128, _CHUNK))
        for start in range(0, len(design), step):
            part = slice(start, start + step)
            if isinstance(points, tuple):
                theirs = tuple(p[part] for p in points)
                fields_ = np.swapaxes(gram(fine, coarse, lengths, theirs), 1, 2)
                selves = np.stack([np.diag(g) for g in gram(theirs[0], theirs[1], lengths)])
            else:
                fields_ = cross(points[part], fine, coarse, lengths)
                selves = np.ones((len(lengths), len(points[part])))
            here = design[part]
            place = _Place(
                _with_one(here),
                self._grams(here, own.design, fields_),
                np.concatenate([self._squares(here), selves]),
            )
            mean[part], variance[part] = self._of_members(systems, place, not areal)
        return mean, variance * self.factor**2

    def _of_members(
        self, systems: list[list[_System]], place: _Place, positive: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the members say of places, together: mean and variance (place, element)."""
        found = []
        for member, own in zip(self.members, systems, strict=True):
            first = np.zeros((len(place.design), len(member.flat)))
            second, width = np.zeros_like(first), np.zeros_like(first)
            for system in own:
                m, v = system.predict(place)
                k = system.component
                m = m - member.mixing.centre[k]
                first[:, k] += system.weight * m
                second[:, k] += system.weight * m**2
                # Strengths that are not likely have large variances: their mean would be wider than two thirds of
                # the distribution, which a mean of logarithms is about.
                width[:, k] += system.weight * np.log(np.maximum(v, 1e-9))
            variance = np.exp(width) + np.maximum(second - first**2, 0)
            said = member.mixing.restore(first, variance)
            found.append(member.mixing.closed(*said, self.closure.sums, self.closure.totals))
        mean, variance = joined(found, self.share)
        mean = self.closure.held(mean)
        return (self.closure.positive(mean) if positive else mean), variance

    def _grams(self, here: np.ndarray, there: np.ndarray, fields_: np.ndarray) -> np.ndarray:
        """Covariances of unit strength (kernel, place, other): linear, smooth, fields."""
        cut = self.basis.linear
        parts = [here[:, :cut] @ there[:, :cut].T, here[:, cut:] @ there[:, cut:].T]
        return np.concatenate([np.stack(parts), fields_])

    def _squares(self, here: np.ndarray) -> np.ndarray:
        """Variances of unit strength (kernel, place) of the first two kernels."""
        cut = self.basis.linear
        return np.stack([(p**2).sum(axis=1) for p in (here[:, :cut], here[:, cut:])])

    def _systems(
        self, member: Member, component: int, near: np.ndarray, grams: np.ndarray
    ) -> Iterator[_System]:
        """What a component says at places near some footprints, for each set of strengths."""
        every = len(near) == len(self.footprints)
        values, flat = member.values[near, component], member.flat[component]
        for weight, logs in member.sets(component, every and len(near) <= _FEW):
            strength = np.exp(logs[:-2])
            noise = self.noise(near, logs)
            if every:
                total = flat + np.tensordot(strength, grams, axes=1) + noise
                inverse = _inverse_lower(root_of(total))
                alpha = inverse.T @ (inverse @ values)
                yield _System(component, weight, strength, flat, inverse, alpha)
                continue
            root, shift = self._weights_of_far(member, component, near, logs)
            own = _with_one(self.footprints.design[near])
            rooted = own @ root
            total = rooted @ rooted.T + np.tensordot(strength[2:], grams[2:], axes=1) + noise
            inverse = _inverse_lower(root_of(total))
            alpha = inverse.T @ (inverse @ (values - own @ shift))
            far = root, shift, root @ rooted.T
            yield _System(component, weight, strength, flat, inverse, alpha, far)

    def _weights_of_far(
        self, member: Member, component: int, near: np.ndarray, logs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Root of the covariance, and mean, of the weights as the footprints that are not near tell them."""
        information, vector = self._information(member, component)
        information, vector = information.copy(), vector.copy()
        inside = np.zeros(len(self.footprints), bool)
        inside[near] = True
        for block in self.blocks()[0]:
            if inside[block[0]]:
                a, b = self.block_information(member, component, block, logs)
                information -= a
                vector -= b
        information[np.diag_indices_from(information)] += 1 / self.prior(
            member.flat[component], logs
        )
        # Of the inverse: J = L Lᵀ, so that J⁻¹ = L⁻ᵀ L⁻¹.
        root = _inverse_lower(root_of(information)).T
        return root, root @ (root.T @ vector)

    def _information(self, member: Member, component: int) -> tuple[np.ndarray, np.ndarray]:
        """What all footprints say of the weights, blocks being independent; kept."""
        kept = self.__dict__.setdefault("_kept", {})
        key = id(member), component
        if key not in kept:
            logs = member.logs[component][0]
            parts = [self.block_information(member, component, b, logs) for b in self.blocks()[0]]
            kept[key] = sum(p[0] for p in parts), sum(p[1] for p in parts)
        return kept[key]

    def block_information(
        self, member: Member, component: int, block: np.ndarray, logs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a block of footprints says of the weights: information matrix and vector."""
        own = self.footprints.take(block)
        fields_ = gram(*own.lattices(), np.array(self.settings.lengths))
        total = np.tensordot(np.exp(logs[2:-2]), fields_, axes=1) + self.noise(block, logs)
        inverse = _inverse_lower(root_of(total))
        left = inverse @ _with_one(own.design)
        return left.T @ left, left.T @ (inverse @ member.values[block, component])


def joined(
    found: list[tuple[np.ndarray, np.ndarray]], share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (place, element) of what members say, in shares (member, element).

    They speak of the same data, so the variance is that of a logarithmic opinion pool (Genest & Zidek 1986, Stat. Sci.
    1, 114), which weighs inverse variances, and by how much they disagree.
    """
    mean = np.asarray(sum(w * m for w, (m, _) in zip(share, found, strict=True)))
    told = np.asarray(sum(w / np.maximum(v, 1e-12) for w, (_, v) in zip(share, found, strict=True)))
    apart = np.asarray(sum(w * (m - mean) ** 2 for w, (m, _) in zip(share, found, strict=True)))
    return mean, 1 / told + apart


@dataclass(frozen=True)
class _Place:
    """Places: design with a one (place, column), covariances with footprints (kernel, place, footprint), and variances
    (kernel, place), of unit strength.
    """

    design: np.ndarray
    grams: np.ndarray
    selves: np.ndarray


@dataclass(frozen=True)
class _System:
    """One component near some footprints, solved for one set of strengths.

    `far` are root of the covariance and mean of the weights, as footprints that are not near tell them, and the
    covariance of the weights with the footprints near.
    """

    component: int
    weight: float
    strength: np.ndarray
    flat: float
    inverse: np.ndarray
    alpha: np.ndarray
    far: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def predict(self, place: _Place) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance at places."""
        if self.far is None:
            covariance = np.tensordot(self.strength, place.grams, axes=1) + self.flat
            mean = covariance @ self.alpha
            variance = self.strength @ place.selves + self.flat
        else:
            root, shift, weights = self.far
            covariance = place.design @ weights
            covariance += np.tensordot(self.strength[2:], place.grams[2:], axes=1)
            mean = place.design @ shift + covariance @ self.alpha
            variance = ((place.design @ root) ** 2).sum(axis=1)
            variance += self.strength[2:] @ place.selves[2:]
        return mean, variance - ((covariance @ self.inverse.T) ** 2).sum(axis=1)


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
