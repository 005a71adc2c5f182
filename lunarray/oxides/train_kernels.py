"""Training of one 1D-CNN on the CPU: full-batch epochs, compiled, on plain arrays.

An epoch of 64 spectra is so short that a general framework spends most of it on everything but arithmetic. This kernel
does a whole epoch in one call without the GIL, so that folds are trained side by side, one to a thread, each in its own
cache:

* Convolutions forward, and backward to their input, are those of `lunarray.oxides.kernels` (F(6, 3) on register tiles).
* The gradient of the weights is the transpose of the same algorithm: a matrix product over all tiles for each of the
  eight points, with its sums in registers, and one transform back at the end of the epoch.
* Only what the convolutions give is kept for the way back. Normalised and rectified activations are made again from it,
  four spectra at a time, where they are needed.
* A convolution's bias has no effect before batch normalisation, and its gradient is zero: it is not computed, only
  decayed. (A framework computes rounding errors in its place, which Adam would scale up to full steps if the
  weight decay did not outweigh them.)

All parameters lie in one vector, padded to whole registers; padding stays zero through training.
`FoldState` lays it out.

References
----------
Kingma & Ba (2015), Adam, ICLR. Ioffe & Szegedy (2015), Batch Normalization, ICML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numba.core import cgutils
from numpy.typing import NDArray

from lunarray.oxides.kernels import (
    _FILTER,
    _I64,
    _VEC,
    GROUP,
    HEIGHTS,
    LANES,
    POINTS,
    TILE,
    WIDTH,
    _aligned,
    _emitter,
    _int,
    _output_rows,
    _padded,
    _tile_0,
    _tile_1,
    _tile_2,
    _transform_in,
    intrinsic,
)

#: Rows of the register tile of the weights' gradient; it divides `WIDTH`, to which channels are padded.
_DEPTH = 8 if LANES == 16 else 4
_FILTER32 = _FILTER.astype(np.float32)
_LAYERS = 5
_EPS = 1e-5
_MOMENTUM = 0.1
_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8


@_emitter(6, (0, 3))
def _emit_transform_out_raw(e, points, point_stride, out, out_stride):
    b = e.b
    for j in range(2):
        for i, value in enumerate(_output_rows(e, points, point_stride, j)):
            e.store(value, out, b.add(b.mul(out_stride, _int(i)), _int(j * LANES)))


@intrinsic
def _transform_out_raw(context, points, po, point_stride, out, oo, out_stride):
    """The eight products of one tile -> six output rows of `WIDTH` channels (A^T m)."""
    return _emit_transform_out_raw(context, points, po, point_stride, out, oo, out_stride)


@_emitter(10, (0, 3, 7))
def _emit_outer(e, x, x_stride, y, y_stride, length, out, out_stride):
    b = e.b
    line = [e.at(out, b.mul(out_stride, _int(i))) for i in range(_DEPTH)]
    begin = [[e.load(line[i], j * LANES) for j in range(2)] for i in range(_DEPTH)]
    before = b.block
    loop, after = b.append_basic_block("length"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(_I64)
    k.add_incoming(_int(0), before)
    sums = [[b.phi(_VEC), b.phi(_VEC)] for _ in range(_DEPTH)]
    row, column = e.at(x, b.mul(k, x_stride)), e.at(y, b.mul(k, y_stride))
    w = [e.load(column, 0), e.load(column, LANES)]
    new = []
    for i in range(_DEPTH):
        scalar = e.splat(b.load(e.at(row, i)))
        new.append([e.fma(scalar, w[j], sums[i][j]) for j in range(2)])
    following = b.add(k, _int(1))
    k.add_incoming(following, loop)
    for i in range(_DEPTH):
        for j in range(2):
            sums[i][j].add_incoming(begin[i][j], before)
            sums[i][j].add_incoming(new[i][j], loop)
    b.cbranch(b.icmp_signed("<", following, length), loop, after)
    b.position_at_end(after)
    for i in range(_DEPTH):
        for j in range(2):
            e.store(new[i][j], line[i], j * LANES)


@intrinsic
def _outer(context, x, xo, x_stride, y, yo, y_stride, length, out, oo, out_stride):
    """Add to `_DEPTH` rows of `WIDTH` columns the sum over positions of x times y."""
    return _emit_outer(context, x, xo, x_stride, y, yo, y_stride, length, out, oo, out_stride)


@_emitter(7, (0, 3))
def _emit_transform_gradient(e, data, data_stride, out, point_stride, channels):
    b = e.b
    with cgutils.for_range_slice(b, _int(0), channels, _int(LANES), intp=_I64) as (c, _):
        at = e.at(data, c)
        y = [e.load(at, b.mul(data_stride, _int(i))) for i in range(TILE)]
        # Rows of A, the transpose of what `_transform_out_raw` does: even and odd parts shared.
        points = [y[0]]
        for f in (1.0, 4.0, 0.25):
            even = e.fma(f * f, y[4], e.fma(f, y[2], y[0]))
            g = f**0.5
            odd = e.fma(g**5, y[5], e.fma(g**3, y[3], e.fma(g, y[1], e.const(0.0))))
            points += [e.add(even, odd), e.sub(even, odd)]
        points.append(y[5])
        to = e.at(out, c)
        for p, value in enumerate(points):
            e.store(value, to, b.mul(point_stride, _int(p)))


@intrinsic
def _transform_gradient(context, data, do, data_stride, out, oo, point_stride, channels):
    """Six consecutive rows of an output's gradient -> the eight points of one tile (A y)."""
    return _emit_transform_gradient(context, data, do, data_stride, out, oo, point_stride, channels)


