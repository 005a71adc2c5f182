"""Versions of lunarray, of what it stands on and of the machine, for bug reports."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable
from typing import TextIO

from lunarray.errors import EXTRAS

__version__ = "0.1.0"

#: Version of the numbers that each room computes. Who changes a result, be it in the last digits that matter, raises
#: that of the room by one, by hand, in the same commit: the identity of what is computed contains it, so that results
#: of before and after are never mixed in one store. ``tests/test_numbers.py`` holds reference numbers of every verb and
#: fails where they change and this does not.
NUMERIC_VERSION = {
    "engine": 1,
    "geo": 1,
    "sp": 3,
    "oxides": 2,
    "xrf": 7,
    "superres": 4,
    "fractures": 3,
    "maps": 1,
    "simulate": 4,
}

#: Rooms whose functions the others call within their own.
_BELOW = ("engine", "geo")


def numeric_versions(rooms: Iterable[str]) -> dict[str, int]:
    """Give the versions of the numbers of some rooms, and of those that they stand on; others have none."""
    rooms = {room for room in rooms if room in NUMERIC_VERSION}
    return {room: NUMERIC_VERSION[room] for room in sorted({*rooms, *(_BELOW if rooms else ())})}


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of Python, lunarray, its extras and dependencies, and the machine.

    Nothing is imported for it, so it works where an import fails.

    Parameters
    ----------
    file : text file, optional
        Where to print; standard output by default.

    Examples
    --------
    >>> import lunarray as la
    >>> la.show_versions()  # doctest: +SKIP
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
