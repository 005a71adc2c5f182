"""Write what type checkers and editors know of the accessors: ``python tests/stubs.py`` after a verb has changed.

``lunarray/accessor.pyi`` repeats the signature of the function behind each verb, without its first parameter. What is
in it is read from the sources; a test holds it to them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "lunarray/accessor.pyi"

HEAD = '''"""The ``.lunar`` accessors as type checkers and editors see them. Written by ``python tests/stubs.py``."""
'''
#: What a function returns to a user: an object of xarray that has ``.lunar``.
TYPED = {"xr.Dataset": "Dataset", "xr.DataArray": "DataArray"}


@functools.cache
def source(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


@functools.cache
def imported(module: str) -> dict[str, tuple[str, str]]:
    """Names of a module that come from elsewhere, also for types alone: (module, name or "")."""
    found = {}
    for node in ast.walk(source(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (alias.name, "")
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = (node.module, alias.name)
    return found


class Imports:
    """The imports that annotations need, each name once."""

    def __init__(self) -> None:
        self.lines = {"import xarray as xr", "from lunarray.typing import DataArray, Dataset"}
        self.taken = {"xr": ("xarray", ""), "Dataset": ("", ""), "DataArray": ("", "")}

    def name(self, name: str, module: str) -> str:
        """What a name of a module is called in the stub."""
        if name in vars(
            __builtins__ if inspect.ismodule(__builtins__) else sys.modules["builtins"]
        ):
            return name
        origin = imported(module).get(name, (module, name))
        if origin[1]:  # a class is where it was written, by whichever room it was imported
            thing = getattr(importlib.import_module(origin[0]), origin[1], None)
            if inspect.isclass(thing) and thing.__module__.startswith("lunarray"):
                origin = (thing.__module__, thing.__qualname__)
        room = module.split(".")[1].title()
        called = name if self.taken.setdefault(name, origin) == origin else f"{room}{name}"
        self.taken[called] = origin
        base, what = origin
        if what:
            same = called == what
            self.lines.add(f"from {base} import {what}" + ("" if same else f" as {called}"))
        else:
            self.lines.add(f"import {base}" + ("" if called == base else f" as {called}"))
        return called


class _Rename(ast.NodeTransformer):
    def __init__(self, module: str, imports: Imports, kind: str) -> None:
        self.module, self.imports, self.kind = module, imports, kind

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if node.id == "T":
            return ast.Name(self.kind)
        return ast.Name(self.imports.name(node.id, self.module))


def verbs(accessor: type) -> Iterator[tuple[str, str]]:
    """Verbs and where their functions are, those that both kinds share first."""
    for base in reversed(accessor.__mro__):
        for name, verb in vars(base).items():
            if hasattr(verb, "target"):
                yield name, verb.target


def definition(target: str) -> tuple[str, ast.FunctionDef]:
    room, name = target.split(":")
    module = inspect.unwrap(getattr(importlib.import_module(room), name)).__module__
    for node in source(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return module, node
    raise LookupError(target)


def method(verb: str, target: str, kind: str, imports: Imports) -> str:
    module, function = definition(target)
    rename = _Rename(module, imports, kind)

    def annotation(node: Any) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        return rename.visit(ast.parse(ast.unparse(node), mode="eval").body)

    args = ast.parse(ast.unparse(function)).body[0].args
    if len(args.defaults) == len(args.args):
        del args.defaults[0]
    args.args[0] = ast.arg("self")
    for arg in [*args.args[1:], *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]:
        arg.annotation = annotation(arg.annotation)
    # A default that is no plain value stands as dots: a stub evaluates nothing.
    args.defaults, args.kw_defaults = (
        [d if d is None or _plain(d) else ast.Constant(...) for d in defaults]
        for defaults in (args.defaults, args.kw_defaults)
    )
    returns = ast.unparse(annotation(function.returns))
    summary = textwrap.fill(ast.get_docstring(function).split("\n\n")[0], 100)
    body = textwrap.indent(f'"""{summary}"""', "    ")
    text = f"def {verb}({ast.unparse(args)}) -> {TYPED.get(returns, returns)}:\n{body}\n"
    return textwrap.indent(text, "    ")


def _plain(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def accessors() -> str:
    from lunarray.accessor import LunarDataArrayAccessor, LunarDatasetAccessor

    imports = Imports()
    classes = []
    for accessor, kind in (
        (LunarDatasetAccessor, "Dataset"),
        (LunarDataArrayAccessor, "DataArray"),
    ):
        methods = [method(verb, target, kind, imports) for verb, target in verbs(accessor)]
        doc = inspect.cleandoc(accessor.__doc__ or "")
        start = f"    def __init__(self, obj: xr.{kind}) -> None: ...\n"
        classes.append(
            "\n".join([f'class {accessor.__name__}:\n    """{doc}"""\n', start, *methods])
        )
    text = "\n".join([HEAD, *sorted(imports.lines), "", *classes])
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"],
            input=text, capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout  # fmt: skip
    return text


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    STUB.write_text(accessors(), encoding="utf-8")
