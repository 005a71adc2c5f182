"""Training of one 1D-CNN on the CPU: full-batch epochs, compiled, on plain arrays.

An epoch of 64 spectra is so short that a general framework spends most of it on everything but arithmetic. This kernel
does a whole epoch in one call without the GIL, so that folds are trained side by side, one to a thread, each in its own
cache:

* Convolutions forward, and backward to their input, are by F(6, 3) on register tiles
  (:mod:`lunarray.oxides.convolution_code`).
* The gradient of the weights is the transpose of the same algorithm: a matrix product over all tiles for each of the
  eight points, with its sums in registers, and one transform back at the end of the epoch.
* Only what the convolutions give is kept for the way back. Normalised and rectified activations are made again from it,
  four spectra at a time, where they are needed.
* A convolution's bias has no effect before batch normalisation, and its gradient is zero: it is not computed, only
  decayed. (A framework computes rounding errors in its place, which Adam would scale up to full steps if the
  weight decay did not outweigh them.)

All parameters lie in one vector, padded to whole registers; padding stays zero through training.
:class:`lunarray.oxides.fold_state.FoldState` lays it out.

References
----------
Kingma & Ba (2015), Adam, ICLR. Ioffe & Szegedy (2015), Batch Normalization, ICML.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lunarray.engine.compiling import njit
from lunarray.oxides.convolution_code import (
    DEPTH,
    FILTER32,
    GROUP,
    POINTS,
    TILE,
    multiply_tiles,
    outer,
    transform_gradient,
    transform_in,
    transform_out_raw,
)
from lunarray.oxides.vector_code import HEIGHTS, WIDTH

#: Convolutions of the network.
LAYERS = 5
#: Share of an epoch in the running statistics of batch normalisation.
MOMENTUM = 0.1
_EPS = 1e-5
_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8


class Network(NamedTuple):
    """A network in training."""

    #: Parameters, gradient and Adam's moments.
    theta: NDArray[np.float32]
    grad: NDArray[np.float32]
    m: NDArray[np.float32]
    v: NDArray[np.float32]
    #: Statistics of batch normalisation, (5, 2, width).
    running: NDArray[np.float32]
    #: Channels, and padded, (5, 2).
    plan: NDArray[np.int64]
    #: Offsets of convolution, bias, scale and shift, then one row for the last layer, (6, 4).
    at: NDArray[np.int64]
    #: Spectra (sample, band + 2), standardised and padded, and targets (sample, output), standardised.
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    #: What each sample counts for each output, (sample, output), 1 on the mean.
    weight: NDArray[np.float32]


class Work(NamedTuple):
    """Memory that an epoch works in."""

    #: What the convolutions gave, and where each layer's begins.
    z: NDArray[np.float32]
    z_at: NDArray[np.int64]
    #: Gradients of one layer's output and of that below.
    d: NDArray[np.float32]
    #: Padded rows of four spectra, and where each layer's begin.
    buffers: NDArray[np.float32]
    buffer_at: NDArray[np.int64]
    #: Weights of a convolution as the kernel reads them, and those of the way back.
    packed: NDArray[np.float32]
    turned: NDArray[np.float32]
    #: Tiles before and after the matrix products; the same, and their sums, for the gradient of the weights.
    points: NDArray[np.float32]
    products: NDArray[np.float32]
    points_in: NDArray[np.float32]
    points_out: NDArray[np.float32]
    sums: NDArray[np.float32]
    #: Register tile, of `HEIGHTS`.
    choice: int


class _Rows(NamedTuple):
    """Rows of some spectra: their width, how many spectra, bands and tiles."""

    width: int
    samples: int
    bands: int
    tiles: int


class _Norm(NamedTuple):
    """Batch normalisation of a layer: z * scale + shift, with the moments behind it."""

    mean: NDArray[np.float32]
    inverse: NDArray[np.float32]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


class _Sums(NamedTuple):
    """Sums over all rows in float64, and those of one spectrum in float32."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    one: NDArray[np.float32]
    two: NDArray[np.float32]


@njit(nogil=True, cache=True)
def _pack(weights, at, channels, padded_in, padded_out, packed, to):
    """Transform (3, padded_in, padded_out) weights into (column, point, channel, `WIDTH`), `channels` of them."""
    for column in range(0, padded_out, WIDTH):
        for p in range(POINTS):
            f0, f1, f2 = FILTER32[p, 0], FILTER32[p, 1], FILTER32[p, 2]
            for i in range(channels):
                a = at + i * padded_out + column
                w0 = weights[a : a + WIDTH]
                a += padded_in * padded_out
                w1 = weights[a : a + WIDTH]
                a += padded_in * padded_out
                w2 = weights[a : a + WIDTH]
                out = packed[to : to + WIDTH]
                for j in range(WIDTH):
                    out[j] = f0 * w0[j] + f1 * w1[j] + f2 * w2[j]
                to += WIDTH


