"""The public API is documented by the numpydoc standard: every parameter, with its type, and what comes back."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
from numpydoc.validate import validate

import lunarray

# The checks that a reader would miss: https://numpydoc.readthedocs.io/en/latest/validation.html
CHECKS = {"GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04"}
CHECKS |= {"PR01", "PR02", "PR03", "PR04", "PR10", "RT01", "RT03", "YD01"}
# The house writes the summary on the line of the quotes, and ends a Returns section that a type says all of.
CHECKS -= {"GL01", "GL02", "RT03"}


def public_objects():
    seen = {}
    rooms = [
        "lunarray",
        *(
            f"lunarray.{m.name}"
            for m in pkgutil.iter_modules(lunarray.__path__)
            if m.ispkg and m.name != "cli"
        ),
    ]
    for room in rooms:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            obj = getattr(module, name)
            if (inspect.isfunction(obj) or inspect.isclass(obj)) and obj.__module__.startswith(
                "lunarray"
            ):
                seen[f"{obj.__module__}.{obj.__qualname__}"] = obj
    return seen


@pytest.mark.parametrize(
    ("path", "obj"), sorted(public_objects().items()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_docstring(path, obj):
    checks = set(CHECKS)
    if inspect.isclass(obj) and issubclass(obj, Exception):
        checks &= {"GL08", "SS01", "SS02", "SS03"}
    if dataclasses.is_dataclass(obj) or (inspect.isclass(obj) and issubclass(obj, (tuple, dict))):
        checks -= {"PR01", "PR02"}  # numpydoc sees no fields of tuples and of typed dicts
    if getattr(obj, "_is_protocol", False):
        checks -= {"PR01"}  # nobody makes objects of a protocol
    wrong = [f"{code}: {text}" for code, text in validate(path)["errors"] if code in checks]
    assert not wrong, f"{path}: {wrong}"
