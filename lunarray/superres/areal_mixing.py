"""From elements to independent components and back: whitening by errors, what sums are known, and what is seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Oxygen that comes with a gram of each cation, as the oxides of :mod:`lunarray.oxides` have it (and Na2O), wt/wt.
_OXYGEN = {
    "Fe": 0.2865, "Ti": 0.6683, "Ca": 0.3992, "Si": 1.1392, "Al": 0.8895, "Mg": 0.6583, "Na": 0.3480, "O": -1.0,
}  # fmt: skip


def known_sums(
    elements: tuple[str, ...],
    measured: np.ndarray,
    error: np.ndarray,
    *,
    closure: bool,
    stoichiometry: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over elements that are known: weights (sum, element) and values (sum,); none where elements are missing.

    The first is that of all, 100 wt%; the second that oxygen is what the oxides hold. That holds on the Moon to half a
    percent, but not in tables whose oxygen was fixed: it is taken only where the footprints agree with it, on average
    within three of their errors.
    """
    if not closure or set(elements) != set(_OXYGEN):
        return np.zeros((0, len(elements))), np.zeros(0)
    rows = [np.ones(len(elements))]
    balance = np.array([_OXYGEN[e] for e in elements])
    if stoichiometry:
        off = measured @ balance
        own = np.sqrt(np.maximum(error, 1e-6) ** 2 @ balance**2)
        good = np.isfinite(off) & np.isfinite(own)
        if good.sum() >= 3:
            # Whole tracks share errors: what is common to a few footprints counts as one.
            scatter = max(float(np.std(off[good])), float(np.median(own[good])), 0.5)
            within = abs(float(np.mean(off[good]))) < 3 * scatter / np.sqrt(good.sum() / 4) + 0.5
            varies = float(np.std(measured[good, elements.index("O")])) > 1e-3
            if within and varies:
                rows.append(balance)
    return np.stack(rows), np.array([100.0, 0.0])[: len(rows)]


@dataclass
class Mixing:
    """How elements are made of components, and the other way round.

    Elements are ``base + unit × (loading @ components)``: `base` and `unit` (element,) wt%, `loading` (element,
    component). `seen` (element, component) is how far a share counts, 0 to 1: it is an estimate with an error, and what
    is below the error would only carry the component's noise into the element. `unsure` (element, component) is the
    variance of a loading, `centre` and `level` (component,) are the components' level at the footprints and its
    variance.
    """

    base: np.ndarray
    unit: np.ndarray
    loading: np.ndarray
    seen: np.ndarray
    unsure: np.ndarray
    centre: np.ndarray
    level: np.ndarray

    @classmethod
    def found(
        cls,
        measured: np.ndarray,
        scale: np.ndarray,
        unit: np.ndarray,
        sums: np.ndarray,
        totals: np.ndarray,
    ) -> Mixing:
        """The mixing of footprints (footprint, element) without gaps, whose errors are `scale` times `unit`."""
        mean = np.average(measured, axis=0, weights=1 / scale**2)
        whitened = sums * unit
        if len(sums):
            base = mean + unit * (np.linalg.pinv(whitened) @ (totals - sums @ mean))
            free = np.linalg.svd(whitened)[2][len(sums) :].T
        else:
            base, free = mean, np.eye(len(unit))
        at = ((measured - base) / unit) @ free / scale[:, None]
        vectors = np.linalg.eigh(at.T @ at / len(at))[1][:, ::-1]
        loading = free @ vectors
        # The sign of an eigenvector is the library's whim.
        loading = loading * np.sign(
            loading[np.abs(loading).argmax(axis=0), np.arange(loading.shape[1])]
        )
        return cls.of(base, unit, loading)

    @classmethod
    def of(cls, base: np.ndarray, unit: np.ndarray, loading: np.ndarray) -> Mixing:
        """The mixing of such loadings, all of which are seen."""
        blank = np.zeros(loading.shape[1])
        return cls(base, unit, loading, np.ones_like(loading), 0 * loading, blank, blank)

    def components(self, measured: np.ndarray) -> np.ndarray:
        """Components (footprint, component) of footprints (footprint, element)."""
        return ((measured - self.base) / self.unit) @ self.loading

    def restore(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Elements of components (place, component), less their centre: mean and variance (place, element), wt%."""
        shares = self.seen * self.loading
        out = self.base + self.unit * (self.loading @ self.centre) + (mean @ shares.T) * self.unit
        # What is too weak to count in the mean is there all the same.
        own = (
            self.loading**2 @ self.level
            + np.maximum(variance - self.level, 0) @ (self.loading**2).T
        )
        own += mean**2 @ self.unsure.T
        return out, own * self.unit**2

    def closed(
        self, mean: np.ndarray, variance: np.ndarray, sums: np.ndarray, totals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (place, element) given the sums that are known, where elements are independent.

        Components that are shared hold the sums by themselves.
        """
        if not len(sums) or not np.array_equal(self.loading, np.eye(len(self.unit))):
            return mean, variance
        return _conditioned(mean, variance, sums, totals)

    def errors(self, own: np.ndarray) -> np.ndarray:
        """Variance of the errors of elements (place, element), wt%², of those of components (place, component)."""
        share = self.loading**2
        # What is known of sums makes the map better, not the measurement.
        rest = np.maximum(1 - share.sum(axis=1), 0)
        return (own @ share.T + own.mean(axis=1)[:, None] * rest) * self.unit**2


def _conditioned(
    mean: np.ndarray, variance: np.ndarray, sums: np.ndarray, totals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of independent elements given sums over them; `variance` (place or 1, element)."""
    left = variance[:, :, None] * sums.T
    gain = np.swapaxes(np.linalg.solve(sums @ left, np.swapaxes(left, 1, 2)), 1, 2)
    off = totals - mean @ sums.T
    kept = variance - (gain * left).sum(axis=2)
    return mean + (gain @ off[..., None])[..., 0], np.maximum(kept, 1e-6 * variance)


@dataclass
class Closure:
    """Sums over elements that are known: weights `sums` (sum, element) of `totals` (sum,), none or some.

    `carry` (element,) is the variance of the error of an element in a map: in these shares elements carry what a sum
    lacks, so that an element that is well known does not pay for one that is not.
    """

    sums: np.ndarray
    totals: np.ndarray
    carry: np.ndarray

    def held(self, values: np.ndarray) -> np.ndarray:
        """Values (place, element) with the sums that are known."""
        if not len(self.sums):
            return values
        return _conditioned(values, self.carry[None], self.sums, self.totals)[0]

    def positive(self, values: np.ndarray) -> np.ndarray:
        """Values without negative ones, of the same sum where that is known: the others give what these lack."""
        low = (values < 0).any(axis=1)
        if low.any():
            some = np.maximum(values[low], 0)
            if len(self.sums):
                some *= (self.totals[0] / some.sum(axis=1))[:, None]
            values = values.copy()
            values[low] = some
        return values
