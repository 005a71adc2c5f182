"""Versions of lunarray, of what it stands on and of the machine, for bug reports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from typing import TextIO

from lunarray.errors import EXTRAS

__version__ = "0.1.0"


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of Python, lunarray, its extras and dependencies, and the machine.

    Nothing is imported for it, so it works where an import fails.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output by default.
    """
    print(f"lunarray: {__version__}", file=file)
    print(f"python: {sys.version.split()[0]} ({sys.executable})", file=file)
    print(f"platform: {platform.platform()}, {os.cpu_count()} CPUs", file=file)
    for extra, here in extras().items():
        print(f"lunarray[{extra}]: {'installed' if here else 'not installed'}", file=file)
    for name in _dependencies():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{name}: {version}", file=file)


def extras() -> dict[str, bool]:
    """Tell which extras of lunarray are installed, that is every package that only they bring; nothing is imported."""
    here: dict[str, bool] = {}
    for package, extra in EXTRAS.items():
        here[extra] = here.get(extra, True) and importlib.util.find_spec(package) is not None
    return here


def _dependencies() -> list[str]:
    try:
        requirements = importlib.metadata.requires("lunarray") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        requirements = []
    names = [match.group() for line in requirements if (match := re.match(r"[\w.-]+", line))]
    return list(dict.fromkeys(names))
