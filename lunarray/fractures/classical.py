"""Fractures without learning: Canny's edges and Frangi's ridges, to compare a trained model with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage

from lunarray.errors import InputError, require_choice

if TYPE_CHECKING:
    pass

#: Label of pixels without valid data.
NO_DATA = 255
Polarity = Literal["dark", "bright", "both"]
_POLARITIES = ("dark", "bright", "both")
#: Gaussians end at this many standard deviations.
_TRUNCATE = 4.0
#: Standard deviation (pixels) of the window in which brightness is normalised, and contrast, as a share of the mean,
#: that is added to the local standard deviation.
_WINDOW, _FLOOR = 24.0, 0.02


@dataclass(frozen=True)
class Frangi:
    """Ridges: where the brightness bends across a line and not along it (Frangi et al. 1998).

    The defaults did best on the simulated scenes that the light model was trained on.

    Attributes
    ----------
    threshold : float
        Least response, 0 to 1.
    sigmas : tuple of float
        Scales, pixels; the greatest response counts.
    polarity : {"dark", "bright", "both"}
        Which ridges: darker or brighter than the ground, or either.
    beta, gamma : float
        How much a blob is weighed down; the bend (local standard deviations a square pixel, times the scale squared)
        that counts as a good part of a structure.
    grow : int
        Pixels by which detections are dilated.
    least : int
        Pixels of the smallest connected detection that is kept; 0 keeps all.

    References
    ----------
    Frangi et al. (1998), MICCAI, LNCS 1496, 130, equation 15.
    """

    threshold: float = 0.028
    sigmas: tuple[float, ...] = (1.5, 3.0, 6.0)
    polarity: Polarity = "dark"
    beta: float = 0.5
    gamma: float = 3.0
    grow: int = 2
    least: int = 200

    @property
    def reach(self) -> int:
        """How many pixels away, at most, the image matters, connectedness aside."""
        return _window_reach() + math.ceil(_TRUNCATE * max(self.sigmas)) + self.grow + 2


@dataclass(frozen=True)
class Canny:
    """Edges (Canny 1986) with one threshold, closed to areas: the two walls of a fracture.

    The defaults did best on the simulated scenes that the light model was trained on.

    Attributes
    ----------
    threshold : float
        Least gradient, local standard deviations a pixel.
    sigma : float
        Of the smoothing, pixels.
    close : int
        Radius in pixels of the closing that joins edges to areas.
    least : int
        Pixels of the smallest connected detection that is kept; 0 keeps all.

    References
    ----------
    Canny (1986), IEEE Trans. Pattern Anal. Mach. Intell. 8, 679.
    """

    threshold: float = 0.35
    sigma: float = 1.5
    close: int = 2
    least: int = 200

    @property
    def reach(self) -> int:
        """How many pixels away, at most, the image matters, connectedness aside."""
        return _window_reach() + math.ceil(_TRUNCATE * self.sigma) + 2 * self.close + 4


Method = Frangi | Canny


def detect(image: np.ndarray, method: Method) -> np.ndarray:
    """Detect fractures in an array.

    `image` (y, x): NaN without data; `method`: the filter and its parameters. Returns (y, x) uint8: 1 where detected, 0
    elsewhere, 255 without data.
    """
    if image.size == 0:
        return np.zeros(image.shape, np.uint8)
    flat, valid = flatten(image)
    return finish(response(flat, method), valid, method)


def response(flat: np.ndarray, method: Method) -> np.ndarray:
    """The filter itself, of an image of :func:`flatten`."""
    if isinstance(method, Frangi):
        return ridges(flat, method.sigmas, method.polarity, method.beta, method.gamma)
    return edges(flat, method.sigma)


def finish(answer: np.ndarray, valid: np.ndarray, method: Method) -> np.ndarray:
    """Threshold a response, and make areas of it.

    `answer` (y, x) float32: of :func:`response`; `valid` (y, x) bool: where there are data; `method`: the parameters.
    Returns (y, x) uint8: 1 where detected, 0 elsewhere, 255 without data.
    """
    found = _areas(answer, valid, method)
    if method.least > 0:
        found &= _sizes(found) >= method.least
    return np.where(valid, found, NO_DATA).astype(np.uint8)


def _areas(answer: np.ndarray, valid: np.ndarray, method: Method) -> np.ndarray:
    """Where a response is above its threshold, grown or closed."""
    found = (answer >= method.threshold) & _away_from_gaps(valid)
    if isinstance(method, Frangi):
        if method.grow:
            found = _dilate(found, method.grow)
    elif method.close:
        found = ~_dilate(~_dilate(found, method.close), method.close)
    return found & valid


def _sizes(found: np.ndarray) -> np.ndarray:
    """How many pixels the area has that each pixel is in."""
    labels, _ = ndimage.label(found, np.ones((3, 3)))
    return np.bincount(labels.ravel())[labels]


def flatten(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness relative to the mean and standard deviation of its surroundings.

    `image` (y, x): NaN without data. Returns `flat` (y, x) float32: 0 without data; `valid` (y, x) bool: where there
    are data.
    """
    valid = np.isfinite(image)
    weight = valid.astype(np.float64)
    values = np.where(valid, image, 0.0).astype(np.float64)

    def blur(field: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(field, _WINDOW, mode="constant", truncate=_TRUNCATE / 2)

    count = np.maximum(blur(weight), 1e-12)
    mean = blur(values) / count
    difference = (values - mean) * weight
    spread = np.sqrt(np.maximum(blur(difference**2) / count, 0.0)) + _FLOOR * np.abs(mean)
    flat = np.where(spread > 0, difference / np.where(spread > 0, spread, 1.0), 0.0)
    return flat.clip(-6, 6).astype(np.float32), valid


def ridges(
    flat: np.ndarray,
    sigmas: Sequence[float] = (1.5, 3.0),
    polarity: Polarity = "dark",
    beta: float = 0.5,
    gamma: float = 1.0,
) -> np.ndarray:
    """Frangi's measure of ridges, with a fixed scale of structure.

    `flat` (y, x) float32: brightness of :func:`flatten`; `sigmas`, `polarity`, `beta`, `gamma`: as of :class:`Frangi`.
    Returns (y, x) float32: 0 to 1.

    References: Frangi et al. (1998), equation 15, with eigenvalues of the Hessian times sigma².
    """
    best = np.zeros(flat.shape, np.float32)
    for sigma in sigmas:
        hyy, hxy, hxx = (
            sigma**2
            * ndimage.gaussian_filter(
                flat, sigma, order=order, mode="nearest", truncate=_TRUNCATE, output=np.float32
            )
            for order in ((2, 0), (1, 1), (0, 2))
        )
        middle, half = (hyy + hxx) / 2, np.hypot((hyy - hxx) / 2, hxy)
        low, high = middle - half, middle + half
        # The eigenvalue across a ridge is the one of larger magnitude.
        swap = np.abs(low) > np.abs(high)
        across, along = np.where(swap, low, high), np.where(swap, high, low)
        blob = (along / np.where(across == 0, 1, across)) ** 2
        structure = across**2 + along**2
        response = np.exp(-blob / (2 * beta**2)) * (1 - np.exp(-structure / (2 * gamma**2)))
        if polarity == "dark":
            response[across <= 0] = 0
        elif polarity == "bright":
            response[across >= 0] = 0
        np.maximum(best, response, out=best)
    return best


def edges(flat: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Gradient where it is greatest across an edge, 0 elsewhere (Canny's thinned edges before any threshold).

    `flat` (y, x) float32: brightness of :func:`flatten`; `sigma`: of the smoothing, pixels. Returns (y, x) float32.
    """
    gy, gx = (
        ndimage.gaussian_filter(
            flat, sigma, order=order, mode="nearest", truncate=_TRUNCATE, output=np.float32
        )
        for order in ((1, 0), (0, 1))
    )
    size = np.hypot(gy, gx)
    padded = np.pad(size, 1)
    rows, columns = flat.shape
    steep = np.zeros(flat.shape, bool)
    # Across the edge lies one of four directions.
    octant = np.round(np.arctan2(gy, gx) / (math.pi / 4)).astype(np.int8) % 4
    for direction, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
        behind = padded[1 - dy : 1 - dy + rows, 1 - dx : 1 - dx + columns]
        steep |= (octant == direction) & (size > ahead) & (size >= behind)
    return np.where(steep, size, np.float32(0))


def tune_classical(
    kind: Literal["frangi", "canny"],
    images: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[Method, dict[str, float]]:
    """Find the parameters of a filter that do best on labelled images.

    Parameters
    ----------
    kind : {"frangi", "canny"}
        Which filter.
    images, masks : iterable of ndarray, shape (y, x)
        Images, NaN without data, and labels: 1 for fracture, 0 for none, 255 without data. Of any shapes.
    progress : callable, optional
        Is told each parameter set of the filter itself.

    Returns
    -------
    method : Frangi or Canny
        With the highest F1 over all pixels.
    scores : dict of float
        ``F1_pooled`` of the best, and ``tried``: how many sets of parameters there were.

    Raises
    ------
    InputError
        If there is no image, or another kind.
    """
    pairs = [
        (*flatten(np.asarray(image)), np.asarray(mask))
        for image, mask in zip(images, masks, strict=True)
    ]
    if not pairs or not any((mask == 1).any() for *_, mask in pairs):
        raise InputError("no labelled fracture", where="masks", remedy="Give one at least")
    base: list[Method]
    require_choice("kind", kind, ("frangi", "canny"))
    if kind == "frangi":
        base = [
            Frangi(sigmas=sigmas, polarity=polarity, gamma=gamma)  # type: ignore[arg-type]
            for sigmas in ((1.5,), (1.5, 3.0), (1.5, 3.0, 6.0), (1.5, 3.0, 6.0, 12.0))
            for polarity in _POLARITIES
            for gamma in (1.0, 3.0, 6.0)
        ]
        areas = [{"grow": g} for g in (0, 1, 2, 4)]
    else:
        base = [Canny(sigma=sigma) for sigma in (1.0, 1.5, 2.0, 3.0)]
        areas = [{"close": c} for c in (1, 2, 3, 5, 8)]
    best: tuple[float, Method] = (-1.0, base[0])
    tried = 0
    for one in base:
        responses = [response(flat, one) for flat, _, _ in pairs]
        # Thresholds by how many pixels pass: as many as there are fractures, or some times more or less.
        pooled = np.concatenate([r[v] for r, (_, v, _) in zip(responses, pairs, strict=True)])
        share = sum((m == 1).sum() for *_, m in pairs) / pooled.size
        for factor, area in itertools.product((0.3, 0.5, 0.75, 1.0), areas):
            threshold = float(np.quantile(pooled, max(1 - factor * share, 0.0)))
            if threshold <= 0:
                continue
            method = replace(one, threshold=threshold, **area)  # type: ignore[arg-type]
            grown = [
                _areas(answer, valid, method)
                for answer, (_, valid, _) in zip(responses, pairs, strict=True)
            ]
            sizes = [_sizes(areas) for areas in grown]
            for least in (0, 80, 200):
                kept = [a & (s >= least) for a, s in zip(grown, sizes, strict=True)]
                score = _f1(kept, pairs)
                tried += 1
                if score > best[0]:
                    best = (score, replace(method, least=least))
        if progress is not None:
            progress(f"{one}: best F1 so far {best[0]:.3f}")
    return best[1], {"F1_pooled": best[0], "tried": float(tried)}


def _f1(found: Sequence[np.ndarray], pairs: Sequence[tuple]) -> float:
    """F1 over all pixels with labels and data."""
    tp = wrong = 0
    for areas, (_, valid, mask) in zip(found, pairs, strict=True):
        known = (mask != NO_DATA) & valid
        hit, there = areas & known, (mask == 1) & known
        tp += int((hit & there).sum())
        wrong += int((hit ^ there).sum())
    return 2 * tp / max(2 * tp + wrong, 1)


def wide_chunks(chunks: tuple[int, ...], reach: int) -> tuple[int, ...]:
    """Chunks along one axis, none so thin that it cannot lend its neighbour what that needs."""
    if len(chunks) == 1 or min(chunks) >= reach:
        return chunks
    size = sum(chunks)
    count = max(size // max(*chunks, reach), 1)
    return tuple(size // count + (n < size % count) for n in range(count))


def _window_reach() -> int:
    # The mean of the differences from the mean reaches twice.
    return 2 * math.ceil(_TRUNCATE / 2 * _WINDOW + 1)


def _away_from_gaps(valid: np.ndarray) -> np.ndarray:
    """Pixels whose neighbours have data: the edge of the data is no edge of the ground."""
    if valid.all():
        return valid
    return ~_dilate(~valid, 3)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a disc; nothing comes in from outside."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    if radius <= 2:
        return ndimage.binary_dilation(mask, y**2 + x**2 <= radius * (radius + 1))
    # Of a large disc the distance is faster.
    if not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask) ** 2 <= radius * (radius + 1)


def check_method(method: Method) -> None:
    """Raise where the parameters of a filter make no sense."""
    if not isinstance(method, Frangi | Canny):
        raise InputError(
            f"a method of type {type(method).__name__}",
            where="method",
            remedy="Give lunarray.fractures.Frangi(...) or Canny(...)",
        )
    scales = method.sigmas if isinstance(method, Frangi) else (method.sigma,)
    faults = []
    if not scales or not all(0.3 <= s <= 50 for s in scales):
        faults.append(f"scales {scales}: 0.3 to 50 pixels")
    if not method.threshold > 0:
        faults.append(f"threshold {method.threshold}: above 0")
    if isinstance(method, Frangi):
        if method.polarity not in _POLARITIES:
            faults.append(f"polarity {method.polarity!r}: one of {', '.join(_POLARITIES)}")
        if not (method.beta > 0 and method.gamma > 0):
            faults.append("beta and gamma: above 0")
    radius = method.grow if isinstance(method, Frangi) else method.close
    if radius < 0 or method.least < 0:
        faults.append("grow, close and least: 0 or more")
    if faults:
        raise InputError("; ".join(faults), where="method")
