"""Vector code for the processor at hand, emitted as LLVM by Numba intrinsics: no C compiler is needed.

The width follows the processor (AVX-512, AVX2, or 4 lanes elsewhere). Offsets and strides are in floats. Vectors are
loaded and stored with the alignment of a float, which costs nothing where the data happen to be aligned; `aligned` sees
to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic as _numba_intrinsic
from numpy.typing import NDArray

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
#: Columns of one register tile.
WIDTH = 2 * LANES

F32 = ir.FloatType()
I64 = ir.IntType(64)
VEC = ir.VectorType(F32, LANES)


def constant(value: int) -> ir.Constant:
    """An integer in the emitted code."""
    return ir.Constant(I64, value)


class Emitter:
    """The few vector operations needed, on one llvmlite builder."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.b, self.signature = context, builder, signature
        name = f"llvm.fmuladd.v{LANES}f32"
        # fmuladd fuses where the processor can; llvm.fma would call a slow library function where it cannot.
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(VEC, [VEC] * 3), name
        )

    def data(self, position: int, value: Any, offset: Any) -> Any:
        array = self.context.make_array(self.signature.args[position])
        return self.at(array(self.context, self.b, value).data, offset)

    def at(self, base, offset):
        return self.b.gep(base, [constant(offset) if isinstance(offset, int) else offset])

    def load(self, base, offset=0):
        return self.b.load(self.b.bitcast(self.at(base, offset), VEC.as_pointer()), align=4)

    def store(self, value, base, offset=0):
        self.b.store(
            value,
            self.b.bitcast(self.at(base, offset), VEC.as_pointer()),
            align=4,
        )

    def splat(self, scalar):
        undefined = ir.Constant(VEC, ir.Undefined)
        one = self.b.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.b.shuffle_vector(one, undefined, zeros)

    def const(self, value: float) -> ir.Constant:
        return ir.Constant(VEC, [ir.Constant(F32, value)] * LANES)

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


def emitter(arity: int, arrays: Sequence[int]) -> Any:
    """Make a Numba intrinsic of `arity` arguments from a function that emits its body.

    Arguments at the positions `arrays` are 1-D float32 arrays, each followed by an integer offset into it; the body
    gets a pointer in place of the two.
    """

    def decorate(body):
        def typing(context, *args):
            def codegen(context, builder, signature, values):
                emit = Emitter(context, builder, signature)
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


def aligned(size: int) -> NDArray[np.float32]:
    """Uninitialised floats that begin on a cache line."""
    raw = np.empty(size + 16, np.float32)
    skip = (-raw.ctypes.data // 4) % 16
    return raw[skip : skip + size]


def whole_lines(size: int) -> int:
    """A number of floats that fills cache lines."""
    return -(-size // 16) * 16


def padded(channels: int) -> int:
    """A number of channels that fills register tiles."""
    return -(-channels // WIDTH) * WIDTH