@njit(nogil=True, cache=True)
def _turn(weights, at, channels, padded_in, padded_out, turned):
    """Weights of the convolution back to the input: taps reversed, (3, channels of the output, padded_in)."""
    for k in range(3):
        for o in range(channels):
            to = (k * channels + o) * padded_in
            for i in range(padded_in):
                turned[to + i] = weights[at + ((2 - k) * padded_in + i) * padded_out + o]


@njit(nogil=True, cache=True)
def _convolve(source, width_in, channels, target, target_at, width_out, samples, tiles, work):
    """One convolution of `samples` padded spectra in `source` to rows of `target`."""
    points, products, packed, choice = work.points, work.products, work.packed, work.choice
    height = HEIGHTS[choice]
    length = tiles * TILE + 2
    rows = samples * tiles
    stride = height * width_in
    for start in range(0, rows, height):
        count = min(height, rows - start)
        for r in range(count):
            sample, tile = divmod(start + r, tiles)
            at = (sample * length + tile * TILE) * width_in
            transform_in(source, at, width_in, points, r * width_in, stride, width_in)
        at = 0
        for column in range(0, width_out, WIDTH):
            at = multiply_tiles(points, width_in, packed, at, channels, products, choice)
            for r in range(count):
                # Rows of `target` have no padding: tiles follow each other across spectra.
                to = target_at + (start + r) * TILE * width_out + column
                transform_out_raw(products, r * WIDTH, height * WIDTH, target, to, width_out)


