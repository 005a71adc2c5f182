"""The 1D-CNN's forward pass on the CPU: one fused, exact fp32 kernel on plain arrays.

The network is that of section 2.4 of the paper: blocks of Conv1d(k = 3, stride 1, zero padding) -> BatchNorm1d -> ReLU,
then a fully connected layer. It runs several times faster than in general inference engines, by doing four things that
they do not do together:

* **Folding.** Batch normalisation at inference is an affine map: it is folded into the convolution's weights, and the
  de-standardisation of the oxides into the last layer's, both in float64, by :mod:`lunarray.oxides.fused`. (The
  standardisation of the input is not folded: the zero padding applies to the standardised spectrum.)
* **Fewer multiplications**, by F(6, 3): :mod:`lunarray.oxides.convolution_code`. It is an exact identity, and its
  rounding errors in float32 are of the size of those of the direct form (a test holds both against float64).
* **Register tiles.** The inner loops are emitted as vector code (:mod:`lunarray.oxides.vector_code`): the sums of a
  tile of rows x 2 vectors stay in registers, where BLAS reaches about half of the processor's rate.
* **Cache blocking.** `GROUP` pixels go through all layers together; a few tiles at a time are transformed, multiplied
  and transformed back in the L1 cache. Working memory is about 1 MB a thread, whatever the number of pixels.

Every pixel is computed by the same operations in the same order wherever it stands in a batch, so that chunked and
unchunked results are bit-equal. A NaN stays in its own pixel. The kernel runs in the calling thread only and without
the GIL.

References
----------
Ioffe & Szegedy (2015), Batch Normalization, ICML (inference form, algorithm 2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lunarray.engine.compiling import njit
from lunarray.oxides.convolution_code import (
    GROUP,
    TARGETS,
    TILE,
    connect,
    first_block,
    multiply_tiles,
    transform_in,
    transform_out,
)
from lunarray.oxides.vector_code import HEIGHTS, WIDTH


class Packed(NamedTuple):
    """A network's parameters as the kernel reads them."""

    #: Of the input, (bands,).
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    #: Channels in, both padded widths, and where weights and biases begin, (block, 5).
    layers: NDArray[np.int64]
    #: Of the first convolution, and of all others one after another.
    first: NDArray[np.float32]
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    #: Of the fully connected layer.
    last: NDArray[np.float32]
    last_bias: NDArray[np.float32]
    #: Floats of each part of the working memory.
    sizes: NDArray[np.int64]
    #: Register tile, of `HEIGHTS`.
    choice: int


@njit(nogil=True, cache=True)
def _convolve(source, target, layer, tiles, bands, net, points, products):
    """One block, from the rows of `source` to those of `target`, for `GROUP` pixels."""
    channels, source_width, target_width = layer[0], layer[1], layer[2]
    weight_at, bias_at = layer[3], layer[4]
    weights, choice = net.weights, net.choice
    height = HEIGHTS[choice]
    length = tiles * TILE + 2
    rows = GROUP * tiles
    stride = height * source_width
    for start in range(0, rows, height):
        count = min(height, rows - start)
        for r in range(count):
            pixel, tile = divmod(start + r, tiles)
            at = (pixel * length + tile * TILE) * source_width
            transform_in(source, at, source_width, points, r * source_width, stride, source_width)
        at = weight_at
        for column in range(0, target_width, WIDTH):
            at = multiply_tiles(points, source_width, weights, at, channels, products, choice)
            bias = bias_at + column
            for r in range(count):
                pixel, tile = divmod(start + r, tiles)
                to = (pixel * length + tile * TILE + 1) * target_width + column
                transform_out(
                    products, r * WIDTH, height * WIDTH, net.biases, bias, target, to, target_width
                )
    # What lies outside of the spectrum is zero for the next block, whatever the tiles' overhang holds.
    clear_outside(target, target_width, length, bands)


@njit(nogil=True, cache=True)
def clear_outside(data, width, length, bands):
    """Zero the rows before and after `GROUP` spectra."""
    for pixel in range(GROUP):
        base = pixel * length * width
        data[base : base + width] = np.float32(0)
        data[base + (bands + 1) * width : base + length * width] = np.float32(0)


@njit(nogil=True, cache=True)
def forward(x, out, net, work):
    """Oxides `out` (pixel, target) of spectra `x` (pixel, band), both float32, by a :class:`Packed` network."""
    pixels, bands = x.shape
    tiles = (bands + TILE - 1) // TILE
    length = tiles * TILE + 2
    mean, std, layers, sizes = net.mean, net.std, net.layers, net.sizes
    at = 0
    spectrum = work[at : at + length]
    at += sizes[0]
    points = work[at : at + sizes[1]]
    at += sizes[1]
    products = work[at : at + sizes[2]]
    at += sizes[2]
    source = work[at : at + sizes[3]]
    at += sizes[3]
    target = work[at : at + sizes[4]]
    at += sizes[4]
    results = work[at : at + sizes[5]]
    width = layers[0, 2]
    padded = net.last_bias.size
    spectrum[:] = np.float32(0)
    for start in range(0, pixels, GROUP):
        count = min(GROUP, pixels - start)
        for i in range(GROUP):
            # A short last group is filled up with its own last pixel.
            pixel = start + min(i, count - 1)
            for band in range(bands):
                spectrum[band + 1] = (x[pixel, band] - mean[band]) / std[band]
            base = (i * length + 1) * width
            first_block(spectrum, 0, net.first, 0, source, base, width, width, bands)
        clear_outside(source, width, length, bands)
        here, there = source, target
        for n in range(1, layers.shape[0]):
            _convolve(here, there, layers[n], tiles, bands, net, points, products)
            here, there = there, here
        final = layers[layers.shape[0] - 1, 2]
        flat = tiles * TILE * final
        for o in range(0, padded, TARGETS):
            connect(here, final, length * final, net.last, o * flat, flat, results, o, padded)
        for i in range(count):
            for o in range(out.shape[1]):
                out[start + i, o] = results[i * padded + o] + net.last_bias[o]
