"""The plan of the house, held to the code: who may import whom, and how large a thing may grow.

``python tests/test_house.py`` prints what stands against each rule, and the measures.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: From the ground up: a room imports from those before it, and from nothing beside or above it.
LAYERS = (
    {"errors", "typing", "units"},
    {"versions"},
    {"engine"},
    {"geo"},
    {"store"},
    {"export"},
    {"readers"},
    {"sp", "oxides", "xrf", "superres", "fractures", "maps"},
    {"simulate"},
    {"plot", "view"},
    {"accessor", "cli", "__main__", "lunarray"},
)
#: These may use one another, by the names that a room shows.
SCIENCE = LAYERS[7]
#: Modules of Dask that are its own affair, and the one module of ours that knows them.
DASK = ("dask._", "dask.core", "dask.blockwise", "dask.highlevelgraph", "dask.layers", "dask.local")
DASK_NAMES = {"HighLevelGraph", "Blockwise", "BlockwiseDep", "blockwise", "GraphNode", "TaskRef"}
GRAPH = "lunarray.engine.graph"
COMPILER = "lunarray.engine.compiling"

LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS, NAMES_OF_A_ROOM = 600, 100, 12, 26


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else parts[0]

    @functools.cached_property
    def imports(self) -> list[tuple[str, str]]:
        """Every import wherever it stands, in functions and for types too: (module, name or "")."""
        package = self.name.split(".")
        if self.path.name != "__init__.py":
            package.pop()
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found += [(base, alias.name) for alias in node.names]
        return found

    @functools.cached_property
    def functions(self) -> list[ast.FunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]

    @property
    def length(self) -> int:
        """Lines, without the examples of docstrings."""
        documented = (ast.FunctionDef, ast.ClassDef)
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, documented))
        return self.lines - sum(map(lines_of_examples, nodes))


def lines_of_examples(node: ast.FunctionDef | ast.ClassDef) -> int:
    """Lines of the examples of a docstring, which every public one has: they make no function harder to read."""
    _, found, examples = (ast.get_docstring(node) or "").partition("\nExamples\n--------\n")
    return 4 + examples.count("\n") if found else 0


@functools.cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted((ROOT / "lunarray").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return found


def target(base: str, name: str) -> str | None:
    """The module of ours that an import loads."""
    whole = f"{base}.{name}"
    return whole if whole in modules() else base if base in modules() else None


@functools.cache
def edges() -> dict[str, list[str]]:
    return {
        m.name: sorted({t for base, name in m.imports if (t := target(base, name)) and t != m.name})
        for m in modules().values()
    }


def layer(room: str) -> int:
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), -1)


# ------------------------------------------------------------------ rules: each yields what stands against it


def layers() -> Iterator[str]:
    for module in modules().values():
        if layer(module.room) < 0:
            yield f"{module.name} is in no layer"
        for other in edges()[module.name]:
            there = modules()[other]
            if module.room == there.room or module.room in LAYERS[-1]:
                continue
            if layer(there.room) >= layer(module.room) and not (
                {module.room, there.room} <= SCIENCE
            ):
                yield f"{module.name} -> {other}"


def doors() -> Iterator[str]:
    """A science room uses another by what that one shows, not by its insides."""
    for module in modules().values():
        for other in edges()[module.name]:
            there = modules()[other].room
            if module.room in SCIENCE and there in SCIENCE - {module.room} and other.count(".") > 1:
                yield f"{module.name} -> {other}"


def circles() -> Iterator[str]:
    """Imports that come back, be they in functions or for types."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[str]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges()[name]:
            if other not in index:
                yield from visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                yield " <-> ".join(sorted(circle))

    for name in modules():
        if name not in index:
            yield from visit(name)


def private_names() -> Iterator[str]:
    """A name with an underscore is for its own module."""
    for module in modules().values():
        aliases = {}
        for base, name in module.imports:
            if name.startswith("_") and not name.startswith("__") and base.startswith("lunarray"):
                if f"{base}.{name}" not in modules():
                    yield f"{module.name}: {base}.{name}"
            elif (loaded := target(base, name)) and loaded.endswith(f".{name}"):
                aliases[name] = loaded
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in aliases
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                yield f"{module.name}: {aliases[node.value.id]}.{node.attr}"


def dask_insides() -> Iterator[str]:
    for module in modules().values():
        if module.name == GRAPH:
            continue
        for base, name in module.imports:
            whole = f"{base}.{name}" if name else base
            if whole.startswith(DASK) or (base.split(".")[0] == "dask" and name in DASK_NAMES):
                yield f"{module.name}: {whole}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in {
                "__dask_graph__",
                "__dask_optimize__",
                "__dask_layers__",
            }:
                yield f"{module.name}: {node.attr}"


def compilers() -> Iterator[str]:
    """One compiler of kernels: ours, whose cache cannot stop an import."""
    for module in modules().values():
        if module.name != COMPILER:
            names = {name for base, name in module.imports if base.split(".")[0] == "numba"}
            yield from (f"{module.name}: {name}" for name in names & {"njit", "jit", "vectorize"})


def parameters() -> Iterator[str]:
    for module in modules().values():
        for function in module.functions:
            args = function.args
            count = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
            # On the command line an option is a parameter: there, as many as a user needs.
            if count > PARAMETERS and module.room != "cli":
                yield f"{module.name}.{function.name}"


def long_functions() -> Iterator[str]:
    for module in modules().values():
        for function in module.functions:
            lines = function.end_lineno - function.lineno + 1 - lines_of_examples(function)
            if lines > LINES_OF_A_FUNCTION:
                yield f"{module.name}.{function.name}"


def long_files() -> Iterator[str]:
    for module in modules().values():
        if module.length > LINES_OF_A_FILE:
            yield module.name


def names_of_a_room() -> Iterator[str]:
    import importlib

    for room in sorted(SCIENCE):
        if f"lunarray.{room}" in modules():
            shown = importlib.import_module(f"lunarray.{room}").__all__
            if len(shown) > NAMES_OF_A_ROOM:
                yield room


RULES = (
    layers, doors, circles, private_names, dask_insides, compilers, parameters, long_functions, long_files,
    names_of_a_room,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    against = sorted(set(rule()))
    assert not against, "\n".join(["against the plan:", *against])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(f"{sum(m.lines for m in modules().values())} lines in {len(modules())} files")
    for rule in RULES:
        against = sorted(set(rule()))
        print(f"{rule.__name__}: {len(against)}")
        for text in against:
            print("   ", text)
