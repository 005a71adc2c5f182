"""Which readers there are: those that installed packages announce, and those that a program adds."""

from __future__ import annotations

import functools
import importlib.metadata
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from lunarray.engine.tables import html_table
from lunarray.errors import InputError, LunarrayWarning
from lunarray.readers.protocol import Reader

GROUP = "lunarray.readers"

_ADDED: dict[str, Reader] = {}


class Readers(Mapping[str, Reader]):
    """Readers by name, which print as a table.

    Parameters
    ----------
    readers : mapping of str to Reader
        In the order in which they are shown.

    Examples
    --------
    >>> import lunarray as la
    >>> "kaguya-sp" in la.readers.available()
    True
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Reader:
        return self._readers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, description, endings and products of each reader."""
        return [
            (r.name, r.description, " ".join(r.extensions), " ".join(r.products))
            for r in self.values()
        ]

    def __repr__(self) -> str:
        table = [("reader", "reads", "files", "products"), *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(3)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row[:3], widths, strict=True)), row[3]])
            for row in table
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        return html_table(("reader", "reads", "files", "products"), self.rows())


def available() -> Readers:
    """List the readers: those of lunarray, of other installed packages, and of this program.

    Returns
    -------
    Readers
        A mapping from names to :class:`Reader`, which prints as a table.

    Examples
    --------
    >>> import lunarray as la
    >>> "kaguya-sp" in la.readers.available()
    True
    """
    return Readers({**announced(), **_ADDED})


def register(reader: Reader) -> Reader:
    """Register a reader for this program only, without a package that announces it.

    Parameters
    ----------
    reader : Reader
        One of the same name is replaced.

    Returns
    -------
    Reader
        The same.

    Raises
    ------
    InputError
        If it is no Reader.

    Examples
    --------
    >>> from lunarray.readers import Reader, register
    >>> register(Reader("mine", "my format", lambda path: ..., lambda path: path.endswith(".mine")))  # doctest: +SKIP
    """
    if not isinstance(reader, Reader):
        raise InputError(
            f"a {type(reader).__name__}, not a reader",
            where="register",
            remedy="Give a lunarray.readers.Reader",
        )
    _ADDED[reader.name] = reader
    return reader


@functools.cache
def announced() -> dict[str, Reader]:
    """Readers of installed packages: ours first, then others by name. One that cannot be loaded is left out."""
    own: list[importlib.metadata.EntryPoint] = []
    others: list[importlib.metadata.EntryPoint] = []
    for point in importlib.metadata.entry_points(group=GROUP):
        (own if point.value.startswith("lunarray.") else others).append(point)
    found: dict[str, Reader] = {}
    for point in [*(_of_source_tree() or own), *sorted(others, key=lambda p: p.name)]:
        try:
            reader = point.load()
            problem = None if isinstance(reader, Reader) else f"it is a {type(reader).__name__}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is None and found.get(reader.name, reader) is not reader:
            problem = f"the name {reader.name!r} is taken"
        if problem is None:
            found[reader.name] = reader
        else:
            warnings.warn(
                f"the reader {point.name!r} ({point.value}) is left out: {problem}",
                LunarrayWarning,
                stacklevel=3,
            )
    return found


def _of_source_tree() -> list[importlib.metadata.EntryPoint]:
    """What a source tree itself announces: the metadata of an editable install may be older than its code."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != "lunarray":
        return []
    return [
        importlib.metadata.EntryPoint(name, value, GROUP)
        for name, value in project.get("entry-points", {}).get(GROUP, {}).items()
    ]
