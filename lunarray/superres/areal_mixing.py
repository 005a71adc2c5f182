"""From elements to independent components and back: whitening by errors, what sums are known, and what is seen."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
    variance of a loading, `level` (component,) that of the components' level. `sums` (sum, element) and `totals` (sum,)
    are known; `carry` (element,) is the variance of what is seen of an element, in which shares the elements carry what
    a sum lacks.
    """

    base: np.ndarray
    unit: np.ndarray
    loading: np.ndarray
    sums: np.ndarray
    totals: np.ndarray
    seen: np.ndarray
    unsure: np.ndarray
    centre: np.ndarray
    level: np.ndarray
    carry: np.ndarray

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
        one = np.ones_like(loading)
        blank = np.zeros(loading.shape[1])
        return cls(
            base, unit, loading, sums, totals, one, 0 * one, blank, blank, np.ones_like(unit)
        )

    def components(self, measured: np.ndarray) -> np.ndarray:
        """Components (footprint, component) of footprints (footprint, element)."""
        return ((measured - self.base) / self.unit) @ self.loading

    def restore(
        self, mean: np.ndarray, variance: np.ndarray, *, closed: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Elements of components (place, component), less their centre: mean and variance (place, element), wt%."""
        shares = self.seen * self.loading
        out = self.base + self.unit * (self.loading @ self.centre) + (mean @ shares.T) * self.unit
        own = self.loading**2 @ self.level + np.maximum(variance - self.level, 0) @ (shares**2).T
        own += mean**2 @ self.unsure.T
        out = self.balanced(out, self.sums, self.totals)
        if closed:
            out = self.positive(out)
        return out, own * self.unit**2

    def balanced(self, values: np.ndarray, sums: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """Values (place, element) with the sums that are known; elements carry what lacks as far as they are seen."""
        if not len(sums):
            return values
        left = self.carry[:, None] * sums.T
        return values + (totals - values @ sums.T) @ np.linalg.solve(sums @ left, left.T)

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

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