@njit(nogil=True, cache=True)
def _pack(weights, at, channels, padded_in, padded_out, packed, to):
    """Transform (3, padded_in, padded_out) weights into (column, point, channel, `WIDTH`), `channels` of them."""
    for column in range(0, padded_out, WIDTH):
        for p in range(POINTS):
            f0, f1, f2 = _FILTER32[p, 0], _FILTER32[p, 1], _FILTER32[p, 2]
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
def _convolve(
    source,
    width_in,
    channels,
    target,
    target_at,
    width_out,
    samples,
    tiles,
    packed,
    points,
    products,
    choice,
):
    """One convolution of `samples` padded spectra in `source` to rows of `target`."""
    height = HEIGHTS[choice]
    length = tiles * TILE + 2
    rows = samples * tiles
    stride = height * width_in
    for start in range(0, rows, height):
        count = min(height, rows - start)
        for r in range(count):
            sample, tile = divmod(start + r, tiles)
            at = (sample * length + tile * TILE) * width_in
            _transform_in(source, at, width_in, points, r * width_in, stride, width_in)
        at = 0
        for column in range(0, width_out, WIDTH):
            for p in range(POINTS):
                a, m = p * stride, p * height * WIDTH
                if choice == 0:
                    _tile_0(points, a, width_in, packed, at, channels, products, m, WIDTH)
                elif choice == 1:
                    _tile_1(points, a, width_in, packed, at, channels, products, m, WIDTH)
                else:
                    _tile_2(points, a, width_in, packed, at, channels, products, m, WIDTH)
                at += channels * WIDTH
            for r in range(count):
                # Rows of `target` have no padding: tiles follow each other across spectra.
                to = target_at + (start + r) * TILE * width_out + column
                _transform_out_raw(products, r * WIDTH, height * WIDTH, target, to, width_out)


