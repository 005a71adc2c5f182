"""How unlike its training spectra a spectrum is: the measure behind the ``novelty`` variable (NumPy and Numba)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from lunarray.engine.compiling import njit

#: Novelty of spectra without a positive mean, and the largest value given.
MAX_NOVELTY = 1000.0
#: Standard deviations of a normal distribution that hold all but a thousandth of it.
_TAIL = 3.29


@dataclass(frozen=True)
class NoveltyModel:
    """Statistics of the training spectra that :func:`novelty` compares with; arrays are float32.

    A spectrum x is taken apart into its brightness b = mean(x) and its shape x / b. The shape is compared with the
    principal components of the training shapes by two distances, within their subspace (Mahalanobis, T) and away
    from it (Q); the logarithm of brightness by a third.

    `mean` (bands,) is the mean shape, `components` (component, bands) the principal axes, orthonormal, `variance`
    (component,) that of the shapes along each, `residual_scale` (bands,) the standard deviation of what they leave
    over, `log_brightness` centre and half-width in ln(reflectance), and `thresholds` the values of T, Q and brightness
    distance at which novelty is 1.
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    residual_scale: np.ndarray
    log_brightness: np.ndarray
    thresholds: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """The statistics by name, as they are stored with the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@njit(nogil=True, cache=True)
def _distances_of(x, mean, axes, components, variance, residual_scale, centre, half_width, out):
    """Distances T, Q and of brightness of each spectrum, by itself: the same numbers in whatever batch it comes.

    `half_width` (pixel,) of the brightness, float64.
    """
    bands, count = axes.shape
    rest = np.empty(bands, np.float32)
    scores = np.empty(count, np.float32)
    for pixel in range(x.shape[0]):
        total = 0.0
        for band in range(bands):
            total += x[pixel, band]
        brightness = total / bands
        if not brightness > 0:
            out[pixel, :] = np.nan if np.isnan(brightness) else np.inf
            continue
        scale = np.float32(1 / brightness)
        scores[:] = 0
        for band in range(bands):
            value = x[pixel, band] * scale - mean[band]
            rest[band] = value
            for axis in range(count):
                scores[axis] += value * axes[band, axis]
        within = 0.0
        for axis in range(count):
            within += scores[axis] ** 2 / variance[axis]
            for band in range(bands):
                rest[band] -= scores[axis] * components[axis, band]
        away = 0.0
        for band in range(bands):
            away += (rest[band] / residual_scale[band]) ** 2
        out[pixel, 0] = math.sqrt(within)
        out[pixel, 1] = math.sqrt(away / bands)
        out[pixel, 2] = abs(math.log(brightness) - centre) / half_width[pixel]


def _distances(x: np.ndarray, model: NoveltyModel, light: np.ndarray | None = None) -> np.ndarray:
    """Distances T, Q and of brightness, shape (pixel, 3); infinite where the mean is not positive."""
    out = np.empty((len(x), 3), np.float32)
    centre, half_width = (float(value) for value in model.log_brightness)
    wider = np.zeros(len(x)) if light is None else _TAIL * np.asarray(light, np.float64)
    _distances_of(
        np.array(
            x, np.float32, order="C"
        ),  # a copy, since Numba compiles anew for read-only arrays
        model.mean,
        np.ascontiguousarray(model.components.T),
        model.components,
        model.variance,
        model.residual_scale,
        centre,
        np.hypot(half_width, wider),
        out,
    )
    return out


def novelty(x: np.ndarray, model: NoveltyModel, light: np.ndarray | None = None) -> np.ndarray:
    """Distance of spectra (pixel, bands) from the training set in units of its own edge, (pixel,), float32.

    `light` (pixel,) is the standard deviation of the logarithm of the light's gain, by which brightness may be off and
    is no novelty. 0 at the centre of the training set, 1 at its 99.9 % quantile, at most ``MAX_NOVELTY``; NaN where a
    band is NaN.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        worst = (_distances(x, model, light) / model.thresholds).max(axis=1, initial=0)
    return np.minimum(worst, np.float32(MAX_NOVELTY)).astype(np.float32, copy=False)


def fit_novelty(x: np.ndarray, *, components: int = 12, quantile: float = 0.999) -> NoveltyModel:
    """Statistics for :func:`novelty` from training spectra (sample, bands) with the errors that real ones have.

    All must be of positive mean. `components` principal components are kept, of few bands fewer, and `quantile` is the
    fraction of the training spectra whose novelty is below 1.
    """
    x = np.asarray(x, np.float64)
    # Shapes of unit mean have a dimension less than bands, and one must be left for what no component holds.
    components = max(1, min(components, x.shape[1] - 2))
    brightness = x.mean(axis=1)
    shape = x / brightness[:, None]
    mean = shape.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(np.cov(shape - mean, rowvar=False))
    axes = vectors[:, ::-1][:, :components].T
    # The sign of an eigenvector is the solver's choice; fix it so that a rerun gives the same file.
    axes = axes * np.sign(axes[np.arange(components), np.abs(axes).argmax(axis=1)])[:, None]
    residual = (shape - mean) - (shape - mean) @ axes.T @ axes
    log_b = np.log(brightness)
    low, high = np.quantile(log_b, [0.0005, 0.9995])

    def f32(values: object) -> np.ndarray:
        return np.ascontiguousarray(values, dtype=np.float32)

    unit = NoveltyModel(
        mean=f32(mean),
        components=f32(axes),
        variance=f32(eigenvalues[::-1][:components]),
        residual_scale=f32(np.maximum(residual.std(axis=0), 1e-6)),
        log_brightness=f32([(low + high) / 2, (high - low) / 2]),
        thresholds=f32([1, 1, 1]),
    )
    distances = _distances(x.astype(np.float32), unit)
    thresholds = np.maximum(np.quantile(distances, quantile, axis=0), 1e-3)
    # The largest of the three ratios passes 1 more often than each alone: widen all alike until the quantile is met.
    thresholds = thresholds * np.quantile((distances / thresholds).max(axis=1), quantile)
    return NoveltyModel(**{**unit.tensors(), "thresholds": f32(thresholds)})
