"""Training tiles changed at random: contrast, noise and perspective, the mask along with the image."""

from __future__ import annotations

import numpy as np

from lunarray.errors import InputError, require_number

#: Label of pixels without valid data.
NO_DATA = 255
#: How often corners are drawn before the distortion is halved.
_ATTEMPTS = 20
#: A view that shows less of the tile than this share teaches nothing.
_LEAST_AREA = 0.15


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    valid: np.ndarray | None = None,
    rng: np.random.Generator | int | None = None,
    *,
    clahe: float = 0.5,
    noise: float = 0.5,
    perspective: float = 0.5,
    clip_limit: float = 0.01,
    sigma: tuple[float, float] = (0.0075, 0.0125),
    distortion: tuple[float, float] = (0.5, 1.5),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change a training tile at random as Le Corre et al. (2025) do.

    Contrast-limited adaptive histogram equalisation, Gaussian noise, and a change of perspective, in this order, each
    with a probability of its own and independent of the others. Brightness may be in any unit: what the paper says of
    images between 0 and 1 is taken relative to the tile's 0.5th to 99.5th percentile.

    Parameters
    ----------
    image : ndarray, shape (h, w), float
        Brightness, NaN without data.
    mask : ndarray, shape (h, w), uint8
        1 for fracture, 0 for none, 255 without valid data.
    valid : ndarray, shape (h, w), bool, optional
        Where there are data besides.
    rng : numpy.random.Generator or int, optional
        Source of chance, or its seed (0 by default). A tile and a fresh generator of the same seed give the same.
    clahe, noise, perspective : float, optional
        Probabilities.
    clip_limit : float, optional
        Of the equalisation: share of a region's pixels above which a bin of its histogram is clipped.
    sigma : tuple of 2 floats, optional
        Limits between which the standard deviation of the noise is drawn.
    distortion : tuple of 2 floats, optional
        Limits between which the distortion is drawn. Each corner moves into the tile by up to half of the distortion
        times the tile's sides, as torchvision's ``RandomPerspective`` moves it. Above 1 corners can pass each other,
        and the view would be folded or a sliver: such corners, and those that leave less than 15 % of the tile, are
        drawn again.

    Returns
    -------
    image : ndarray, shape (h, w), float32
        NaN without data, also outside the view.
    mask : ndarray, shape (h, w), uint8
        As given, seen from where the image is; 255 outside.
    valid : ndarray, shape (h, w), bool
        Where the result has data.

    Raises
    ------
    InputError
        If the shapes differ or a number is out of range.

    References
    ----------
    Le Corre et al. (2025), J. Geophys. Res. Planets 130, e2025JE009145, section 3.1; Pizer et al. (1987), Comput. Vis.
    Graph. Image Process. 39, 355.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    _check(image, mask, valid)
    for name, value in (("clahe", clahe), ("noise", noise), ("perspective", perspective)):
        require_number(name, value, 0, 1)
    for name, (low, high) in (("sigma", sigma), ("distortion", distortion)):
        if not 0 <= low <= high < np.inf:
            raise InputError(
                f"limits {low} and {high}", where=name, remedy="Give the lower one first, 0 or more"
            )
    if rng is None or not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(0 if rng is None else rng)
    # All is drawn whatever comes of it, so that one probability does not change what another draws.
    use = rng.random(3) < (clahe, noise, perspective)
    strength, bend = rng.uniform(*sigma), rng.uniform(*distortion)
    noise_rng, view_rng = rng.spawn(2)

    good = np.isfinite(image) & (mask != NO_DATA)
    if valid is not None:
        good &= np.asarray(valid, bool)
    values: np.ndarray = np.where(good, image, np.nan).astype(np.float32)
    labels = np.where(good, mask, NO_DATA).astype(np.uint8)
    if not good.any():
        return values, labels, good
    low, high = (float(v) for v in np.percentile(values[good], (0.5, 99.5)))
    span = high - low
    if use[0] and span > 0:
        values = low + span * equalise((values - np.float32(low)) / np.float32(span), clip_limit)
    if use[1]:
        values = values + np.float32(strength * span) * noise_rng.standard_normal(
            values.shape, dtype=np.float32
        )
    if use[2]:
        matrix = homography(draw_corners(values.shape, bend, view_rng), values.shape)
        values, labels = look(values, labels, matrix)
        good = np.isfinite(values) & (labels != NO_DATA)
        values[~good], labels[~good] = np.nan, NO_DATA
    return values.astype(np.float32), labels, good