@njit(nogil=True, cache=True)
def _weights_gradient(under, below, above, width, samples, tiles, points_in, points_out, sums):
    """Add to (point, channel in, channel out) the products of inputs and output gradients over all tiles."""
    length = tiles * TILE + 2
    rows = samples * tiles
    stride_in, stride_out = rows * below, rows * width
    for r in range(rows):
        sample, tile = divmod(r, tiles)
        row = sample * length + tile * TILE
        _transform_in(under, row * below, below, points_in, r * below, stride_in, below)
        _transform_gradient(
            above, (row + 1) * width, width, points_out, r * width, stride_out, width
        )
    for p in range(POINTS):
        for column in range(0, width, WIDTH):
            for i in range(0, below, _DEPTH):
                _outer(
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
            _add_scaled(sums[p * size : (p + 1) * size], _FILTER32[p, k], out)


@njit(nogil=True, cache=True)
def _activate(z, at, width, samples, bands, tiles, scale, shift, out):
    """Normalise and rectify: rows of z to the padded rows of `out`."""
    for s in range(samples):
        for r in range(bands):
            a = at + (s * tiles * TILE + r) * width
            b = (s * (tiles * TILE + 2) + r + 1) * width
            source, target = z[a : a + width], out[b : b + width]
            for c in range(width):
                value = source[c] * scale[c] + shift[c]
                target[c] = value if value > np.float32(0) else np.float32(0)


@njit(nogil=True, cache=True)
def _moments(z, at, width, samples, bands, tiles, centre, first, second, t1, t2):
    """Add the sums of z - centre and of its square."""
    for s in range(samples):
        t1[:width] = np.float32(0)
        t2[:width] = np.float32(0)
        for r in range(bands):
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
def _gradient_moments(
    z, d, at, d_at, width, samples, bands, tiles, scale, shift, mean, inverse, first, second, t1, t2
):
    """Rectify a gradient in place; add its sum and that of its product with the normalised values."""
    for s in range(samples):
        t1[:width] = np.float32(0)
        t2[:width] = np.float32(0)
        for r in range(bands):
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
def _through_norm(
    z, d, at, d_at, width, samples, bands, tiles, scale, mean, inverse, mean_g, mean_gx, out
):
    """Gradient of what went into batch normalisation, in the padded rows of `out`."""
    for s in range(samples):
        for r in range(bands):
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
def epoch(
    theta, grad, m, v, running, x, y, plan, at, z, z_at, d, buffers, buffer_at, packed, turned, points, products,
    points_in, points_out, sums, choice,
    rate, decay, momentum, number,
):  # fmt: skip
    """Train one epoch, full batch; returns the loss before the step. Number 0: take the statistics only.

    theta, grad, m, v: parameters, gradient and Adam's moments. running: (5, 2, width) statistics. x: (sample, band + 2)
    standardised and padded spectra. y: (sample, output) standardised targets. plan: (5, 2) channels, padded.
    at: (5, 4) offsets of convolution, bias, scale and shift, then one row for the last layer. momentum: share of
    this epoch in the running statistics. number: of the epoch, from 1.
    """
    samples, bands = x.shape[0], x.shape[1] - 2
    outputs = y.shape[1]
    tiles = (bands + TILE - 1) // TILE
    wide = running.shape[2]
    positions = samples * bands
    zero = np.float32(0)
    mean = np.zeros((_LAYERS, wide), np.float32)
    inverse = np.zeros((_LAYERS, wide), np.float32)
    scale = np.zeros((_LAYERS, wide), np.float32)
    shift = np.zeros((_LAYERS, wide), np.float32)
    first, second = np.zeros(wide), np.zeros(wide)
    t1, t2 = np.zeros(wide, np.float32), np.zeros(wide, np.float32)
    centre = np.zeros(wide, np.float32)
    grad[:] = zero

    # --- forward
    for layer in range(_LAYERS):
        width = plan[layer, 1]
        first[:] = 0
        second[:] = 0
        # Sums of squares are taken about the last epoch's mean (less the bias, which is left out here), so that they
        # do not cancel.
        bias = theta[at[layer, 1] : at[layer, 1] + width]
        if number != 1:
            for c in range(width):
                centre[c] = running[layer, 0, c] - bias[c]
        else:
            centre[:] = zero
        if layer:
            below, channels = plan[layer - 1, 1], plan[layer - 1, 0]
            _pack(theta, at[layer, 0], channels, below, width, packed, 0)
        for start in range(0, samples, GROUP):
            count = min(GROUP, samples - start)
            z_here = z_at[layer] + start * tiles * TILE * width
            if layer == 0:
                w = at[0, 0]
                w0, w1, w2 = (
                    theta[w : w + width],
                    theta[w + width : w + 2 * width],
                    theta[w + 2 * width : w + 3 * width],
                )
                for s in range(count):
                    for r in range(bands):
                        a, b, c0 = x[start + s, r], x[start + s, r + 1], x[start + s, r + 2]
                        q = z_here + (s * tiles * TILE + r) * width
                        target = z[q : q + width]
                        for c in range(width):
                            target[c] = a * w0[c] + b * w1[c] + c0 * w2[c]
            else:
                buffer = buffers[buffer_at[layer - 1] : buffer_at[layer]]
                _activate(z, z_at[layer - 1] + start * tiles * TILE * below, below, count, bands, tiles,
                          scale[layer - 1], shift[layer - 1], buffer)  # fmt: skip
                _convolve(
                    buffer,
                    below,
                    channels,
                    z,
                    z_here,
                    width,
                    count,
                    tiles,
                    packed,
                    points,
                    products,
                    choice,
                )
            _moments(z, z_here, width, count, bands, tiles, centre, first, second, t1, t2)
        for c in range(width):
            off = first[c] / positions
            mu = centre[c] + off
            variance = max(second[c] / positions - off * off, 0.0)
            mean[layer, c] = mu
            inverse[layer, c] = 1 / np.sqrt(variance + _EPS)
            scale[layer, c] = theta[at[layer, 2] + c] * inverse[layer, c]
            shift[layer, c] = theta[at[layer, 3] + c] - mean[layer, c] * scale[layer, c]
            running[layer, 0, c] += np.float32(momentum) * (
                np.float32(mu + bias[c]) - running[layer, 0, c]
            )
            unbiased = np.float32(variance * positions / (positions - 1))
            running[layer, 1, c] += np.float32(momentum) * (unbiased - running[layer, 1, c])

    if number == 0:
        return 0.0

    # --- fully connected layer, there and back
    top = _LAYERS - 1
    width = plan[top, 1]
    flat = bands * width
    head, head_bias = at[_LAYERS, 0], at[_LAYERS, 1]
    buffer = buffers[buffer_at[top] : buffer_at[top + 1]]
    big = np.int64(samples) * tiles * TILE * wide
    d_here, d_below = np.int64(0), big
    first[:] = 0
    second[:] = 0
    loss = 0.0
    slopes = np.zeros((GROUP, outputs), np.float32)
    for start in range(0, samples, GROUP):
        count = min(GROUP, samples - start)
        z_here = z_at[top] + start * tiles * TILE * width
        _activate(z, z_here, width, count, bands, tiles, scale[top], shift[top], buffer)
        slopes[:] = zero
        for s in range(count):
            b = (s * (tiles * TILE + 2) + 1) * width
            for o in range(outputs):
                weights = theta[head + o * flat : head + (o + 1) * flat]
                off = _dot(buffer[b : b + flat], weights) + theta[head_bias + o] - y[start + s, o]
                loss += np.float64(off) * off
                slopes[s, o] = 2 * off / (samples * outputs)
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
            q = d_here + (start + s) * tiles * TILE * width
            back = d[q : q + flat]
            back[:] = zero
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
        _gradient_moments(z, d, z_here, d_here + start * tiles * TILE * width, width, count, bands, tiles,
                          scale[top], shift[top], mean[top], inverse[top], first, second, t1, t2)  # fmt: skip

    # --- backward
    mean_g, mean_gx = np.zeros(wide, np.float32), np.zeros(wide, np.float32)
    for layer in range(_LAYERS - 1, -1, -1):
        channels, width = plan[layer, 0], plan[layer, 1]
        for c in range(width):
            grad[at[layer, 3] + c] = first[c]
            grad[at[layer, 2] + c] = second[c]
            mean_g[c] = first[c] / positions
            mean_gx[c] = second[c] / positions
        first[:] = 0
        second[:] = 0
        buffer = buffers[buffer_at[layer] : buffer_at[layer + 1]]
        if layer:
            below = plan[layer - 1, 1]
            under = buffers[buffer_at[layer - 1] : buffer_at[layer]]
            _turn(theta, at[layer, 0], channels, below, width, turned)
            _pack(turned, 0, channels, channels, below, packed, 0)
            sums[: POINTS * below * width] = zero
        for start in range(0, samples, GROUP):
            count = min(GROUP, samples - start)
            z_here = z_at[layer] + start * tiles * TILE * width
            _through_norm(z, d, z_here, d_here + start * tiles * TILE * width, width, count, bands, tiles,
                          scale[layer], mean[layer], inverse[layer], mean_g, mean_gx, buffer)  # fmt: skip
            if layer == 0:
                w = at[0, 0]
                g0, g1, g2 = (
                    grad[w : w + width],
                    grad[w + width : w + 2 * width],
                    grad[w + 2 * width : w + 3 * width],
                )
                for s in range(count):
                    for r in range(bands):
                        a, b, c0 = x[start + s, r], x[start + s, r + 1], x[start + s, r + 2]
                        q = (s * (tiles * TILE + 2) + r + 1) * width
                        source = buffer[q : q + width]
                        for c in range(width):
                            g0[c] += a * source[c]
                            g1[c] += b * source[c]
                            g2[c] += c0 * source[c]
                continue
            z_under = z_at[layer - 1] + start * tiles * TILE * below
            _activate(
                z, z_under, below, count, bands, tiles, scale[layer - 1], shift[layer - 1], under
            )
            _weights_gradient(
                under, below, buffer, width, count, tiles, points_in, points_out, sums
            )
            d_to = d_below + start * tiles * TILE * below
            _convolve(
                buffer,
                width,
                channels,
                d,
                d_to,
                below,
                count,
                tiles,
                packed,
                points,
                products,
                choice,
            )
            _gradient_moments(z, d, z_under, d_to, below, count, bands, tiles, scale[layer - 1], shift[layer - 1],
                              mean[layer - 1], inverse[layer - 1], first, second, t1, t2)  # fmt: skip
        if layer:
            _from_points(sums, below, width, grad, at[layer, 0])
        d_here, d_below = d_below, d_here

    correction1 = 1 - _BETA1**number
    correction2 = np.float32(np.sqrt(1 - _BETA2**number))
    _adam(theta, grad, m, v, np.float32(decay), np.float32(rate / correction1), correction2)
    return loss / (samples * outputs)


class FoldState:
    """One network in training: its parameters, Adam's moments, and the memory that an epoch needs.

    Parameters
    ----------
    state : mapping of str to array
        Of the `OxideCNN` to begin with, with its standardisation set.
    spectra : array of shape (sample, bands)
    targets : array of shape (sample, output)
        In wt%.
    n : int
        Channels of the first block.
    rate, decay : float
        Adam's learning rate and L2 penalty.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        spectra: NDArray[np.float32],
        targets: NDArray[np.float32],
        n: int,
        rate: float,
        decay: float,
    ) -> None:
        from lunarray.oxides.model import CHANNEL_FACTORS

        samples, bands = spectra.shape
        outputs = targets.shape[1]
        self.bands, self.outputs, self.rate, self.decay = bands, outputs, rate, decay
        channels = [factor * n for factor in CHANNEL_FACTORS]
        padded = [_padded(c) for c in channels]
        self.plan = np.array([channels, padded], np.int64).T.copy()
        self.tiles = -(-bands // TILE)
        wide = max(padded)

        self.at = np.zeros((_LAYERS + 1, 4), np.int64)
        size = 0
        before = 1
        for layer, width in enumerate(padded):
            for part, length in enumerate((3 * before * width, width, width, width)):
                self.at[layer, part] = size
                size += length
            before = width
        self.at[_LAYERS, 0] = size
        size += outputs * bands * padded[-1]
        self.at[_LAYERS, 1] = size
        size += -(-outputs // 16) * 16
        self.theta, self.grad, self.m, self.v = (_aligned(size) for _ in range(4))
        for array in (self.theta, self.grad, self.m, self.v):
            array[:] = 0
        self.running = np.zeros((_LAYERS, 2, wide), np.float32)
        self.number = 0
        self.fixed = {
            k: np.asarray(state[k], np.float32)
            for k in ("input_mean", "input_std", "target_mean", "target_std")
        }
        self._fill(state)

        self.x = np.zeros((samples, bands + 2), np.float32)
        self.x[:, 1:-1] = (spectra - self.fixed["input_mean"]) / self.fixed["input_std"]
        self.y = (targets - self.fixed["target_mean"]) / self.fixed["target_std"]
        self.y = np.ascontiguousarray(self.y, np.float32)

    def _fill(self, state: Mapping[str, Any]) -> None:
        for layer in range(_LAYERS):
            channels, width = self.plan[layer]
            before, below = self.plan[layer - 1] if layer else (1, 1)
            name = f"features.{layer}."
            at = self.at[layer]
            kernel = self.theta[at[0] : at[0] + 3 * below * width].reshape(3, below, width)
            kernel[:, :before, :channels] = np.asarray(state[name + "0.weight"]).transpose(2, 1, 0)
            for part, key in ((1, "0.bias"), (2, "1.weight"), (3, "1.bias")):
                self.theta[at[part] : at[part] + channels] = state[name + key]
            self.running[layer, 0, :channels] = state[name + "1.running_mean"]
            self.running[layer, 1, :channels] = state[name + "1.running_var"]
        channels, width = self.plan[-1]
        at = self.at[_LAYERS]
        flat = self.bands * width
        head = self.theta[at[0] : at[0] + self.outputs * flat].reshape(
            self.outputs, self.bands, width
        )
        weight = np.asarray(state["head.weight"]).reshape(self.outputs, channels, self.bands)
        head[..., :channels] = weight.transpose(0, 2, 1)
        self.theta[at[1] : at[1] + self.outputs] = state["head.bias"]

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The network as `OxideCNN.state_dict` has it."""
        result: dict[str, Any] = {}
        for layer in range(_LAYERS):
            channels, width = self.plan[layer]
            before, below = self.plan[layer - 1] if layer else (1, 1)
            name = f"features.{layer}."
            at = self.at[layer]
            kernel = self.theta[at[0] : at[0] + 3 * below * width].reshape(3, below, width)
            result[name + "0.weight"] = kernel[:, :before, :channels].transpose(2, 1, 0).copy()
            for part, key in ((1, "0.bias"), (2, "1.weight"), (3, "1.bias")):
                result[name + key] = self.theta[at[part] : at[part] + channels].copy()
            result[name + "1.running_mean"] = self.running[layer, 0, :channels].copy()
            result[name + "1.running_var"] = self.running[layer, 1, :channels].copy()
            result[name + "1.num_batches_tracked"] = np.array(self.number, np.int64)
        channels, width = self.plan[-1]
        at = self.at[_LAYERS]
        flat = self.bands * width
        head = self.theta[at[0] : at[0] + self.outputs * flat].reshape(
            self.outputs, self.bands, width
        )
        result["head.weight"] = (
            head[..., :channels].transpose(0, 2, 1).reshape(self.outputs, -1).copy()
        )
        result["head.bias"] = self.theta[at[1] : at[1] + self.outputs].copy()
        return result | {k: a.copy() for k, a in self.fixed.items()}

    def snapshot(self) -> dict[str, NDArray]:
        """All that training goes on from."""
        number = np.array([self.number], np.int64)
        return {
            "theta": self.theta, "m": self.m, "v": self.v, "running": self.running, "number": number
        }  # fmt: skip

    def restore(self, snapshot: Mapping[str, NDArray]) -> None:
        """Go on from a :meth:`snapshot`."""
        self.theta[:] = snapshot["theta"]
        self.m[:] = snapshot["m"]
        self.v[:] = snapshot["v"]
        self.running[:] = snapshot["running"]
        self.number = int(snapshot["number"][0])

    def run(self, epochs: int, memory: Memory) -> NDArray[np.float64]:
        """Train some epochs more; the loss before each step."""
        memory.fit(self)
        losses = np.empty(epochs)
        for i in range(epochs):
            self.number += 1
            losses[i] = epoch(  # type: ignore[call-arg]
                self.theta, self.grad, self.m, self.v, self.running, self.x, self.y, self.plan, self.at,
                *memory.arrays, memory.choice, self.rate, self.decay, _MOMENTUM, self.number,
            )  # fmt: skip
        return losses

    def settle(self, memory: Memory) -> None:
        """Put the statistics of the final weights' own activations in place of the running ones, which lag behind."""
        memory.fit(self)
        epoch(  # type: ignore[call-arg]
            self.theta, self.grad, self.m, self.v, self.running, self.x, self.y, self.plan, self.at,
            *memory.arrays, memory.choice, self.rate, self.decay, 1.0, 0,
        )  # fmt: skip


class Memory:
    """Working memory of an epoch: about 0.35 MB a spectrum at n = 32. One for each thread, used fold after fold."""

    def __init__(self) -> None:
        self.key: tuple | None = None

    def fit(self, fold: FoldState) -> None:
        """Make it large enough for a fold."""
        samples = len(fold.x)
        padded = fold.plan[:, 1]
        key = (samples, fold.tiles, tuple(padded))
        if key == self.key:
            return
        self.key = key
        tiles, wide = fold.tiles, int(padded.max())
        rows = samples * tiles * TILE
        z_at = np.concatenate([[0], np.cumsum(rows * padded)])
        buffer_at = np.concatenate([[0], np.cumsum(GROUP * (tiles * TILE + 2) * padded)])
        waste = [-(GROUP * tiles) % height for height in HEIGHTS]
        self.choice = int(np.argmin(waste))
        height = HEIGHTS[self.choice]
        largest = int((padded[:-1] * padded[1:]).max())
        sizes = [
            int(z_at[-1]), 2 * rows * wide, int(buffer_at[-1]), POINTS * largest, 3 * largest,
            POINTS * height * wide, POINTS * height * WIDTH,
            POINTS * GROUP * tiles * wide, POINTS * GROUP * tiles * wide, POINTS * largest,
        ]  # fmt: skip
        z, d, buffers, *others = (_aligned(size) for size in sizes)
        # Rows about a spectrum are zero and never written.
        buffers[:] = 0
        for array in (z, d, *others):
            array[:] = 0
        self.arrays = (
            z, z_at.astype(np.int64), d, buffers, buffer_at.astype(np.int64), *others
        )  # fmt: skip
