"""The reference: one page a room, and one for the verbs of ``.lunar``, from what is public and its docstrings."""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "reference"
ROOMS = (
    "readers", "sp", "oxides", "xrf", "superres", "fractures", "maps", "geo", "store", "export", "simulate", "plot",
    "view", "engine", "errors",
)  # fmt: skip


def _first_line(obj: Any) -> str:
    return (inspect.getdoc(obj) or "").split("\n\n")[0].replace("\n", " ")


def _heading(text: str, under: str) -> list[str]:
    return [text, under * len(text), ""]


def _entries(module: Any, shown: str) -> list[str]:
    lines: list[str] = []
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    for name in sorted(names, key=str.lower):
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            continue
        if inspect.isclass(thing) and (thing.__module__ or "").startswith("lunarray"):
            kind, options = "autoclass", ["   :members:"]
            if issubclass(thing, Exception):
                options = []
        elif inspect.isfunction(thing) and thing.__module__.startswith("lunarray"):
            kind, options = "autofunction", []
        else:
            continue
        lines += [f".. {kind}:: {shown}.{name}", *options, ""]
    return lines


def _room(name: str) -> str:
    module = importlib.import_module(f"lunarray.{name}")
    text = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]
    title = _heading(f"lunarray.{name}", "=")
    lines = [*title, text, "", f".. currentmodule:: lunarray.{name}", ""]
    return "\n".join([*lines, *_entries(module, f"lunarray.{name}")])


def _verbs() -> str:
    """The verbs of the accessors: what each does, and the function where it is described in full."""
    from lunarray.accessor import LunarDataArrayAccessor, LunarDatasetAccessor

    lines = _heading("The verbs of .lunar", "=")
    lines += [
        "On every Dataset and DataArray of xarray, once lunarray is imported. A verb takes the object as the first",
        "argument of the function that it links to.",
        "",
        ".. list-table::",
        "   :widths: 30 55 15",
        "   :header-rows: 1",
        "",
        "   * - verb",
        "     - what it does",
        "     - on",
    ]
    found: dict[str, list[str]] = {}
    for kind, owner in (("Dataset", LunarDatasetAccessor), ("DataArray", LunarDataArrayAccessor)):
        for name in (n for n in dir(owner) if not n.startswith("_")):
            found.setdefault(name, []).append(kind)
    for name, kinds in sorted(found.items()):
        static = inspect.getattr_static(LunarDatasetAccessor, name, None)
        static = static or inspect.getattr_static(LunarDataArrayAccessor, name)
        target = static.target.replace(":", ".")
        summary = _first_line(static.function)
        lines += [
            f"   * - :func:`{name} <{target}>`",
            f"     - {summary}",
            f"     - {', '.join(kinds)}",
        ]
    return "\n".join([*lines, ""])


def write(app: Any = None) -> None:
    """Write the pages of the reference."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    rooms = [room for room in ROOMS if importlib.util.find_spec(f"lunarray.{room}")]
    pages = {room: _room(room) for room in rooms}
    pages["verbs"] = _verbs()
    import lunarray

    top = [
        *_heading("lunarray", "="),
        "What opens files and starts clusters stands at the top.",
        "",
    ]
    pages["top"] = "\n".join([*top, *_entries(lunarray, "lunarray")])
    tree = ["top", "verbs", *rooms]
    index = [
        *_heading("Reference", "="),
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {p}" for p in tree),
        "",
    ]
    pages["index"] = "\n".join(index)
    for name, text in pages.items():
        (HERE / f"{name}.rst").write_text(text + "\n", encoding="utf-8")