def equalise(image: np.ndarray, clip_limit: float = 0.01) -> np.ndarray:
    """Equalise local contrast (CLAHE) of an image with gaps.

    `image` (h, w) float32: brightness, cut to 0 … 1; NaN without data; `clip_limit`: share of a region's pixels above
    which a bin of its histogram is clipped. Returns (h, w) float32: 0 … 1, NaN where it was. Gaps are filled with the
    median for the histograms.
    """
    from skimage.exposure import equalize_adapthist

    missing = ~np.isfinite(image)
    if missing.all():
        return image.astype(np.float32)
    filled = np.where(missing, np.median(image[~missing]), image).clip(0, 1)
    if filled.min() == filled.max():
        return np.where(missing, np.nan, filled).astype(np.float32)
    result = equalize_adapthist(filled, clip_limit=clip_limit).astype(np.float32)
    result[missing] = np.nan
    return result


def draw_corners(shape: tuple[int, int], distortion: float, rng: np.random.Generator) -> np.ndarray:
    """Draw where the corners of a tile go.

    `shape`: of the tile; `distortion`: each corner moves inward by up to this times half a side; `rng`: source of
    chance. Returns (4, 2) float64: column and row of top left, top right, bottom right, bottom left; a convex
    quadrilateral, not turned over.
    """
    rows, columns = shape
    span = np.array([columns - 1, rows - 1], float)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    inward = 1 - 2 * corners
    for attempt in range(10 * _ATTEMPTS):
        reach = distortion * 0.5 ** (attempt // _ATTEMPTS)
        moved = (corners + inward * rng.uniform(0, 0.5 * reach, (4, 2))) * span
        edge = np.roll(moved, -1, axis=0) - moved
        turn = edge[:, 0] * np.roll(edge[:, 1], -1) - edge[:, 1] * np.roll(edge[:, 0], -1)
        x, y = moved.T
        area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
        if (turn > 0).all() and area >= _LEAST_AREA * span.prod():
            return moved
    return corners * span


def homography(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Projective map from the changed tile back to the original.

    `corners` (4, 2): where the tile's corners go: column and row of top left, top right, bottom right, bottom left;
    `shape`: of the tile. Returns (3, 3): of (column, row, 1).
    """
    rows, columns = shape
    original = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float) * (columns - 1, rows - 1)
    equations = []
    for (x, y), (u, v) in zip(corners, original, strict=True):
        equations += [
            [x, y, 1, 0, 0, 0, -u * x, -u * y],
            [0, 0, 0, x, y, 1, -v * x, -v * y],
        ]
    solution = np.linalg.solve(np.array(equations), original.reshape(-1))
    return np.append(solution, 1.0).reshape(3, 3)


def look(image: np.ndarray, mask: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See a tile and its mask through a projective map.

    `image` (h, w) float32: interpolated bilinearly; NaN spreads; `mask` (h, w) uint8: of the nearest pixel; `matrix`
    (3, 3): from the result's (column, row, 1) to the given tile's, as :func:`homography` makes it. Returns `image` (h,
    w) float32: NaN outside the tile; `mask` (h, w) uint8: 255 outside.
    """
    from scipy.ndimage import map_coordinates

    rows, columns = image.shape
    row, column = np.mgrid[0:rows, 0:columns].astype(np.float64)
    u, v, w = (m[0] * column + m[1] * row + m[2] for m in matrix)
    # Behind the horizon there is nothing.
    w = np.where(w > 1e-9, w, np.nan)
    # What rounding moved past the edge is on it.
    place = np.round(np.stack([v / w, u / w]), 9)
    place[~np.isfinite(place)] = -10
    seen = map_coordinates(image, place, order=1, cval=np.nan, output=np.float32)
    labels = map_coordinates(mask, place, order=0, cval=NO_DATA, output=np.uint8)
    outside = (place < 0).any(axis=0) | (place[0] > rows - 1) | (place[1] > columns - 1)
    seen[outside], labels[outside] = np.nan, NO_DATA
    return seen, labels


def _check(image: np.ndarray, mask: np.ndarray, valid: np.ndarray | None) -> None:
    shapes = [a.shape for a in (image, mask) if a is not None]
    if valid is not None:
        shapes.append(np.shape(valid))
    if image.ndim != 2 or min(image.shape) < 8 or len(set(shapes)) > 1:
        raise InputError(
            f"shapes {', '.join(map(str, shapes))}",
            where="image, mask, valid",
            remedy="Give one tile of 8 × 8 pixels or more; all of the same shape",
        )
