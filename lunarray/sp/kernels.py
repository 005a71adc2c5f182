"""Spectral conditioning on plain arrays: (pixel, wavelength) float32 in, (pixel, wavelength) float32 out, NaN where
there is nothing.

Every function treats each pixel by itself, so that chunked and unchunked results are equal. Functions ending in
``_kernel`` are compiled; the plain functions beside them work out, once per call, what depends on the wavelengths
alone.
"""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit

#: Factor from the median absolute deviation to the standard deviation of a normal distribution.
_MAD_TO_SIGMA = 1.4826


# ---- joining ----
@njit(nogil=True, cache=True)
def join_kernel(spectra, vis, nir1, rest, nir, left, right, weight, additive, move_vis, min_count):
    """Put VIS, NIR1 (and NIR2) channels beside each other with the step between VIS and NIR1 removed.

    `spectra` (pixel, channel) float32; `vis`, `nir1`, `rest` (n,): channels of the result, in this order; `nir`,
    `left`, `right` (k,): NIR1 channels of the comparison, and the VIS channels on either side of each; `weight` (k,)
    float64: weight of `right` in the interpolation of VIS at the wavelength of `nir`; `additive`, `move_vis` bool:
    remove a difference, not a ratio; change VIS, not NIR1 (and what follows); `min_count`: comparisons that must be
    possible, or else nothing is changed. Returns `joined` (pixel, vis + nir1 + rest) float32; `step` (pixel,) float32:
    ratio (or difference) NIR1 to VIS; NaN where it could not be found.
    """
    n_pixel = spectra.shape[0]
    n_vis, n_nir1, n_rest = vis.size, nir1.size, rest.size
    joined = np.empty((n_pixel, n_vis + n_nir1 + n_rest), np.float32)
    step = np.empty(n_pixel, np.float32)
    found = np.empty(nir.size, np.float64)
    for p in range(n_pixel):
        x = spectra[p]
        count = 0
        for k in range(nir.size):
            a, b, c = x[left[k]], x[right[k]], x[nir[k]]
            v = (1.0 - weight[k]) * a + weight[k] * b
            if weight[k] == 0.0:
                v = a
            if np.isfinite(v) and np.isfinite(c) and (additive or v > 0.0):
                value = c - v if additive else c / v
                # Insertion keeps `found` sorted; it has a handful of entries.
                j = count
                while j > 0 and found[j - 1] > value:
                    found[j] = found[j - 1]
                    j -= 1
                found[j] = value
                count += 1
        value = np.nan
        if count >= max(min_count, 1):
            value = 0.5 * (found[(count - 1) // 2] + found[count // 2])
            if not additive and not value > 0.0:
                value = np.nan
        step[p] = value
        gain_vis, gain_nir, shift_vis, shift_nir = 1.0, 1.0, 0.0, 0.0
        if np.isfinite(value):
            if additive and move_vis:
                shift_vis = value
            elif additive:
                shift_nir = -value
            elif move_vis:
                gain_vis = value
            else:
                gain_nir = 1.0 / value
        for i in range(n_vis):
            joined[p, i] = x[vis[i]] * gain_vis + shift_vis
        for i in range(n_nir1):
            joined[p, n_vis + i] = x[nir1[i]] * gain_nir + shift_nir
        for i in range(n_rest):
            joined[p, n_vis + n_nir1 + i] = x[rest[i]] * gain_nir + shift_nir
    return joined, step


# ---- de-spiking ----
@njit(nogil=True, cache=True)
def _median_inplace(values, n):
    """Median of values[:n], which is reordered (quickselect)."""
    lo, hi, k = 0, n - 1, n // 2
    while lo < hi:
        pivot = values[(lo + hi) // 2]
        i, j = lo, hi
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            hi = j
        elif k >= i:
            lo = i
        else:
            break
    upper = values[k]
    if n % 2:
        return upper
    lower = values[0]
    for i in range(1, k):
        lower = max(lower, values[i])
    return 0.5 * (lower + upper)


@njit(nogil=True, cache=True)
def _bridge(y, good, wavelength, out, max_gap):
    """Linear interpolation of y[good] over the channels that are not good; NaN where no neighbours within max_gap."""
    n = y.size
    last = -1
    for i in range(n):
        if good[i]:
            out[i] = y[i]
            if last < i - 1:
                usable = last >= 0 and wavelength[i] - wavelength[last] <= max_gap
                for j in range(last + 1, i):
                    if usable:
                        t = (wavelength[j] - wavelength[last]) / (wavelength[i] - wavelength[last])
                        out[j] = (1.0 - t) * y[last] + t * y[i]
                    else:
                        out[j] = np.nan
            last = i
    for j in range(last + 1, n):
        out[j] = np.nan
    return last >= 0


@njit(nogil=True, cache=True)
def despike_kernel(
    spectra, wavelength, listed, half, first, stop, weights, threshold, floor, fill, max_gap
):
    """Remove channels that stand out of their spectrum's robust baseline: its running median, smoothed.

    The smoothing is there for the scale as well: a bare running median passes through many of the very points,
    whose residuals of 0 would make the median absolute deviation, and so the threshold, far too small.

    `spectra` (pixel, channel) float32; `wavelength` (channel,) float64: rising; `listed` (channel,) bool: channels
    taken out of every spectrum; `half`: the running median covers 2 half + 1 channels, fewer near the ends, always as
    many on either side; `first`, `stop`, `weights`: smoothing of the running median, from `smoothing_weights`;
    `threshold`: spikes are farther from the baseline than `threshold` robust standard deviations of all residuals of
    that spectrum; `floor`: the least such standard deviation, as a fraction of the spectrum's median level; `fill`
    bool: interpolate over what was removed; otherwise it becomes NaN. What was missing before stays missing; `max_gap`:
    largest distance (nm) between the two channels that an interpolation uses.
    """
    n_pixel, n = spectra.shape
    result = np.empty((n_pixel, n), np.float32)
    y = np.empty(n, np.float64)
    whole = np.empty(n, np.float64)
    bridged = np.empty(n, np.float64)
    residual = np.empty(n, np.float64)
    work = np.empty(n, np.float64)
    window = np.empty(2 * half + 1, np.float64)
    good = np.empty(n, np.bool_)
    for p in range(n_pixel):
        count = 0
        for i in range(n):
            y[i] = spectra[p, i]
            good[i] = np.isfinite(y[i]) and not listed[i]
            if good[i]:
                work[count] = y[i]
                count += 1
        if count == 0:
            result[p, :] = np.nan
            continue
        level = abs(_median_inplace(work, count))
        # Gaps are bridged for the running median only: with a neighbour missing on one side it would be biased on a
        # slope.
        _bridge(y, good, wavelength, whole, np.inf)
        begin, end = 0, n - 1
        while not good[begin]:
            begin += 1
        while not good[end]:
            end -= 1
        count = 0
        for i in range(n):
            h = max(min(half, i - begin, end - i), 0)
            m = 0
            for j in range(i - h, i + h + 1):
                v = whole[j]
                if np.isfinite(v):
                    k = m
                    while k > 0 and window[k - 1] > v:
                        window[k] = window[k - 1]
                        k -= 1
                    window[k] = v
                    m += 1
            bridged[i] = np.nan if m == 0 else 0.5 * (window[(m - 1) // 2] + window[m // 2])
        for i in range(n):
            residual[i] = np.nan
            if not good[i]:
                continue
            # The bridged spectrum is whole from `begin` to `end`; outside, the weights left are scaled up to 1.
            base, total = 0.0, 0.0
            for j in range(max(first[i], begin), min(stop[i], end + 1)):
                base += weights[i, j - first[i]] * bridged[j]
                total += weights[i, j - first[i]]
            if abs(total) > 0.1:
                residual[i] = y[i] - base / total
                work[count] = abs(residual[i])
                count += 1
        if count > 0:
            sigma = max(_MAD_TO_SIGMA * _median_inplace(work, count), floor * level)
            # Not the outermost channels: nothing could take their place.
            for i in range(begin + 1, end):
                if good[i] and abs(residual[i]) > threshold * sigma:
                    good[i] = False
        if fill:
            _bridge(y, good, wavelength, bridged, max_gap)
        for i in range(n):
            if good[i]:
                result[p, i] = y[i]
            elif fill and np.isfinite(y[i]):
                result[p, i] = bridged[i]
            else:
                result[p, i] = np.nan
    return result


# ---- smoothing ----
def smoothing_weights(
    wavelength: np.ndarray, window: float, order: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows and weights of local polynomial smoothing for spectra without gaps.

    `wavelength` (channel,) float64: rising (nm); `window`: full width (nm). Near the ends the window keeps its width
    and stays inside; `order`: degree of the polynomial. Returns `first`, `stop` (channel,) int64: channels of each
    window; `weights` (channel, widest window) float64: on an even axis those of Savitzky and Golay (1964).
    """
    n = wavelength.size
    first, stop = np.empty(n, np.int64), np.empty(n, np.int64)
    for i, w in enumerate(wavelength):
        low = min(max(w - window / 2, wavelength[0]), max(wavelength[-1] - window, wavelength[0]))
        first[i] = np.searchsorted(wavelength, low - 1e-6)
        stop[i] = np.searchsorted(wavelength, low + window + 1e-6, side="right")
        first[i], stop[i] = min(first[i], i), max(stop[i], i + 1)
    weights = np.zeros((n, int((stop - first).max(initial=1))))
    for i in range(n):
        t = (wavelength[first[i] : stop[i]] - wavelength[i]) / window
        design = t[:, None] ** np.arange(min(order, t.size - 1) + 1)
        weights[i, : t.size] = np.linalg.pinv(design)[0]
    return first, stop, weights


@njit(nogil=True, cache=True)
def smooth_kernel(spectra, wavelength, first, stop, weights, scale, order):
    """Local least-squares polynomials; windows with gaps are fitted on what they have, and missing channels stay
    missing."""
    n_pixel, n = spectra.shape
    result = np.empty((n_pixel, n), np.float32)
    size = order + 1
    matrix = np.empty((size, size + 1), np.float64)
    powers = np.empty(2 * order + 1, np.float64)
    moments = np.empty(size, np.float64)
    for p in range(n_pixel):
        x = spectra[p]
        for i in range(n):
            if not np.isfinite(x[i]):
                result[p, i] = np.nan
                continue
            total = 0.0
            for j in range(first[i], stop[i]):
                total += weights[i, j - first[i]] * x[j]
            if np.isfinite(total):
                result[p, i] = total
                continue
            # A gap in the window: normal equations on the finite channels, the degree lowered where they are few.
            count = 0
            powers[:] = 0.0
            moments[:] = 0.0
            for j in range(first[i], stop[i]):
                if np.isfinite(x[j]):
                    t = (wavelength[j] - wavelength[i]) / scale
                    count += 1
                    power = 1.0
                    for k in range(2 * order + 1):
                        powers[k] += power
                        if k < size:
                            moments[k] += power * x[j]
                        power *= t
            m = min(size, count)
            for a in range(m):
                for b in range(m):
                    matrix[a, b] = powers[a + b]
                matrix[a, m] = moments[a]
            # Gauss-Jordan with partial pivoting; m is at most order + 1.
            solved = True
            for a in range(m):
                best = a
                for b in range(a + 1, m):
                    if abs(matrix[b, a]) > abs(matrix[best, a]):
                        best = b
                if abs(matrix[best, a]) < 1e-12:
                    solved = False
                    break
                for b in range(m + 1):
                    matrix[a, b], matrix[best, b] = matrix[best, b], matrix[a, b]
                for b in range(m):
                    if b != a:
                        f = matrix[b, a] / matrix[a, a]
                        for c in range(a, m + 1):
                            matrix[b, c] -= f * matrix[a, c]
            result[p, i] = matrix[0, m] / matrix[0, 0] if solved else x[i]
    return result


# ---- resampling ----
def resampling_weights(
    source: np.ndarray, target: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Left neighbour and fractional position of each target wavelength; targets within `tolerance` of a channel
    take that channel."""
    right = np.clip(np.searchsorted(source, target), 1, max(source.size - 1, 1))
    left = right - 1
    right = np.minimum(right, source.size - 1)
    width = np.where(right > left, source[right] - source[left], 1.0)
    position = np.clip((target - source[left]) / width, 0.0, 1.0)
    on_left = np.abs(target - source[left]) <= tolerance
    on_right = ~on_left & (np.abs(target - source[right]) <= tolerance)
    left = np.where(on_right, right, left)
    return left.astype(np.int64), np.where(on_left | on_right, 0.0, position)


@njit(nogil=True, cache=True)
def resample_kernel(spectra, source, target, left, position, max_gap):
    """Linear interpolation at `target`; over a gap from the nearest finite channels if these are at most `max_gap`
    apart."""
    n_pixel, n = spectra.shape
    result = np.empty((n_pixel, target.size), np.float32)
    for p in range(n_pixel):
        x = spectra[p]
        for k in range(target.size):
            a = left[k]
            if position[k] == 0.0 and np.isfinite(x[a]):
                result[p, k] = x[a]
                continue
            b = a + 1
            if position[k] == 0.0:
                a -= 1
            while a >= 0 and not np.isfinite(x[a]):
                a -= 1
            while b < n and not np.isfinite(x[b]):
                b += 1
            if a < 0 or b >= n or source[b] - source[a] > max_gap:
                result[p, k] = np.nan
            else:
                t = (target[k] - source[a]) / (source[b] - source[a])
                result[p, k] = (1.0 - t) * x[a] + t * x[b]
    return result


# ---- quality ----
def mask_kernel(
    spectra: np.ndarray, qa: np.ndarray | None, flags: int, low: float, high: float
) -> np.ndarray:
    """NaN where a value is not in (low, high] or its QA word has one of `flags`."""
    bad = ~((spectra > low) & (spectra <= high))
    if qa is not None and flags:
        bad |= (qa & flags) != 0
    return np.where(bad, np.float32(np.nan), spectra).astype(np.float32, copy=False)
