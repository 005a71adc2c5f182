"""The Spectral Profiler as a measuring device: bands, radiometric scale, errors and smoothing, on plain arrays."""

from __future__ import annotations

import numpy as np

from lunarray.sp.bands import sp_scale as sp_scale

#: Full width at half maximum of the channels of VIS and NIR1, nm (Haruyama et al. 2008, Earth Planets Space 60,
#: 243; Yamamoto et al. 2011, IEEE Trans. Geosci. Remote Sens. 49, 4660).
VIS_FWHM, NIR1_FWHM = 6.0, 8.0
#: VIS ends and NIR1 begins between these (nm).
JOIN = 950.0
_FWHM_TO_SIGMA = 1 / 2.3548


def sp_fwhm(wavelengths: np.ndarray) -> np.ndarray:
    """Widths (nm) of SP's channels at some centres: those of VIS below :data:`JOIN`, of NIR1 above."""
    return np.where(np.asarray(wavelengths, np.float64) < JOIN, VIS_FWHM, NIR1_FWHM)


def band_weights(
    wavelengths: np.ndarray, fine: np.ndarray, fwhm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that turn spectra on a fine grid into the channels' means, for :func:`weighted_windows`.

    `wavelengths` (bands,) are the centres, `fwhm` (bands,) the widths, by default SP's; `fine` (points,) is even, no
    coarser than 2.6 nm, and 1.4 times the largest width wider on both sides; all nm. Back come the first point of each
    channel and its Gaussian response (bands, window), cut below 1 % of the peak, float32, of sum 1.
    """
    centres = np.asarray(wavelengths, np.float64)
    sigma = (sp_fwhm(centres) if fwhm is None else np.asarray(fwhm, np.float64)) * _FWHM_TO_SIGMA
    reach = 3.1 * sigma.max()
    first = np.searchsorted(fine, centres - reach)
    count = int(2 * reach / (fine[1] - fine[0])) + 1
    points = fine[np.minimum(first[:, None] + np.arange(count), fine.size - 1)]
    weights = np.exp(-0.5 * ((points - centres[:, None]) / sigma[:, None]) ** 2)
    weights[weights < 0.01] = 0
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def smoothing_weights(
    wavelengths: np.ndarray, window: float, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Local polynomials of a full width in nm, for :func:`weighted_windows`.

    The same operation as :func:`lunarray.sp.smooth` on spectra without gaps.
    """
    from lunarray.sp.kernels import smoothing_weights as local_polynomials

    first, _, weights = local_polynomials(np.asarray(wavelengths, np.float64), window, order)
    return first, weights.astype(np.float32)


def weighted_windows(spectra: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums over a window of `spectra` (sample, points) for each band: (sample, bands), float32.

    A window begins at `first` (bands,) and has `weights` (bands, window), zeros where it would reach beyond the last
    point. Plain sums in a fixed order, not a matrix product: BLAS rounds a row differently with the number of rows, and
    then a chunked scene would not equal the whole one.
    """
    out = np.zeros((len(spectra), len(first)), np.float32)
    last = spectra.shape[1] - 1
    for k in range(weights.shape[1]):
        out += spectra[:, np.minimum(first + k, last)] * weights[:, k]
    return out


def correlated(
    rng: np.random.Generator, shape: tuple[int, int], wavelengths: np.ndarray, length: float
) -> np.ndarray:
    """Gaussian noise of unit variance with a correlation length in nm, shape (sample, bands)."""
    centres = np.asarray(wavelengths, np.float64)
    span = float(np.ptp(centres))
    # Weights of a Gaussian kernel on white noise at points half a length apart, which is as dense as the kernel can
    # tell.
    points = np.arange(centres.min() - 2 * length, centres.min() + span + 2 * length, length / 2)
    kernel = np.exp(-(((points[:, None] - centres) / length) ** 2))
    kernel /= np.sqrt((kernel**2).sum(axis=0))
    return (rng.standard_normal((shape[0], points.size)) @ kernel).astype(np.float32)


def measure(
    reflectance: np.ndarray,
    wavelengths: np.ndarray,
    rng: np.random.Generator,
    *,
    scale: np.ndarray | float,
    gain: float,
    slope: float,
    curvature: float,
    broad: float,
    step: float,
    pattern: float,
    noise: float | np.ndarray,
    common_pattern: bool,
) -> np.ndarray:
    """Spectra (sample, bands), float32, as SP would report them, before smoothing.

    `reflectance` (sample, bands) is a laboratory's, `wavelengths` are in nm. `scale`, one or one for each sample, is
    the power of :func:`sp_scale`: 1 is SP's radiometric scale, 0 the laboratory's. The other numbers are standard
    deviations of relative errors, see :func:`lunarray.simulate.add_sp_errors`; with `common_pattern` all spectra share
    slope, curvature, broad errors and channel pattern, as within one calibration. `noise` may be one for each
    sample.
    """
    samples, bands = reflectance.shape
    nm = np.asarray(wavelengths, np.float64)
    rows = 1 if common_pattern else samples

    def normal(count: int) -> np.ndarray:
        return rng.standard_normal((count, 1)).astype(np.float32)

    # -1 at the shortest SP wavelength, 1 at the longest of the default grid.
    u = ((nm - 1045.0) / 527.0).astype(np.float32)
    after = (nm > JOIN).astype(np.float32) * np.exp(-(nm - JOIN) / 150.0).astype(np.float32)
    before = (nm < JOIN).astype(np.float32) * np.exp((nm - JOIN) / 150.0).astype(np.float32)
    log_scale = np.log(sp_scale(nm)) * np.broadcast_to(
        np.asarray(scale, np.float32).reshape(-1, 1), (samples, 1)
    )
    factor = log_scale + gain * normal(samples)
    factor = (
        factor + slope * normal(rows) * u + curvature * normal(rows) * (u**2 - np.float32(1 / 3))
    )
    if broad:
        factor = factor + broad * correlated(rng, (rows, bands), nm, 100.0)
    # The detectors are joined by their overlap: what is left over of the step fades away from it.
    factor = factor + 0.5 * step * normal(rows) * (after - before)
    if pattern:
        factor = factor + pattern * rng.standard_normal((rows, bands), dtype=np.float32)
    result = reflectance * np.exp(factor)
    relative = np.asarray(noise, np.float32).reshape(-1, 1)
    if relative.any():
        # Noise of dim light: the same radiance noise in all channels of a spectrum, so relative to the spectrum's
        # mean.
        level = result.mean(axis=1, keepdims=True) * relative
        level = level * np.exp(0.5 * normal(samples))
        result = result + level * rng.standard_normal((samples, bands), dtype=np.float32)
    return result.astype(np.float32)
