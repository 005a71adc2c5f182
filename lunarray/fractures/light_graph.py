"""The light network, and the rule by which it sees an image, as an ONNX graph without weights.

``python -m lunarray.fractures.light_graph`` writes ``data/light.onnx`` anew; it needs the package onnx. The graph is of
the default sizes and rule; its weights, with batch normalisation folded in, are put in when it is loaded
(:mod:`lunarray.fractures.runtime`). So there is one file of weights, whatever runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.fractures.normalise import CELL, Normalisation

#: Version of the operators, which ONNX Runtime has had since 1.14.
OPSET = 17
GRAPH = Path(__file__).parent / "data" / "light.onnx"
#: Names of a convolution and of the normalisation that follows it in the weights of :class:`.model.Light`, the name of
#: both in the graph. The first column is also where the last layer is, which has none.
Folding = tuple[str, str | None]


def convolutions() -> dict[str, Folding]:
    """Convolutions of the graph by name: where their weights are in the network, and those of their normalisation."""
    plain = ["stem", *(f"pyramid.{i}" for i in range(4)), "project"]
    plain += ["from_eighth", "at_quarter", "from_quarter", "at_half"]
    blocks = {"fine": False, "middle.0": True, "middle.1": False}
    blocks |= {"deep.0": True, "deep.1": False, "deep.2": False}
    for name, shortcut in blocks.items():
        plain += [f"{name}.first", f"{name}.second", *([f"{name}.shortcut"] if shortcut else [])]
    return {name: (f"{name}.0", f"{name}.1") for name in plain} | {"head": ("head", None)}


class _Graph:
    """Nodes in a row, each named by the value that it gives."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, tuple[int, ...]] = {}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self, x: str, name: str, into: int, out: int, size: int = 3, stride: int = 1, dilation: int = 1
    ) -> str:  # fmt: skip
        self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] = (
            (out, into, size, size),
            (out,),
        )
        pad = dilation * (size // 2)
        return self.add(
            "Conv", x, f"{name}.weight", f"{name}.bias", kernel_shape=[size] * 2, strides=[stride] * 2,
            dilations=[dilation] * 2, pads=[pad] * 4,
        )  # fmt: skip

    def layer(self, x: str, name: str, into: int, out: int, size: int = 3, **how: int) -> str:
        return self.add("Relu", self.conv(x, name, into, out, size, **how))

    def block(
        self, x: str, name: str, into: int, out: int, stride: int = 1, dilation: int = 1
    ) -> str:
        around = x
        if stride > 1 or into != out:
            around = self.conv(x, f"{name}.shortcut", into, out, 1, stride=stride)
        inner = self.layer(x, f"{name}.first", into, out, stride=stride, dilation=dilation)
        inner = self.conv(inner, f"{name}.second", out, out, dilation=dilation)
        return self.add("Relu", self.add("Add", inner, around))

    def pool(
        self, x: str, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
    ) -> str:
        return self.add(
            "AveragePool", x, kernel_shape=list(kernel), strides=list(strides), pads=[*pads, *pads],
            count_include_pad=1,
        )  # fmt: skip

    def larger(self, x: str, factor: int) -> str:
        scales = self.constant([1, 1, factor, factor])
        return self.add(
            "Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"
        )


def _seen(graph: _Graph, tiles: str, rule: Normalisation) -> str:
    """What the network sees of tiles: :func:`.normalise.normalise`, operator by operator."""
    zero, one = graph.constant(0), graph.constant(1)
    bad = graph.add("Or", graph.add("IsNaN", tiles), graph.add("IsInf", tiles))
    axis = graph.constant([1], np.int64)
    x = graph.add("Unsqueeze", graph.add("Where", bad, zero, tiles), axis)
    weight = graph.add("Unsqueeze", graph.add("Where", bad, zero, one), axis)
    r = max(1, rule.window // (2 * CELL))

    def blurred(field: str) -> str:
        for _ in range(2):
            field = graph.pool(field, (2 * r + 1, 1), (1, 1), (r, 0))
            field = graph.pool(field, (1, 2 * r + 1), (1, 1), (0, r))
        return field

    def cells(field: str) -> str:
        return graph.pool(field, (CELL, CELL), (CELL, CELL), (0, 0))

    count = graph.add("Max", blurred(cells(weight)), graph.constant(1e-6))
    inverse = graph.add("Div", one, count)

    def average(field: str) -> str:
        return graph.larger(graph.add("Mul", blurred(cells(field)), inverse), CELL)

    mean = average(x)
    difference = graph.add("Mul", graph.add("Sub", x, mean), weight)
    square = average(graph.add("Mul", difference, difference))
    deviation = graph.add("Sqrt", graph.add("Max", square, zero))
    floor = graph.add("Mul", graph.add("Abs", mean), graph.constant(rule.floor))
    scale = graph.add("Add", deviation, floor)
    scale = graph.add("Where", graph.add("Greater", scale, zero), scale, one)
    clip = graph.constant(-rule.clip), graph.constant(rule.clip)
    return graph.add("Clip", graph.add("Div", difference, scale), *clip)


def build_graph(width: int = 24, rule: Normalisation | None = None) -> bytes:
    """Build the graph: tiles (tile, y, x) float32, NaN without data, to probabilities (tile, y, x)."""
    from onnx import TensorProto, helper, numpy_helper

    graph, a, b, c = _Graph(), width, 2 * width, 4 * width
    seen = _seen(graph, "tiles", rule or Normalisation())
    half = graph.block(graph.layer(seen, "stem", 1, a, stride=2), "fine", a, a)
    quarter = graph.block(half, "middle.0", a, b, stride=2)
    quarter = graph.block(quarter, "middle.1", b, b)
    eighth = graph.block(quarter, "deep.0", b, c, stride=2)
    eighth = graph.block(eighth, "deep.1", c, c)
    eighth = graph.block(eighth, "deep.2", c, c, dilation=2)
    branches = [graph.layer(eighth, "pyramid.0", c, b, 1)]
    branches += [
        graph.layer(eighth, f"pyramid.{i}", c, b, dilation=d) for i, d in ((1, 1), (2, 3), (3, 5))
    ]
    up = graph.layer(graph.add("Concat", *branches, axis=1), "project", 4 * b, c, 1)
    up = graph.larger(graph.layer(up, "from_eighth", c, b, 1), 2)
    up = graph.layer(graph.add("Concat", up, quarter, axis=1), "at_quarter", 2 * b, b)
    up = graph.larger(graph.layer(up, "from_quarter", b, a, 1), 2)
    up = graph.layer(graph.add("Concat", up, half, axis=1), "at_half", 2 * a, a)
    # Four logits for each pixel of half the resolution are one for each of the full, as torch's pixel_shuffle has them.
    logit = graph.add("DepthToSpace", graph.conv(up, "head", a, 4), blocksize=2, mode="CRD")
    logit = graph.add("Squeeze", logit, graph.constant([1], np.int64))
    graph.nodes.append(helper.make_node("Sigmoid", [logit], ["probability"], name="probability"))

    def external(name: str, shape: tuple[int, ...]) -> Any:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="light.safetensors")
        return tensor

    sides = ["tile", "y", "x"]
    made = helper.make_graph(
        graph.nodes,
        "light",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, sides)],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
        + [external(name, shape) for name, shape in graph.weights.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8, producer_name="lunarray")
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    GRAPH.write_bytes(build_graph())
