"""Steps of a convolution of three taps by F(6, 3), and of the layers about it, as vector code.

A 3-tap convolution is evaluated six outputs at a time by the Toom-Cook/Winograd algorithm F(6, 3): 8 multiplications a
channel pair instead of 18. What remains are small matrix products, whose sums stay in registers.

References
----------
Lavin & Gray (2016), Fast Algorithms for Convolutional Neural Networks, CVPR, doi:10.1109/CVPR.2016.435 (minimal
filtering algorithms F(m, r) and their transforms).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from lunarray.engine.compiling import njit
from lunarray.oxides.vector_code import (
    HEIGHTS,
    I64,
    LANES,
    VEC,
    WIDTH,
    constant,
    emitter,
    intrinsic,
)

#: Pixels or spectra that go through the network together: the last layer's weights are read once for all of them.
GROUP = 4
#: Outputs of the fully connected layer that are summed at a time.
TARGETS = 6
#: Outputs of one convolution tile, and multiplications in it: F(6, 3).
TILE = 6
POINTS = 8

# Filter transform G of F(6, 3) for the points 0, +-1, +-2, +-1/2 and infinity. The input and output transforms that
# belong to it are written out in `transform_in` and `transform_out`.
FILTER = np.array(
    [
        [1, 0, 0],
        [-2 / 9, -2 / 9, -2 / 9],
        [-2 / 9, 2 / 9, -2 / 9],
        [1 / 90, 1 / 45, 2 / 45],
        [1 / 90, -1 / 45, 2 / 45],
        [32 / 45, 16 / 45, 8 / 45],
        [32 / 45, -16 / 45, 8 / 45],
        [0, 0, 1],
    ]
)
FILTER32 = FILTER.astype(np.float32)
#: Rows of the register tile of the weights' gradient; it divides `WIDTH`, to which channels are padded.
DEPTH = 8 if LANES == 16 else 4


def register_tile(tiles: int) -> int:
    """The one of `HEIGHTS` that wastes the fewest rows on `GROUP` spectra of some tiles."""
    return int(np.argmin([-(GROUP * tiles) % height for height in HEIGHTS]))


def _make_tile(height: int) -> Any:
    """Matrix product of `height` rows and two vectors of columns, the sums kept in registers."""

    @emitter(9, (0, 3, 6))
    def body(e, rows, row_stride, weights, depth, out, out_stride):
        b = e.b
        row = [e.at(rows, b.mul(row_stride, constant(i))) for i in range(height)]
        before = b.block
        loop, after = b.append_basic_block("depth"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(I64)
        k.add_incoming(constant(0), before)
        sums = [[b.phi(VEC), b.phi(VEC)] for _ in range(height)]
        for pair in sums:
            for s in pair:
                s.add_incoming(e.const(0.0), before)
        line = e.at(weights, b.mul(k, constant(WIDTH)))
        w = [e.load(line, 0), e.load(line, LANES)]
        new = []
        for i in range(height):
            x = e.splat(b.load(e.at(row[i], k)))
            new.append([e.fma(x, w[j], sums[i][j]) for j in range(2)])
        following = b.add(k, constant(1))
        k.add_incoming(following, loop)
        for i in range(height):
            for j in range(2):
                sums[i][j].add_incoming(new[i][j], loop)
        b.cbranch(b.icmp_signed("<", following, depth), loop, after)
        b.position_at_end(after)
        for i in range(height):
            line = e.at(out, b.mul(out_stride, constant(i)))
            for j in range(2):
                e.store(new[i][j], line, j * LANES)

    @intrinsic
    def tile(context, rows, ro, row_stride, weights, wo, depth, out, oo, out_stride):
        return body(context, rows, ro, row_stride, weights, wo, depth, out, oo, out_stride)

    return tile


tile_0, tile_1, tile_2 = (_make_tile(height) for height in HEIGHTS)


@njit(nogil=True, inline="always")
def multiply_tiles(points, width, weights, at, channels, products, choice):
    """The products of a register tile at all points, for one column of output channels; where its weights end."""
    height = HEIGHTS[choice]
    for p in range(POINTS):
        a, m = p * height * width, p * height * WIDTH
        if choice == 0:
            tile_0(points, a, width, weights, at, channels, products, m, WIDTH)
        elif choice == 1:
            tile_1(points, a, width, weights, at, channels, products, m, WIDTH)
        else:
            tile_2(points, a, width, weights, at, channels, products, m, WIDTH)
        at += channels * WIDTH
    return at


@emitter(7, (0, 3))
def _emit_transform_in(e, data, data_stride, out, point_stride, channels):
    b = e.b
    with cgutils.for_range_slice(b, constant(0), channels, constant(LANES), intp=I64) as (c, _):
        at = e.at(data, c)
        d = [e.load(at, b.mul(data_stride, constant(i))) for i in range(POINTS)]
        # Rows of B^T, even and odd parts shared.
        v0 = e.sub(e.fma(5.25, e.sub(d[4], d[2]), d[0]), d[6])
        v7 = e.sub(e.fma(5.25, e.sub(d[3], d[5]), d[7]), d[1])
        even = e.fma(-4.25, d[4], e.add(d[2], d[6]))
        odd = e.fma(-4.25, d[3], e.add(d[1], d[5]))
        v1, v2 = e.add(even, odd), e.sub(even, odd)
        even = e.fma(0.25, d[2], e.fma(-1.25, d[4], d[6]))
        odd = e.fma(0.5, d[1], e.fma(-2.5, d[3], e.add(d[5], d[5])))
        v3, v4 = e.add(even, odd), e.sub(even, odd)
        even = e.fma(4.0, d[2], e.fma(-5.0, d[4], d[6]))
        odd = e.fma(0.5, d[5], e.fma(-2.5, d[3], e.add(d[1], d[1])))
        v5, v6 = e.add(even, odd), e.sub(even, odd)
        to = e.at(out, c)
        for p, v in enumerate((v0, v1, v2, v3, v4, v5, v6, v7)):
            e.store(v, to, b.mul(point_stride, constant(p)))


@intrinsic
def transform_in(context, data, do, data_stride, out, oo, point_stride, channels):
    """Eight consecutive rows of channels -> the eight points of one tile (B^T d)."""
    return _emit_transform_in(context, data, do, data_stride, out, oo, point_stride, channels)


def _output_rows(e, points, point_stride, j):
    """Vector `j` of the six output rows of a tile, of its eight products (A^T m)."""
    b = e.b
    m = [
        e.load(points, b.add(b.mul(point_stride, constant(p)), constant(j * LANES)))
        for p in range(POINTS)
    ]
    s1, d1 = e.add(m[1], m[2]), e.sub(m[1], m[2])
    s2, d2 = e.add(m[3], m[4]), e.sub(m[3], m[4])
    s3, d3 = e.add(m[5], m[6]), e.sub(m[5], m[6])
    return (
        e.add(e.add(m[0], s1), e.add(s2, s3)),
        e.fma(2.0, d2, e.fma(0.5, d3, d1)),
        e.fma(4.0, s2, e.fma(0.25, s3, s1)),
        e.fma(8.0, d2, e.fma(0.125, d3, d1)),
        e.fma(16.0, s2, e.fma(0.0625, s3, s1)),
        e.add(e.fma(32.0, d2, e.fma(0.03125, d3, d1)), m[7]),
    )


@emitter(8, (0, 3, 5))
def _emit_transform_out(e, points, point_stride, bias, out, out_stride):
    b = e.b
    for j in range(2):
        beta = e.load(bias, j * LANES)
        for i, value in enumerate(_output_rows(e, points, point_stride, j)):
            to = b.add(b.mul(out_stride, constant(i)), constant(j * LANES))
            e.store(e.relu(e.add(value, beta)), out, to)


@intrinsic
def transform_out(context, points, po, point_stride, bias, bo, out, oo, out_stride):
    """The eight products of one tile -> six output rows of `WIDTH` channels, biased and rectified (A^T m)."""
    return _emit_transform_out(context, points, po, point_stride, bias, bo, out, oo, out_stride)


@emitter(9, (0, 2, 4))
def _emit_first(e, spectrum, weights, out, out_stride, channels, bands):
    b = e.b
    with cgutils.for_range_slice(b, constant(0), channels, constant(LANES), intp=I64) as (c, _):
        line = e.at(weights, c)
        w = [e.load(line, b.mul(channels, constant(i))) for i in range(4)]
        with cgutils.for_range(b, bands) as position:
            at = e.at(spectrum, position.index)
            total = w[3]
            for i in range(3):
                total = e.fma(e.splat(b.load(e.at(at, i))), w[i], total)
            e.store(e.relu(total), e.at(out, c), b.mul(position.index, out_stride))


@intrinsic
def first_block(context, spectrum, so, weights, wo, out, oo, out_stride, channels, bands):
    """The first convolution, of one input channel: direct, biased and rectified."""
    return _emit_first(context, spectrum, so, weights, wo, out, oo, out_stride, channels, bands)


@emitter(9, (0, 3, 6))
def _emit_connect(e, data, data_stride, weights, length, out, out_stride):
    b = e.b
    pixel = [e.at(data, b.mul(data_stride, constant(i))) for i in range(GROUP)]
    target = [e.at(weights, b.mul(length, constant(o))) for o in range(TARGETS)]
    before = b.block
    loop, after = b.append_basic_block("length"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(I64)
    k.add_incoming(constant(0), before)
    sums = [[b.phi(VEC) for _ in range(TARGETS)] for _ in range(GROUP)]
    x = [e.load(line, k) for line in pixel]
    w = [e.load(line, k) for line in target]
    following = b.add(k, constant(LANES))
    k.add_incoming(following, loop)
    new = []
    for i in range(GROUP):
        new.append([e.fma(x[i], w[o], sums[i][o]) for o in range(TARGETS)])
        for o in range(TARGETS):
            sums[i][o].add_incoming(e.const(0.0), before)
            sums[i][o].add_incoming(new[i][o], loop)
    b.cbranch(b.icmp_signed("<", following, length), loop, after)
    b.position_at_end(after)
    for i in range(GROUP):
        for o in range(TARGETS):
            # Halves are added pairwise: a fixed order, and the most accurate one.
            lanes = [
                b.extract_element(new[i][o], ir.Constant(ir.IntType(32), n)) for n in range(LANES)
            ]
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [b.fadd(lanes[n], lanes[n + half]) for n in range(half)]
            b.store(lanes[0], e.at(out, b.add(b.mul(out_stride, constant(i)), constant(o))))


@intrinsic
def connect(context, data, do, data_stride, weights, wo, length, out, oo, out_stride):
    """`GROUP` pixels times `TARGETS` rows of fully connected weights."""
    return _emit_connect(context, data, do, data_stride, weights, wo, length, out, oo, out_stride)


# --- On the way back: gradients


@emitter(6, (0, 3))
def _emit_transform_out_raw(e, points, point_stride, out, out_stride):
    b = e.b
    for j in range(2):
        for i, value in enumerate(_output_rows(e, points, point_stride, j)):
            e.store(value, out, b.add(b.mul(out_stride, constant(i)), constant(j * LANES)))


@intrinsic
def transform_out_raw(context, points, po, point_stride, out, oo, out_stride):
    """The eight products of one tile -> six output rows of `WIDTH` channels (A^T m)."""
    return _emit_transform_out_raw(context, points, po, point_stride, out, oo, out_stride)


@emitter(10, (0, 3, 7))
def _emit_outer(e, x, x_stride, y, y_stride, length, out, out_stride):
    b = e.b
    line = [e.at(out, b.mul(out_stride, constant(i))) for i in range(DEPTH)]
    begin = [[e.load(line[i], j * LANES) for j in range(2)] for i in range(DEPTH)]
    before = b.block
    loop, after = b.append_basic_block("length"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(I64)
    k.add_incoming(constant(0), before)
    sums = [[b.phi(VEC), b.phi(VEC)] for _ in range(DEPTH)]
    row, column = e.at(x, b.mul(k, x_stride)), e.at(y, b.mul(k, y_stride))
    w = [e.load(column, 0), e.load(column, LANES)]
    new = []
    for i in range(DEPTH):
        scalar = e.splat(b.load(e.at(row, i)))
        new.append([e.fma(scalar, w[j], sums[i][j]) for j in range(2)])
    following = b.add(k, constant(1))
    k.add_incoming(following, loop)
    for i in range(DEPTH):
        for j in range(2):
            sums[i][j].add_incoming(begin[i][j], before)
            sums[i][j].add_incoming(new[i][j], loop)
    b.cbranch(b.icmp_signed("<", following, length), loop, after)
    b.position_at_end(after)
    for i in range(DEPTH):
        for j in range(2):
            e.store(new[i][j], line[i], j * LANES)


@intrinsic
def outer(context, x, xo, x_stride, y, yo, y_stride, length, out, oo, out_stride):
    """Add to `DEPTH` rows of `WIDTH` columns the sum over positions of x times y."""
    return _emit_outer(context, x, xo, x_stride, y, yo, y_stride, length, out, oo, out_stride)


@emitter(7, (0, 3))
def _emit_transform_gradient(e, data, data_stride, out, point_stride, channels):
    b = e.b
    with cgutils.for_range_slice(b, constant(0), channels, constant(LANES), intp=I64) as (c, _):
        at = e.at(data, c)
        y = [e.load(at, b.mul(data_stride, constant(i))) for i in range(TILE)]
        # Rows of A, the transpose of what `transform_out_raw` does: even and odd parts shared.
        points = [y[0]]
        for f in (1.0, 4.0, 0.25):
            even = e.fma(f * f, y[4], e.fma(f, y[2], y[0]))
            g = f**0.5
            odd = e.fma(g**5, y[5], e.fma(g**3, y[3], e.fma(g, y[1], e.const(0.0))))
            points += [e.add(even, odd), e.sub(even, odd)]
        points.append(y[5])
        to = e.at(out, c)
        for p, value in enumerate(points):
            e.store(value, to, b.mul(point_stride, constant(p)))


@intrinsic
def transform_gradient(context, data, do, data_stride, out, oo, point_stride, channels):
    """Six consecutive rows of an output's gradient -> the eight points of one tile (A y)."""
    return _emit_transform_gradient(context, data, do, data_stride, out, oo, point_stride, channels)
