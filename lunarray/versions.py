"""Versions of lunarray, of what it stands on and of the machine, for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from typing import TextIO

__version__ = "0.1.0"


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of Python, lunarray, its dependencies and the machine.

    Nothing is imported for it, so it works where an import fails.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output by default.
    """
    print(f"lunarray: {__version__}", file=file)
    print(f"python: {sys.version.split()[0]} ({sys.executable})", file=file)
    print(f"platform: {platform.platform()}, {os.cpu_count()} CPUs", file=file)
    for name in _dependencies():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"{name}: {version}", file=file)


def _dependencies() -> list[str]:
    try:
        requirements = importlib.metadata.requires("lunarray") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        requirements = []
    names = [match.group() for line in requirements if (match := re.match(r"[\w.-]+", line))]
    return list(dict.fromkeys(names))
