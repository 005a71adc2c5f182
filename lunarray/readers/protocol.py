"""What a reader is."""

from __future__ import annotations

import builtins
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from lunarray.errors import InputError, require_choice

Function = str | Callable[..., Any]

#: Bytes at the beginning of a file that guesses look at.
HEAD_BYTES = 16384


def head(path: str | os.PathLike[str], size: int = HEAD_BYTES) -> bytes:
    """Read the first bytes of a file.

    Parameters
    ----------
    path : path
        The file.
    size : int
        How many bytes; fewer come back where the file has fewer.

    Returns
    -------
    bytes
        Nothing where there is no such file, it is a folder, or it may not be read: guesses do not fail.

    Examples
    --------
    >>> from lunarray.readers import head
    >>> head("no such file")
    b''
    """
    kept = _HEADS.get()
    if kept is None or size > HEAD_BYTES:
        return _read_head(path, size)
    key = os.fspath(path)
    if key not in kept:
        if len(kept) >= _KEPT:
            del kept[next(iter(kept))]
        kept[key] = _read_head(path, HEAD_BYTES)
    return kept[key][:size]


def _read_head(path: str | os.PathLike[str], size: int) -> bytes:
    try:
        if not os.path.isfile(path):  # a pipe would wait for somebody to write
            return b""
        with builtins.open(path, "rb") as stream:
            return stream.read(size)
    except (OSError, ValueError):
        return b""


#: First bytes of the files looked at last, while readers guess: each of twenty would read them again.
_HEADS: ContextVar[dict[str | bytes, bytes] | None] = ContextVar("heads", default=None)
_KEPT = 8


@contextmanager
def heads_kept() -> Iterator[None]:
    """Within this, the first bytes of a file are read once, whoever asks for them."""
    token = _HEADS.set({})
    try:
        yield
    finally:
        _HEADS.reset(token)


def label_head(path: str) -> bytes:
    """The first bytes of a file's PDS3 label: its own, or that beside it; none where there is neither."""
    stem = os.path.splitext(path)[0]
    heads = (head(file) for file in (path, f"{stem}.lbl", f"{stem}.LBL"))
    return next((data for data in heads if data.startswith(b"PDS_VERSION_ID")), b"")


def has_numbers(path: str, columns: int, *, size: int, begin: int = 0) -> bool:
    """Whether three lines of text from `begin` on, among a file's first `size` bytes, are so many numbers each."""
    lines = head(path, size).splitlines()[begin : begin + 3]
    try:
        rows = [[float(word) for word in line.split()] for line in lines]
    except ValueError:
        return False
    return len(rows) == 3 and {len(row) for row in rows} == {columns}


@dataclass(frozen=True)
class Reader:
    """How files of one kind are known, and which function opens them.

    Parameters
    ----------
    name : str
        By which users name it: ``reader="kaguya-sp"``.
    description : str
        What it reads, in a few words.
    opens : callable or str
        The function that opens such files as a lazy Dataset or DataArray; as text, ``"module:function"``, it is
        imported when it is first needed. It is given the path of one file (with `many`, the list of paths of all that
        the user means), as text, and the options that the user gives by name.
    guess : callable
        Given a path, as text, of a file or folder that exists, says whether it is certainly of this kind. It looks at
        no more than the name and some first bytes (:func:`head`).
    extensions : tuple of str
        Endings of such files, in lower case, with the dot. A file of which nobody is certain is given to the reader
        that has its ending to itself.
    products : mapping of str to callable or str, optional
        Other things that may be made of such files, by name (``product=``), each with the function that does it.
    many : bool
        Whether `opens` takes several files.
    could : callable, optional
        As `guess`, for a file that nobody is certain of: whether it may be of this kind. By default its ending says so.

    Examples
    --------
    >>> from lunarray.readers import Reader, head
    >>> Reader(
    ...     name="lab-csv",
    ...     description="Spectra of our laboratory",
    ...     opens="ourlab.spectra:open_csv",
    ...     guess=lambda path: head(path, 9) == b"# OURLAB ",
    ...     extensions=(".csv",),
    ... ).name
    'lab-csv'
    """

    name: str
    description: str
    opens: Function
    guess: Callable[[str], bool]
    extensions: tuple[str, ...] = ()
    products: Mapping[str, Function] = field(default_factory=dict)
    many: bool = False
    could: Callable[[str], bool] | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    def certain(self, path: str) -> bool:
        """Whether a file is of this kind; what a guess raises counts as no."""
        try:
            return bool(self.guess(path))
        except Exception:
            return False

    def possible(self, path: str) -> bool:
        """Whether a file that nobody is certain of may be of this kind."""
        if self.could is None:
            return path.lower().rstrip("/").endswith(self.extensions)
        try:
            return bool(self.could(path))
        except Exception:
            return False

    def function(self, product: str | None = None) -> Callable[..., Any]:
        """The function that makes a product, by default the first one. InputError if there is no such product."""
        chosen = self.opens
        if product is not None:
            require_choice("product", product, self.products or ["none: leave it out"])
            chosen = self.products[product]
        if not isinstance(chosen, str):
            return chosen
        module, name = chosen.split(":")
        return getattr(importlib.import_module(module), name)

    def check_options(self, options: Mapping[str, Any], product: str | None = None) -> None:
        """Raise InputError for an option that the function does not take."""
        _, *known = inspect.signature(self.function(product)).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in known):
            return
        names = [p.name for p in known if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        wrong = [name for name in options if name not in names]
        if wrong:
            raise InputError(
                f"no option {', '.join(wrong)}",
                where=self.name,
                remedy=f"Its options are {', '.join(names) or 'none'}",
            )
