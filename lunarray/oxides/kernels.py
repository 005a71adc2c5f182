"""The 1D-CNN's forward pass on the CPU: one fused, exact fp32 kernel on plain arrays.

The network is that of section 2.4 of the paper: blocks of Conv1d(k = 3, stride 1, zero padding) -> BatchNorm1d -> ReLU,
then a fully connected layer. `FusedCNN` evaluates it several times faster than general inference engines, by doing four
things that they do not do together:

* **Folding.** Batch normalisation at inference is an affine map: it is folded into the convolution's weights, and the
  de-standardisation of the oxides into the last layer's, both in float64. (The standardisation of the input is not
  folded: the zero padding applies to the standardised spectrum.)
* **Fewer multiplications.** A 3-tap convolution is evaluated six outputs at a time by the Toom-Cook/Winograd algorithm
  F(6, 3): 8 multiplications a channel pair instead of 18. It is an exact identity, and its rounding errors in float32
  are of the size of those of the direct form (a test holds both against float64).
* **Register tiles.** What remains are small matrix products, on which BLAS reaches about half of the processor's rate.
  The inner loop is therefore emitted as LLVM vector code by Numba intrinsics: the sums of a tile of rows x 2 vectors
  stay in registers. No C compiler is needed, and the width follows the processor (AVX-512, AVX2, or 4 lanes elsewhere).
* **Cache blocking.** `GROUP` pixels go through all layers together; a few tiles at a time are transformed, multiplied
  and transformed back in the L1 cache. Working memory is about 1 MB a thread, whatever the number of pixels.

Every pixel is computed by the same operations in the same order wherever it stands in a batch, so that chunked and
unchunked results are bit-equal. A NaN stays in its own pixel. The kernel runs in the calling thread only and without
the GIL.

References
----------
Lavin & Gray (2016), Fast Algorithms for Convolutional Neural Networks, CVPR, doi:10.1109/CVPR.2016.435 (minimal
filtering algorithms F(m, r) and their transforms).
Ioffe & Szegedy (2015), Batch Normalization, ICML (inference form, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _numba_intrinsic
from numpy.typing import ArrayLike, NDArray

from lunarray.errors import BandMismatchError, InputError, ModelError

__all__ = ["ConvBlock", "FusedCNN"]


# Numba's stubs give an intrinsic the arguments of its typing function, one more than its calls have.
intrinsic: Any = _numba_intrinsic


def _cpu_features() -> set[str]:
    """Features of the processor that Numba compiles for (its own settings come before the host's)."""
    chosen = getattr(config, "CPU_FEATURES", None)
    if chosen is not None:
        return {name[1:] for name in chosen.split(",") if name.startswith("+")}
    if getattr(config, "CPU_NAME", None) is not None:
        return set()
    return {name for name, on in llvm.get_host_cpu_features().items() if on}


def _register_shape() -> tuple[int, tuple[int, int, int]]:
    """Lanes of a vector and the candidate heights of a register tile two vectors wide."""
    features = _cpu_features()
    if "avx512f" in features:
        return 16, (10, 13, 11)  # 32 registers: 13 x 2 sums, 2 weights, 1 input
    if "avx2" in features:
        return 8, (6, 5, 4)  # 16 registers
    return 4, (6, 5, 4)


LANES, HEIGHTS = _register_shape()
#: Output channels of one register tile; channel counts are padded to a multiple of it.
WIDTH = 2 * LANES
#: Pixels that go through the network together: the last layer's weights are read once for all of them.
GROUP = 4
#: Pixels that are converted at a time where the input is not C-contiguous float32.
BLOCK = 1024
#: Outputs of the fully connected layer that are summed at a time.
TARGETS = 6
#: Outputs of one convolution tile, and multiplications in it: F(6, 3).
TILE = 6
POINTS = 8

# Filter transform G of F(6, 3) for the points 0, +-1, +-2, +-1/2 and infinity. The input and output transforms that
# belong to it are written out in `_transform_in` and `_transform_out`.
_FILTER = np.array(
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

_F32 = ir.FloatType()
_I64 = ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)


# --- Emitting vector code ------------------------------------------------------------------------------------------
# Offsets and strides are in floats. Vectors are loaded and stored with the alignment of a float, which costs nothing
# where the data happen to be aligned; `_aligned` sees to that.


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


class _Emit:
    """The few vector operations needed, on one llvmlite builder."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.b, self.signature = context, builder, signature
        name = f"llvm.fmuladd.v{LANES}f32"
        # fmuladd fuses where the processor can; llvm.fma would call a slow library function where it cannot.
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VEC, [_VEC] * 3), name
        )

    def data(self, position: int, value: Any, offset: Any) -> Any:
        array = self.context.make_array(self.signature.args[position])
        return self.at(array(self.context, self.b, value).data, offset)

    def at(self, base, offset):
        return self.b.gep(base, [_int(offset) if isinstance(offset, int) else offset])

    def load(self, base, offset=0):
        return self.b.load(self.b.bitcast(self.at(base, offset), _VEC.as_pointer()), align=4)

    def store(self, value, base, offset=0):
        self.b.store(
            value,
            self.b.bitcast(self.at(base, offset), _VEC.as_pointer()),
            align=4,
        )

    def splat(self, scalar):
        undefined = ir.Constant(_VEC, ir.Undefined)
        one = self.b.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.b.shuffle_vector(one, undefined, zeros)

    def const(self, value: float) -> ir.Constant:
        return ir.Constant(_VEC, [ir.Constant(_F32, value)] * LANES)

    def fma(self, x, y, z):
        """x * y + z; x may be a number."""
        return self.b.call(self._fma, [self.const(x) if isinstance(x, float) else x, y, z])

    def add(self, x, y):
        return self.b.fadd(x, y)

    def sub(self, x, y):
        return self.b.fsub(x, y)

    def relu(self, x):
        zero = self.const(0.0)
        # Written so that NaN stays NaN, and as the very form of one vmaxps.
        return self.b.select(self.b.fcmp_ordered(">", zero, x), zero, x)


def _emitter(arity: int, arrays: Sequence[int]) -> Any:
    """Make a Numba intrinsic of `arity` arguments from a function that emits its body.

    Arguments at the positions `arrays` are 1-D float32 arrays, each followed by an integer offset into it; the body
    gets a pointer in place of the two.
    """

    def decorate(body):
        def typing(context, *args):
            def codegen(context, builder, signature, values):
                emit = _Emit(context, builder, signature)
                given, i = [], 0
                while i < arity:
                    if i in arrays:
                        given.append(emit.data(i, values[i], values[i + 1]))
                        i += 2
                    else:
                        given.append(values[i])
                        i += 1
                body(emit, *given)
                return context.get_dummy_value()

            converted = [a if i in arrays else types.int64 for i, a in enumerate(args)]
            return types.void(*converted), codegen

        return typing

    return decorate


def _make_tile(height: int) -> Any:
    """Matrix product of `height` rows and two vectors of columns, the sums kept in registers."""

    @_emitter(9, (0, 3, 6))
    def body(e, rows, row_stride, weights, depth, out, out_stride):
        b = e.b
        row = [e.at(rows, b.mul(row_stride, _int(i))) for i in range(height)]
        before = b.block
        loop, after = b.append_basic_block("depth"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(_I64)
        k.add_incoming(_int(0), before)
        sums = [[b.phi(_VEC), b.phi(_VEC)] for _ in range(height)]
        for pair in sums:
            for s in pair:
                s.add_incoming(e.const(0.0), before)
        line = e.at(weights, b.mul(k, _int(WIDTH)))
        w = [e.load(line, 0), e.load(line, LANES)]
        new = []
        for i in range(height):
            x = e.splat(b.load(e.at(row[i], k)))
            new.append([e.fma(x, w[j], sums[i][j]) for j in range(2)])
        following = b.add(k, _int(1))
        k.add_incoming(following, loop)
        for i in range(height):
            for j in range(2):
                sums[i][j].add_incoming(new[i][j], loop)
        b.cbranch(b.icmp_signed("<", following, depth), loop, after)
        b.position_at_end(after)
        for i in range(height):
            line = e.at(out, b.mul(out_stride, _int(i)))
            for j in range(2):
                e.store(new[i][j], line, j * LANES)

    @intrinsic
    def tile(context, rows, ro, row_stride, weights, wo, depth, out, oo, out_stride):
        return body(context, rows, ro, row_stride, weights, wo, depth, out, oo, out_stride)

    return tile


_tile_0, _tile_1, _tile_2 = (_make_tile(height) for height in HEIGHTS)


@_emitter(7, (0, 3))
def _emit_transform_in(e, data, data_stride, out, point_stride, channels):
    b = e.b
    with cgutils.for_range_slice(b, _int(0), channels, _int(LANES), intp=_I64) as (c, _):
        at = e.at(data, c)
        d = [e.load(at, b.mul(data_stride, _int(i))) for i in range(POINTS)]
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
            e.store(v, to, b.mul(point_stride, _int(p)))


@intrinsic
def _transform_in(context, data, do, data_stride, out, oo, point_stride, channels):
    """Eight consecutive rows of channels -> the eight points of one tile (B^T d)."""
    return _emit_transform_in(context, data, do, data_stride, out, oo, point_stride, channels)


def _output_rows(e, points, point_stride, j):
    """Vector `j` of the six output rows of a tile, of its eight products (A^T m)."""
    b = e.b
    m = [
        e.load(points, b.add(b.mul(point_stride, _int(p)), _int(j * LANES))) for p in range(POINTS)
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


@_emitter(8, (0, 3, 5))
def _emit_transform_out(e, points, point_stride, bias, out, out_stride):
    b = e.b
    for j in range(2):
        beta = e.load(bias, j * LANES)
        for i, value in enumerate(_output_rows(e, points, point_stride, j)):
            to = b.add(b.mul(out_stride, _int(i)), _int(j * LANES))
            e.store(e.relu(e.add(value, beta)), out, to)


@intrinsic
def _transform_out(context, points, po, point_stride, bias, bo, out, oo, out_stride):
    """The eight products of one tile -> six output rows of `WIDTH` channels, biased and rectified (A^T m)."""
    return _emit_transform_out(context, points, po, point_stride, bias, bo, out, oo, out_stride)


@_emitter(9, (0, 2, 4))
def _emit_first(e, spectrum, weights, out, out_stride, channels, bands):
    b = e.b
    with cgutils.for_range_slice(b, _int(0), channels, _int(LANES), intp=_I64) as (c, _):
        line = e.at(weights, c)
        w = [e.load(line, b.mul(channels, _int(i))) for i in range(4)]
        with cgutils.for_range(b, bands) as position:
            at = e.at(spectrum, position.index)
            total = w[3]
            for i in range(3):
                total = e.fma(e.splat(b.load(e.at(at, i))), w[i], total)
            e.store(e.relu(total), e.at(out, c), b.mul(position.index, out_stride))


@intrinsic
def _first_block(context, spectrum, so, weights, wo, out, oo, out_stride, channels, bands):
    """The first convolution, of one input channel: direct, biased and rectified."""
    return _emit_first(context, spectrum, so, weights, wo, out, oo, out_stride, channels, bands)


@_emitter(9, (0, 3, 6))
def _emit_connect(e, data, data_stride, weights, length, out, out_stride):
    b = e.b
    pixel = [e.at(data, b.mul(data_stride, _int(i))) for i in range(GROUP)]
    target = [e.at(weights, b.mul(length, _int(o))) for o in range(TARGETS)]
    before = b.block
    loop, after = b.append_basic_block("length"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(_I64)
    k.add_incoming(_int(0), before)
    sums = [[b.phi(_VEC) for _ in range(TARGETS)] for _ in range(GROUP)]
    x = [e.load(line, k) for line in pixel]
    w = [e.load(line, k) for line in target]
    following = b.add(k, _int(LANES))
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
            b.store(lanes[0], e.at(out, b.add(b.mul(out_stride, _int(i)), _int(o))))


@intrinsic
def _connect(context, data, do, data_stride, weights, wo, length, out, oo, out_stride):
    """`GROUP` pixels times `TARGETS` rows of fully connected weights."""
    return _emit_connect(context, data, do, data_stride, weights, wo, length, out, oo, out_stride)


# --- The network ---------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _convolve(source, target, layer, tiles, bands, weights, biases, points, products, choice):
    """One block, from the rows of `source` to those of `target`, for `GROUP` pixels."""
    channels, source_width, target_width, weight_at, bias_at = (
        layer[0],
        layer[1],
        layer[2],
        layer[3],
        layer[4],
    )
    height = HEIGHTS[choice]
    length = tiles * TILE + 2
    rows = GROUP * tiles
    point_stride = height * source_width
    for start in range(0, rows, height):
        count = min(height, rows - start)
        for r in range(count):
            pixel, tile = divmod(start + r, tiles)
            _transform_in(
                source,
                (pixel * length + tile * TILE) * source_width,
                source_width,
                points,
                r * source_width,
                point_stride,
                source_width,
            )
        at = weight_at
        for column in range(0, target_width, WIDTH):
            for p in range(POINTS):
                a, m = p * point_stride, p * height * WIDTH
                if choice == 0:
                    _tile_0(points, a, source_width, weights, at, channels, products, m, WIDTH)
                elif choice == 1:
                    _tile_1(points, a, source_width, weights, at, channels, products, m, WIDTH)
                else:
                    _tile_2(points, a, source_width, weights, at, channels, products, m, WIDTH)
                at += channels * WIDTH
            for r in range(count):
                pixel, tile = divmod(start + r, tiles)
                _transform_out(
                    products,
                    r * WIDTH,
                    height * WIDTH,
                    biases,
                    bias_at + column,
                    target,
                    (pixel * length + tile * TILE + 1) * target_width + column,
                    target_width,
                )
    # What lies outside of the spectrum is zero for the next block, whatever the tiles' overhang holds.
    _clear_outside(target, target_width, length, bands)


@njit(nogil=True, cache=True)
def _clear_outside(data, width, length, bands):
    for pixel in range(GROUP):
        base = pixel * length * width
        data[base : base + width] = np.float32(0)
        data[base + (bands + 1) * width : base + length * width] = np.float32(0)


@njit(nogil=True, cache=True)
def _forward(
    x, out, mean, std, layers, first, weights, biases, last, last_bias, work, sizes, choice
):
    pixels, bands = x.shape
    tiles = (bands + TILE - 1) // TILE
    length = tiles * TILE + 2
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
    padded = last_bias.size
    spectrum[:] = np.float32(0)
    for start in range(0, pixels, GROUP):
        count = min(GROUP, pixels - start)
        for i in range(GROUP):
            # A short last group is filled up with its own last pixel.
            pixel = start + min(i, count - 1)
            for band in range(bands):
                spectrum[band + 1] = (x[pixel, band] - mean[band]) / std[band]
            base = (i * length + 1) * width
            _first_block(spectrum, 0, first, 0, source, base, width, width, bands)
        _clear_outside(source, width, length, bands)
        here, there = source, target
        for n in range(1, layers.shape[0]):
            _convolve(
                here,
                there,
                layers[n],
                tiles,
                bands,
                weights,
                biases,
                points,
                products,
                choice,
            )
            here, there = there, here
        final = layers[layers.shape[0] - 1, 2]
        flat = tiles * TILE * final
        for o in range(0, padded, TARGETS):
            _connect(here, final, length * final, last, o * flat, flat, results, o, padded)
        for i in range(count):
            for o in range(out.shape[1]):
                out[start + i, o] = results[i * padded + o] + last_bias[o]


def _aligned(size: int) -> NDArray[np.float32]:
    """Uninitialised floats that begin on a cache line."""
    raw = np.empty(size + 16, np.float32)
    skip = (-raw.ctypes.data // 4) % 16
    return raw[skip : skip + size]


def _lines(size: int) -> int:
    return -(-size // 16) * 16


def _padded(channels: int) -> int:
    return -(-channels // WIDTH) * WIDTH


def _spectra(x: ArrayLike, bands: int) -> NDArray:
    """The input as an array, if it is (pixel, bands)."""
    x = np.asarray(x)
    if x.ndim != 2:
        raise InputError(
            f"an array of {x.ndim} dimensions", where="x", remedy="pass (pixel, bands)"
        )
    if x.shape[1] != bands:
        raise BandMismatchError(f"{x.shape[1]} bands", where="x", remedy=f"the model needs {bands}")
    if x.dtype.kind not in "fiu":
        raise InputError(f"data of type {x.dtype}", where="x", remedy="pass real numbers")
    return x


def _blocks(x: NDArray) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Pieces that the kernels take, each with its first pixel.

    That is the whole of a C-contiguous float32 array. Everything else is copied, a block at a time so that the copy
    stays small. Read-only arrays are of another type to Numba: without the copy the kernel would be compiled again.
    """
    if x.dtype == np.float32 and x.flags.carray:
        if len(x):
            yield 0, x
        return
    for start in range(0, len(x), BLOCK):
        yield start, np.array(x[start : start + BLOCK], np.float32, order="C")


class ConvBlock(NamedTuple):
    """Trained parameters of one block, Conv1d(k = 3) -> BatchNorm1d.

    Attributes
    ----------
    weight : array of shape (channels out, channels in, 3)
    bias : array of shape (channels out,) or None
    gamma, beta, mean, var : arrays of shape (channels out,)
        Scale, shift and running statistics of the batch normalisation.
    eps : float
        What the batch normalisation adds to the variance.
    """

    weight: ArrayLike
    bias: ArrayLike | None
    gamma: ArrayLike
    beta: ArrayLike
    mean: ArrayLike
    var: ArrayLike
    eps: float = 1e-5

    def folded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and bias of the one convolution that does the work of both layers (float64)."""
        weight = np.asarray(self.weight, np.float64)
        scale = np.asarray(self.gamma, np.float64) / np.sqrt(
            np.asarray(self.var, np.float64) + self.eps
        )
        bias = 0.0 if self.bias is None else np.asarray(self.bias, np.float64)
        shift = np.asarray(self.beta, np.float64) + scale * (
            bias - np.asarray(self.mean, np.float64)
        )
        return weight * scale[:, None, None], shift


class FusedCNN:
    """The trained 1D-CNN as a function from spectra to oxides, on the CPU.

    Parameters
    ----------
    blocks : sequence of ConvBlock
        The convolution blocks in order; the first one takes one channel.
    fc_weight : array of shape (targets, channels * bands)
        Weights of the fully connected layer; its inputs are ordered channel by channel, as PyTorch's `flatten` leaves
        them.
    fc_bias : array of shape (targets,)
    x_mean, x_std : arrays of shape (bands,)
        Standardisation of the spectra: ``(x - x_mean) / x_std``.
    y_mean, y_std : arrays of shape (targets,)
        Standardisation of the targets in wt%: ``y * y_std + y_mean``.

    Raises
    ------
    ModelError
        When the parameters do not fit together or are not finite.

    Notes
    -----
    Instances hold arrays only; they may be called from several threads at once and pickle. The code is compiled for the
    processor at the first call (a few seconds) and cached on disk by Numba.
    """

    def __init__(
        self,
        blocks: Sequence[ConvBlock],
        fc_weight: ArrayLike,
        fc_bias: ArrayLike,
        x_mean: ArrayLike,
        x_std: ArrayLike,
        y_mean: ArrayLike,
        y_std: ArrayLike,
    ) -> None:
        x_mean, x_std, y_mean, y_std, fc_weight, fc_bias = (
            np.asarray(a, np.float64) for a in (x_mean, x_std, y_mean, y_std, fc_weight, fc_bias)
        )
        if not blocks:
            raise ModelError("a 1D-CNN without convolution blocks", where="blocks")
        folded = [ConvBlock(*block).folded() for block in blocks]
        widths = [1] + [w.shape[0] for w, _ in folded]
        for n, (weight, _) in enumerate(folded):
            if weight.shape[1:] != (widths[n], 3):
                raise ModelError(
                    f"convolution weights of shape {weight.shape}",
                    where=f"block {n + 1}",
                    remedy=f"expected (channels, {widths[n]}, 3)",
                )
        bands, targets = x_mean.size, y_mean.size
        shapes = {
            "fc_weight": (fc_weight, (targets, widths[-1] * bands)),
            "fc_bias": (fc_bias, (targets,)),
            "x_mean": (x_mean, (bands,)),
            "x_std": (x_std, (bands,)),
            "y_mean": (y_mean, (targets,)),
            "y_std": (y_std, (targets,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ModelError(f"shape {array.shape}", where=name, remedy=f"expected {shape}")
        if not bands or not targets:
            raise ModelError(f"a model of {bands} bands and {targets} targets", where="x_mean")
        if not (x_std > 0).all():
            raise ModelError("standard deviations that are not positive", where="x_std")
        everything = [a for a, _ in shapes.values()] + [a for pair in folded for a in pair]
        if not all(np.isfinite(a).all() for a in everything):
            raise ModelError("parameters that are not finite", where="weights")

        #: Bands of the input and oxides of the output.
        self.bands, self.targets = bands, targets
        self._mean, self._std = x_mean.astype(np.float32), x_std.astype(np.float32)
        self._pack_blocks(folded, widths)
        self._pack_last(fc_weight, fc_bias, y_mean, y_std, widths[-1])
        self._plan()

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike], *, eps: float = 1e-5) -> FusedCNN:
        """Build the kernel from the state of a trained `OxideCNN`.

        Parameters
        ----------
        state : mapping of str to array
            ``OxideCNN.state_dict()`` as NumPy arrays, or the tensors of its safetensors file. Other names are ignored.
        eps : float
            What the batch normalisations add to the variance; the state does not say.

        Returns
        -------
        FusedCNN
            The same function as the model in evaluation mode.

        Raises
        ------
        ModelError
            When a tensor is missing or does not fit.
        """
        try:
            blocks: list[ConvBlock] = []
            while f"features.{len(blocks)}.0.weight" in state:
                conv, norm = (f"features.{len(blocks)}.{part}." for part in (0, 1))
                blocks.append(
                    ConvBlock(
                        state[conv + "weight"],
                        state.get(conv + "bias"),
                        state[norm + "weight"],
                        state[norm + "bias"],
                        state[norm + "running_mean"],
                        state[norm + "running_var"],
                        eps,
                    )
                )
            return cls(
                blocks,
                state["head.weight"],
                state["head.bias"],
                state["input_mean"],
                state["input_std"],
                state["target_mean"],
                state["target_std"],
            )
        except KeyError as error:
            raise ModelError(
                f"no tensor {error}", where="state", remedy="pass the state of an OxideCNN"
            ) from error

    def _pack_blocks(
        self, folded: Sequence[tuple[NDArray, NDArray]], widths: Sequence[int]
    ) -> None:
        """Lay the convolution weights out in the order in which the kernel reads them."""
        weight, bias = folded[0]
        width = _padded(widths[1])
        self._first = _aligned(4 * width)
        first = self._first.reshape(4, width)
        first[:] = 0
        first[:3, : widths[1]] = weight[:, 0].T
        first[3, : widths[1]] = bias

        layers = [[1, 1, width, 0, 0]]
        packed, biases = [], []
        weight_at = bias_at = 0
        for n, (weight, bias) in enumerate(folded[1:], start=1):
            channels, width = widths[n], _padded(widths[n + 1])
            layers.append([channels, _padded(channels), width, weight_at, bias_at])
            # (point, column of tiles, channel in, channel out), the column first.
            points = np.zeros((POINTS, channels, width))
            points[..., : widths[n + 1]] = np.einsum("pk,oik->pio", _FILTER, weight)
            columns = points.reshape(POINTS, channels, width // WIDTH, WIDTH)
            packed.append(columns.transpose(2, 0, 1, 3).ravel())
            biases.append(np.pad(bias, (0, width - bias.size)))
            weight_at += packed[-1].size
            bias_at += width
        self._layers = np.array(layers, np.int64)
        self._weights = _aligned(weight_at)
        self._biases = _aligned(bias_at)
        if packed:
            self._weights[:] = np.concatenate(packed)
            self._biases[:] = np.concatenate(biases)

    def _pack_last(
        self, fc_weight: NDArray, fc_bias: NDArray, y_mean: NDArray, y_std: NDArray, channels: int
    ) -> None:
        """Lay the fully connected weights out as (target, band, channel), zero in all padding."""
        rows = -(-self.bands // TILE) * TILE
        padded = -(-self.targets // TARGETS) * TARGETS
        width = _padded(channels)
        self._last = _aligned(padded * rows * width)
        last = self._last.reshape(padded, rows, width)
        last[:] = 0
        scaled = (fc_weight * y_std[:, None]).reshape(self.targets, channels, self.bands)
        last[: self.targets, : self.bands, :channels] = scaled.transpose(0, 2, 1)
        self._last_bias = np.zeros(padded, np.float32)
        self._last_bias[: self.targets] = fc_bias * y_std + y_mean

    def _plan(self) -> None:
        """Choose the register tile that wastes the fewest rows, and size the working memory."""
        tiles = -(-self.bands // TILE)
        waste = [-(GROUP * tiles) % height for height in HEIGHTS]
        self._choice = int(np.argmin(waste))
        height = HEIGHTS[self._choice]
        length = tiles * TILE + 2
        width = int(self._layers[:, 2].max())
        self._sizes = np.array(
            [
                _lines(length),
                POINTS * height * width,
                POINTS * height * WIDTH,
                GROUP * length * width,
                GROUP * length * width,
                _lines(GROUP * self._last_bias.size),
            ],
            np.int64,
        )

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Oxides of spectra.

        Parameters
        ----------
        x : array of shape (pixel, bands)
            Reflectance as the model was trained on; computed in float32. A spectrum with NaN comes back as NaN.

        Returns
        -------
        ndarray of float32, shape (pixel, targets)
            wt%.

        Raises
        ------
        InputError
            When `x` is not two-dimensional.
        BandMismatchError
            When `x` has another number of bands than the model.
        """
        x = _spectra(x, self.bands)
        out = np.empty((x.shape[0], self.targets), np.float32)
        work = _aligned(int(self._sizes.sum()))
        work[:] = 0
        for start, part in _blocks(x):
            _forward(
                part,
                out[start : start + len(part)],
                self._mean,
                self._std,
                self._layers,
                self._first,
                self._weights,
                self._biases,
                self._last,
                self._last_bias,
                work,
                self._sizes,
                self._choice,
            )
        return out
