"""Fast 3 × 3 convolutions: Winograd's minimal filtering F(4 × 4, 3 × 3), for dilations too, on the CPU in one thread.

A tile of 4 × 4 outputs takes 36 multiplications a channel instead of 144. A dilated convolution is an ordinary one of
each of its interleaved phases. The products are 1 × 1 convolutions, which oneDNN runs at the processor's peak; what is
here turns images into them and back.

References
----------
.. [1] Lavin & Gray (2016), Fast algorithms for convolutional neural networks, CVPR, arXiv:1509.09308, section 4.
"""

from __future__ import annotations

import numba
import numpy as np

#: Outputs of a tile, and inputs that it needs, along one axis.
OUTPUTS, INPUTS = 4, 6
#: Transform of the weights, G in the paper, shape (6, 3).
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def transform_weights(weights: np.ndarray) -> np.ndarray:
    """Bring weights into the space of the products.

    Parameters
    ----------
    weights : ndarray, shape (output, input, 3, 3)
        Of a convolution.

    Returns
    -------
    ndarray, shape (36, output, input), float32
        Computed in float64.
    """
    result = np.einsum("ai,koij,bj->abko", _G, weights.astype(np.float64), _G)
    return result.reshape(36, *weights.shape[:2]).astype(np.float32)


@numba.njit(inline="always")
def _into(a0, a1, a2, a3, a4, a5):
    """Apply Bᵀ: six inputs along one axis to six values."""
    even, odd = a4 - 4 * a2, a3 - 4 * a1
    near, far = a4 - a2, 2 * (a3 - a1)
    return (
        4 * a0 - 5 * a2 + a4,
        even + odd,
        even - odd,
        near + far,
        near - far,
        4 * a1 - 5 * a3 + a5,
    )


@numba.njit(inline="always")
def _back(m0, m1, m2, m3, m4, m5):
    """Apply Aᵀ: six values along one axis to four outputs."""
    p, q, r, s = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + p + r, q + 2 * s, p + 4 * r, q + 8 * s + m5


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def transform_inputs(padded: np.ndarray, dilation: int, out: np.ndarray) -> None:
    """Bring an image into the space of the products.

    Parameters
    ----------
    padded : ndarray, shape (batch, h + 2 · dilation, w + 2 · dilation, channel), float32
        The image with `dilation` zeros about it; h and w multiples of 4 · dilation.
    dilation : int
        Pixels between the weights.
    out : ndarray, shape (36, tile, channel), float32
        Written to; tiles by image, row, column.
    """
    count, height, width, channels = padded.shape
    rows = (height - 2 * dilation) // (OUTPUTS * dilation)
    columns = (width - 2 * dilation) // (OUTPUTS * dilation)
    rowed = np.empty((6, 6, channels), np.float32)
    for n in range(count):
        for i in range(rows * dilation):
            # Row i of tiles: phase i % dilation, and within it tile i // dilation.
            top = i % dilation + (i // dilation) * OUTPUTS * dilation
            for j in range(columns * dilation):
                left = j % dilation + (j // dilation) * OUTPUTS * dilation
                tile = (n * rows * dilation + i) * columns * dilation + j
                for b in range(6):
                    x = left + b * dilation
                    for c in range(channels):
                        v = _into(
                            padded[n, top, x, c],
                            padded[n, top + dilation, x, c],
                            padded[n, top + 2 * dilation, x, c],
                            padded[n, top + 3 * dilation, x, c],
                            padded[n, top + 4 * dilation, x, c],
                            padded[n, top + 5 * dilation, x, c],
                        )
                        rowed[0, b, c] = v[0]
                        rowed[1, b, c] = v[1]
                        rowed[2, b, c] = v[2]
                        rowed[3, b, c] = v[3]
                        rowed[4, b, c] = v[4]
                        rowed[5, b, c] = v[5]
                for a in range(6):
                    for c in range(channels):
                        v = _into(
                            rowed[a, 0, c],
                            rowed[a, 1, c],
                            rowed[a, 2, c],
                            rowed[a, 3, c],
                            rowed[a, 4, c],
                            rowed[a, 5, c],
                        )
                        out[6 * a, tile, c] = v[0]
                        out[6 * a + 1, tile, c] = v[1]
                        out[6 * a + 2, tile, c] = v[2]
                        out[6 * a + 3, tile, c] = v[3]
                        out[6 * a + 4, tile, c] = v[4]
                        out[6 * a + 5, tile, c] = v[5]


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def transform_outputs(
    products: np.ndarray, dilation: int, bias: np.ndarray, relu: bool, out: np.ndarray
) -> None:
    """Bring products back to an image, add the bias, and cut at 0.

    Parameters
    ----------
    products : ndarray, shape (36, tile, channel), float32
        Of transformed inputs and weights.
    dilation : int
        Pixels between the weights.
    bias : ndarray, shape (channel,), float32
        Added.
    relu : bool
        Whether to cut at 0.
    out : ndarray, shape (batch, h, w, channel), float32
        Written to.
    """
    count, height, width, channels = out.shape
    rows, columns = height // (OUTPUTS * dilation), width // (OUTPUTS * dilation)
    rowed = np.empty((4, 6, channels), np.float32)
    lowest = np.float32(0.0 if relu else -np.inf)
    for n in range(count):
        for i in range(rows * dilation):
            top = i % dilation + (i // dilation) * OUTPUTS * dilation
            for j in range(columns * dilation):
                left = j % dilation + (j // dilation) * OUTPUTS * dilation
                tile = (n * rows * dilation + i) * columns * dilation + j
                for b in range(6):
                    for c in range(channels):
                        v = _back(
                            products[b, tile, c],
                            products[6 + b, tile, c],
                            products[12 + b, tile, c],
                            products[18 + b, tile, c],
                            products[24 + b, tile, c],
                            products[30 + b, tile, c],
                        )
                        rowed[0, b, c] = v[0]
                        rowed[1, b, c] = v[1]
                        rowed[2, b, c] = v[2]
                        rowed[3, b, c] = v[3]
                for a in range(4):
                    y = top + a * dilation
                    for c in range(channels):
                        v = _back(
                            rowed[a, 0, c],
                            rowed[a, 1, c],
                            rowed[a, 2, c],
                            rowed[a, 3, c],
                            rowed[a, 4, c],
                            rowed[a, 5, c],
                        )
                        out[n, y, left, c] = max(v[0] + bias[c], lowest)
                        out[n, y, left + dilation, c] = max(v[1] + bias[c], lowest)
                        out[n, y, left + 2 * dilation, c] = max(v[2] + bias[c], lowest)
                        out[n, y, left + 3 * dilation, c] = max(v[3] + bias[c], lowest)