@njit(nogil=True, cache=True)
def _weights_gradient(under, below, above, width, samples, tiles, work):
    """Add to (point, channel in, channel out) the products of inputs and output gradients over all tiles."""
    points_in, points_out, sums = work.points_in, work.points_out, work.sums
    length = tiles * TILE + 2
    rows = samples * tiles
    stride_in, stride_out = rows * below, rows * width
    for r in range(rows):
        sample, tile = divmod(r, tiles)
        row = sample * length + tile * TILE
        transform_in(under, row * below, below, points_in, r * below, stride_in, below)
        transform_gradient(
            above, (row + 1) * width, width, points_out, r * width, stride_out, width
        )
    for p in range(POINTS):
        for column in range(0, width, WIDTH):
            for i in range(0, below, DEPTH):
                outer(
                    points_in, p * stride_in + i, below, points_out, p * stride_out + column, width, rows,
                    sums, (p * below + i) * width + column, width,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def _from_points(sums, below, width, grad, at):
    """Transform sums of (point, channel in, channel out) to the gradient of three taps (G^T m)."""
    size = below * width
    for k in range(3):
        out = grad[at + k * size : at + (k + 1) * size]
        out[:] = np.float32(0)
        for p in range(POINTS):
            _add_scaled(sums[p * size : (p + 1) * size], FILTER32[p, k], out)


@njit(nogil=True, cache=True)
def _activate(z, at, rows, norm, out):
    """Normalise and rectify: rows of z to the padded rows of `out`."""
    width, tiles = rows.width, rows.tiles
    scale, shift = norm.scale, norm.shift
    for s in range(rows.samples):
        for r in range(rows.bands):
            a = at + (s * tiles * TILE + r) * width
            b = (s * (tiles * TILE + 2) + r + 1) * width
            source, target = z[a : a + width], out[b : b + width]
            for c in range(width):
                value = source[c] * scale[c] + shift[c]
                target[c] = value if value > np.float32(0) else np.float32(0)


@njit(nogil=True, cache=True)
def _moments(z, at, rows, centre, sums):
    """Add the sums of z - centre and of its square."""
    width, tiles = rows.width, rows.tiles
    first, second, t1, t2 = sums.first, sums.second, sums.one, sums.two
    for s in range(rows.samples):
        t1[:width] = np.float32(0)
        t2[:width] = np.float32(0)
        for r in range(rows.bands):
            a = at + (s * tiles * TILE + r) * width
            source = z[a : a + width]
            for c in range(width):
                d = source[c] - centre[c]
                t1[c] += d
                t2[c] += d * d
        for c in range(width):
            first[c] += t1[c]
            second[c] += t2[c]


@njit(nogil=True, cache=True)
def _gradient_moments(z, d, at, d_at, rows, norm, sums):
    """Rectify a gradient in place; add its sum and that of its product with the normalised values."""
    width, tiles = rows.width, rows.tiles
    mean, inverse, scale, shift = norm.mean, norm.inverse, norm.scale, norm.shift
    first, second, t1, t2 = sums.first, sums.second, sums.one, sums.two
    for s in range(rows.samples):
        t1[:width] = np.float32(0)
        t2[:width] = np.float32(0)
        for r in range(rows.bands):
            a = at + (s * tiles * TILE + r) * width
            b = d_at + (s * tiles * TILE + r) * width
            source, g = z[a : a + width], d[b : b + width]
            for c in range(width):
                active = source[c] * scale[c] + shift[c] > np.float32(0)
                value = g[c] if active else np.float32(0)
                g[c] = value
                t1[c] += value
                t2[c] += value * ((source[c] - mean[c]) * inverse[c])
        for c in range(width):
            first[c] += t1[c]
            second[c] += t2[c]


@njit(nogil=True, cache=True)
def _through_norm(z, d, at, d_at, rows, norm, mean_g, mean_gx, out):
    """Gradient of what went into batch normalisation, in the padded rows of `out`."""
    width, tiles = rows.width, rows.tiles
    mean, inverse, scale = norm.mean, norm.inverse, norm.scale
    for s in range(rows.samples):
        for r in range(rows.bands):
            a = at + (s * tiles * TILE + r) * width
            b = d_at + (s * tiles * TILE + r) * width
            to = (s * (tiles * TILE + 2) + r + 1) * width
            source, g, target = z[a : a + width], d[b : b + width], out[to : to + width]
            for c in range(width):
                normal = (source[c] - mean[c]) * inverse[c]
                target[c] = scale[c] * (g[c] - mean_g[c] - normal * mean_gx[c])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _dot(x, y):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(nogil=True, cache=True)
def _add_scaled(x, factor, out):
    for i in range(x.size):
        out[i] += factor * x[i]


@njit(nogil=True, cache=True)
def _add_four(x0, x1, x2, x3, f0, f1, f2, f3, out):
    for i in range(out.size):
        out[i] += f0 * x0[i] + f1 * x1[i] + f2 * x2[i] + f3 * x3[i]


@njit(nogil=True, cache=True)
def _adam(theta, grad, m, v, decay, step_size, correction):
    new1 = np.float32(1 - _BETA1)
    keep2, new2 = np.float32(_BETA2), np.float32(1 - _BETA2)
    eps = np.float32(_ADAM_EPS)
    for i in range(theta.size):
        g = grad[i] + decay * theta[i]
        m[i] = m[i] + new1 * (g - m[i])
        v[i] = keep2 * v[i] + new2 * g * g
        theta[i] -= step_size * m[i] / (np.sqrt(v[i]) / correction + eps)


@njit(nogil=True, cache=True)
def _first_forward(x, start, theta, w, z, z_here, rows):
    """The first convolution, of one input channel, of some spectra."""
    width, tiles = rows.width, rows.tiles
    w0, w1, w2 = (
        theta[w : w + width],
        theta[w + width : w + 2 * width],
        theta[w + 2 * width : w + 3 * width],
    )
    for s in range(rows.samples):
        for r in range(rows.bands):
            a, b, c0 = x[start + s, r], x[start + s, r + 1], x[start + s, r + 2]
            q = z_here + (s * tiles * TILE + r) * width
            target = z[q : q + width]
            for c in range(width):
                target[c] = a * w0[c] + b * w1[c] + c0 * w2[c]


@njit(nogil=True, cache=True)
def _first_gradient(x, start, grad, w, buffer, rows):
    """Add the gradient of the first convolution's weights from the padded rows of some spectra."""
    width, tiles = rows.width, rows.tiles
    g0, g1, g2 = (
        grad[w : w + width],
        grad[w + width : w + 2 * width],
        grad[w + 2 * width : w + 3 * width],
    )
    for s in range(rows.samples):
        for r in range(rows.bands):
            a, b, c0 = x[start + s, r], x[start + s, r + 1], x[start + s, r + 2]
            q = (s * (tiles * TILE + 2) + r + 1) * width
            source = buffer[q : q + width]
            for c in range(width):
                g0[c] += a * source[c]
                g1[c] += b * source[c]
                g2[c] += c0 * source[c]


@njit(nogil=True, cache=True)
def _forward(net, work, norms, sums, momentum, number):
    """All convolutions and their normalisations; fills `norms` and goes on with the running statistics."""
    theta, running, plan, at, x = net.theta, net.running, net.plan, net.at, net.x
    z = work.z
    samples, bands = x.shape[0], x.shape[1] - 2
    tiles = (bands + TILE - 1) // TILE
    positions = samples * bands
    centre = np.zeros(running.shape[2], np.float32)
    for layer in range(LAYERS):
        width = plan[layer, 1]
        norm = _layer(norms, layer)
        below, channels = plan[layer - 1, 1], plan[layer - 1, 0]
        under = _layer(norms, layer - 1)
        sums.first[:] = 0
        sums.second[:] = 0
        # Sums of squares are taken about the last epoch's mean (less the bias, which is left out here), so that they
        # do not cancel.
        bias = theta[at[layer, 1] : at[layer, 1] + width]
        if number != 1:
            for c in range(width):
                centre[c] = running[layer, 0, c] - bias[c]
        else:
            centre[:] = np.float32(0)
        if layer:
            _pack(theta, at[layer, 0], channels, below, width, work.packed, 0)
        for start in range(0, samples, GROUP):
            count = min(GROUP, samples - start)
            rows = _Rows(width, count, bands, tiles)
            z_here = work.z_at[layer] + start * tiles * TILE * width
            if layer == 0:
                _first_forward(x, start, theta, at[0, 0], z, z_here, rows)
            else:
                buffer = work.buffers[work.buffer_at[layer - 1] : work.buffer_at[layer]]
                z_under = work.z_at[layer - 1] + start * tiles * TILE * below
                _activate(z, z_under, _Rows(below, count, bands, tiles), under, buffer)
                _convolve(buffer, below, channels, z, z_here, width, count, tiles, work)
            _moments(z, z_here, rows, centre, sums)
        for c in range(width):
            off = sums.first[c] / positions
            mu = centre[c] + off
            variance = max(sums.second[c] / positions - off * off, 0.0)
            norm.mean[c] = mu
            norm.inverse[c] = 1 / np.sqrt(variance + _EPS)
            norm.scale[c] = theta[at[layer, 2] + c] * norm.inverse[c]
            norm.shift[c] = theta[at[layer, 3] + c] - norm.mean[c] * norm.scale[c]
            running[layer, 0, c] += np.float32(momentum) * (
                np.float32(mu + bias[c]) - running[layer, 0, c]
            )
            unbiased = np.float32(variance * positions / (positions - 1))
            running[layer, 1, c] += np.float32(momentum) * (unbiased - running[layer, 1, c])


@njit(nogil=True, cache=True)
def _layer(norms, layer):
    return _Norm(norms[0, layer], norms[1, layer], norms[2, layer], norms[3, layer])


@njit(nogil=True, cache=True)
def _head(net, work, norm, sums):
    """The fully connected layer, there and back; returns the sum of squares."""
    theta, grad, plan, at, y = net.theta, net.grad, net.plan, net.at, net.y
    z, d = work.z, work.d
    samples, bands = net.x.shape[0], net.x.shape[1] - 2
    outputs = y.shape[1]
    tiles = (bands + TILE - 1) // TILE
    top = LAYERS - 1
    width = plan[top, 1]
    flat = bands * width
    head, head_bias = at[LAYERS, 0], at[LAYERS, 1]
    buffer = work.buffers[work.buffer_at[top] : work.buffer_at[top + 1]]
    sums.first[:] = 0
    sums.second[:] = 0
    loss = 0.0
    slopes = np.zeros((GROUP, outputs), np.float32)
    for start in range(0, samples, GROUP):
        count = min(GROUP, samples - start)
        rows = _Rows(width, count, bands, tiles)
        d_here = start * tiles * TILE * width
        z_here = work.z_at[top] + d_here
        _activate(z, z_here, rows, norm, buffer)
        slopes[:] = np.float32(0)
        for s in range(count):
            b = (s * (tiles * TILE + 2) + 1) * width
            for o in range(outputs):
                weights = theta[head + o * flat : head + (o + 1) * flat]
                off = _dot(buffer[b : b + flat], weights) + theta[head_bias + o] - y[start + s, o]
                weight = net.weight[start + s, o]
                loss += np.float64(off) * off * weight
                slopes[s, o] = 2 * off * weight / (samples * outputs)
                grad[head_bias + o] += slopes[s, o]
        b, step = width, (tiles * TILE + 2) * width
        for o in range(outputs):
            # All of a group at once; what a short group lacks has a slope of zero.
            _add_four(
                buffer[b : b + flat], buffer[b + step : b + step + flat],
                buffer[b + 2 * step : b + 2 * step + flat], buffer[b + 3 * step : b + 3 * step + flat],
                slopes[0, o], slopes[1, o], slopes[2, o], slopes[3, o],
                grad[head + o * flat : head + (o + 1) * flat],
            )  # fmt: skip
        for s in range(count):
            q = d_here + s * tiles * TILE * width
            back = d[q : q + flat]
            back[:] = np.float32(0)
            o = 0
            while o + GROUP <= outputs:
                h = head + o * flat
                _add_four(
                    theta[h : h + flat], theta[h + flat : h + 2 * flat],
                    theta[h + 2 * flat : h + 3 * flat], theta[h + 3 * flat : h + 4 * flat],
                    slopes[s, o], slopes[s, o + 1], slopes[s, o + 2], slopes[s, o + 3], back,
                )  # fmt: skip
                o += GROUP
            while o < outputs:
                _add_scaled(theta[head + o * flat : head + (o + 1) * flat], slopes[s, o], back)
                o += 1
        _gradient_moments(z, d, z_here, d_here, rows, norm, sums)
    return loss


@njit(nogil=True, cache=True)
def _backward(net, work, norms, sums):
    """Gradients of all convolutions and normalisations, from the top down."""
    theta, grad, plan, at, x = net.theta, net.grad, net.plan, net.at, net.x
    z, d = work.z, work.d
    samples, bands = x.shape[0], x.shape[1] - 2
    tiles = (bands + TILE - 1) // TILE
    wide = net.running.shape[2]
    positions = samples * bands
    first, second = sums.first, sums.second
    d_here, d_below = np.int64(0), np.int64(samples) * tiles * TILE * wide
    mean_g, mean_gx = np.zeros(wide, np.float32), np.zeros(wide, np.float32)
    for layer in range(LAYERS - 1, -1, -1):
        channels, width = plan[layer, 0], plan[layer, 1]
        below = plan[layer - 1, 1]
        norm, norm_below = _layer(norms, layer), _layer(norms, layer - 1)
        for c in range(width):
            grad[at[layer, 3] + c] = first[c]
            grad[at[layer, 2] + c] = second[c]
            mean_g[c] = first[c] / positions
            mean_gx[c] = second[c] / positions
        first[:] = 0
        second[:] = 0
        buffer = work.buffers[work.buffer_at[layer] : work.buffer_at[layer + 1]]
        if layer:
            _turn(theta, at[layer, 0], channels, below, width, work.turned)
            _pack(work.turned, 0, channels, channels, below, work.packed, 0)
            work.sums[: POINTS * below * width] = np.float32(0)
        for start in range(0, samples, GROUP):
            count = min(GROUP, samples - start)
            rows = _Rows(width, count, bands, tiles)
            z_here = work.z_at[layer] + start * tiles * TILE * width
            d_at = d_here + start * tiles * TILE * width
            _through_norm(z, d, z_here, d_at, rows, norm, mean_g, mean_gx, buffer)
            if layer == 0:
                _first_gradient(x, start, grad, at[0, 0], buffer, rows)
                continue
            under = work.buffers[work.buffer_at[layer - 1] : work.buffer_at[layer]]
            rows_below = _Rows(below, count, bands, tiles)
            z_under = work.z_at[layer - 1] + start * tiles * TILE * below
            d_to = d_below + start * tiles * TILE * below
            _activate(z, z_under, rows_below, norm_below, under)
            _weights_gradient(under, below, buffer, width, count, tiles, work)
            _convolve(buffer, width, channels, d, d_to, below, count, tiles, work)
            _gradient_moments(z, d, z_under, d_to, rows_below, norm_below, sums)
        if layer:
            _from_points(work.sums, below, width, grad, at[layer, 0])
        d_here, d_below = d_below, d_here


@njit(nogil=True, cache=True)
def epoch(net, work, rate, decay, momentum, number):
    """Train one epoch, full batch; returns the loss before the step. Number 0: take the statistics only.

    net: a :class:`Network`. work: its :class:`Work`. rate, decay: of Adam. momentum: share of this epoch in the
    running statistics. number: of the epoch, from 1.
    """
    wide = net.running.shape[2]
    norms = np.zeros((4, LAYERS, wide), np.float32)
    sums = _Sums(
        np.zeros(wide), np.zeros(wide), np.zeros(wide, np.float32), np.zeros(wide, np.float32)
    )
    net.grad[:] = np.float32(0)
    _forward(net, work, norms, sums, momentum, number)
    if number == 0:
        return 0.0
    loss = _head(net, work, _layer(norms, LAYERS - 1), sums)
    _backward(net, work, norms, sums)
    correction1 = 1 - _BETA1**number
    correction2 = np.float32(np.sqrt(1 - _BETA2**number))
    _adam(
        net.theta, net.grad, net.m, net.v, np.float32(decay), np.float32(rate / correction1), correction2
    )  # fmt: skip
    return loss / net.y.size
