"""Three lines and a continuum: the quick fit that tells whether a spectrum has counts enough."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from lunarray.errors import InputError

#: Mg, Al and Si Kα (keV): the three Gaussians of the running check.
_LINES = (1.2536, 1.4867, 1.7400)
_FIT_BAND = (0.9, 2.3)
#: Widths (at 1.5 keV) and shifts of the lines that are tried first (keV): the detectors' resolution and gain drift
#: with temperature.
_WIDTHS = np.arange(0.040, 0.0851, 0.0075)
_SHIFTS = np.arange(-0.027, 0.0271, 0.0135)
_WIDTH_RANGE = (0.03, 0.1)
_SHIFT_MAX = 0.04
#: Variance of a line's width that grows with its energy (keV): Fano factor times the energy of an electron-hole pair
#: in silicon.
_FANO = 0.115 * 0.00365


def fit_three_lines(counts: Any, gain: float, first_channel: int = 0) -> dict[str, Any]:
    """Fit three Gaussians (Mg, Al, Si Kα) and a linear continuum to a spectrum.

    Parameters
    ----------
    counts : array_like, (channel,)
        Counts; not yet background subtracted, so that their errors are Poisson's.
    gain : float
        keV per channel.
    first_channel : int
        Number of the first channel.

    Returns
    -------
    dict
        ``reduced_chi2`` (Pearson's), ``dof``, ``amplitudes`` and ``errors`` (counts in each line), ``significance``
        of the three lines together, ``width`` (of a line at 1.5 keV) and ``shift`` (keV), ``energy`` (keV),
        ``counts`` and ``model`` of the bins fitted.
    """
    counts = np.asarray(counts, "f8")
    energy = (first_channel + np.arange(counts.size) + 0.5) * gain
    inside = (energy >= _FIT_BAND[0]) & (energy < _FIT_BAND[1])
    energy, data = energy[inside], counts[inside]
    # Bins of about 27 eV, a third of the resolution: empty channels tell nothing.
    factor = max(1, round(0.027 / gain))
    size = energy.size // factor * factor
    energy = energy[:size].reshape(-1, factor).mean(axis=1)
    data = data[:size].reshape(-1, factor).sum(axis=1)
    if energy.size < 12:
        raise InputError(
            f"{energy.size} bins in {_FIT_BAND[0]}-{_FIT_BAND[1]} keV",
            where="fit_three_lines",
            remedy="Give CLASS spectra of 1024 or 2048 channels and their gain",
        )
    step = gain * factor
    shapes, grid = _designs(energy.size, round(float(energy[0]), 9), round(step, 9))
    variance = np.maximum(np.convolve(np.pad(data, 2, mode="edge"), np.full(5, 0.2), "valid"), 0.5)
    weight = 1.0 / variance
    normal = np.einsum("gbi,b,gbj->gij", shapes, weight, shapes, optimize=True)
    right = np.einsum("gbi,b->gi", shapes, weight * data, optimize=True)
    values = np.linalg.solve(normal, right[..., None])[..., 0]
    models = np.einsum("gbi,gi->gb", shapes, values, optimize=True)
    best = int(np.argmin(((data - models) ** 2 * weight).sum(axis=1)))
    (width, shift), value = grid[best], values[best]
    # From the best of the grid, Gauss-Newton steps in all seven parameters, with the variance that the model predicts.
    for _ in range(4):
        shape = _shape(energy, step, width, shift)
        model = shape @ value
        small = 1e-4
        slopes = [
            (_shape(energy, step, width + dw, shift + ds) @ value - model) / small
            for dw, ds in ((small, 0.0), (0.0, small))
        ]
        weight = 1.0 / np.maximum(model, 0.5)
        full = np.column_stack([shape, *slopes])
        normal = (full * weight[:, None]).T @ full
        # A trace of damping: without lines there is nothing that tells their width and shift.
        normal[[5, 6], [5, 6]] += 1e-9 * np.trace(normal[:3, :3]) + 1e-12
        change = np.linalg.solve(normal, full.T @ (weight * (data - model)))
        value = value + change[:5]
        width = float(np.clip(width + np.clip(change[5], -0.005, 0.005), *_WIDTH_RANGE))
        shift = float(np.clip(shift + np.clip(change[6], -0.009, 0.009), -_SHIFT_MAX, _SHIFT_MAX))
    shape = _shape(energy, step, width, shift)
    weight = 1.0 / np.maximum(shape @ value, 0.5)
    normal = (shape * weight[:, None]).T @ shape
    value = np.linalg.solve(normal, shape.T @ (weight * data))
    model = shape @ value
    covariance = np.linalg.inv(normal)
    dof = data.size - 7
    amplitudes = value[:3]
    total_error = np.sqrt(max(covariance[:3, :3].sum(), 1e-300))
    chi2_best = float(((data - model) ** 2 / np.maximum(model, 0.5)).sum())
    return {
        "reduced_chi2": chi2_best / dof,
        "dof": dof,
        "amplitudes": amplitudes,
        "errors": np.sqrt(np.diag(covariance)[:3]),
        "significance": float(amplitudes.sum() / total_error),
        "width": width,
        "shift": shift,
        "energy": energy,
        "counts": data,
        "model": model,
    }


def _shape(energy: np.ndarray, step: float, width: float, shift: float) -> np.ndarray:
    """Three lines of unit area and a linear continuum, (bin, 5)."""
    shape = np.empty((energy.size, 5))
    for k, line in enumerate(_LINES):
        sigma = np.sqrt(width**2 + _FANO * (line - 1.5))
        z = (energy - line - shift) / sigma
        shape[:, k] = np.exp(-0.5 * z * z) * step / (sigma * np.sqrt(2 * np.pi))
    shape[:, 3] = 1.0
    shape[:, 4] = (energy - energy.mean()) / np.ptp(energy)
    return shape


@functools.lru_cache(maxsize=64)
def _designs(size: int, first: float, step: float) -> tuple[np.ndarray, list[tuple[float, float]]]:
    energy = first + step * np.arange(size)
    grid = [(float(w), float(s)) for w in _WIDTHS for s in _SHIFTS]
    return np.stack([_shape(energy, step, *point) for point in grid]), grid
