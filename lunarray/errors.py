"""Every error lunarray raises on bad input, in one tree.

A message says what is wrong, where (file, variable, coordinate) and what would be right, so that it can be acted on
without a traceback. Each class also derives from the built-in that Python programmers would catch for the same fault.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LunarrayError(Exception):
    """Base of all errors raised by lunarray.

    Parameters
    ----------
    problem : str
        What is wrong.
    where : str or path, optional
        The file, store, variable or coordinate at fault.
    remedy : str, optional
        What would be right, or what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | os.PathLike[str] | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = None if where is None else os.fspath(where)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.problem if self.where is None else f"{self.where}: {self.problem}"]
        if self.remedy:
            parts.append(self.remedy)
        return ". ".join(part.rstrip(".") for part in parts) + "."

    def __reduce__(self):
        # Keyword-only arguments are lost by Exception's default pickling, and errors do cross process borders.
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


def _rebuild(
    cls: type[LunarrayError], problem: str, where: str | None, remedy: str | None
) -> LunarrayError:
    return cls(problem, where=where, remedy=remedy)


class InputError(LunarrayError, ValueError):
    """An argument or a dataset that the called function cannot work on."""


class ProductFormatError(InputError):
    """A file that is not the instrument product that it should be: truncated, mislabelled, another level."""


class BandMismatchError(InputError):
    """The wavelengths of the data are not those that the model or method needs."""


class GridError(InputError):
    """A grid, transform or extent that does not describe the data."""


class CoverageError(GridError):
    """A map that does not reach where it is needed."""


class BodyMismatchError(InputError):
    """A coordinate reference system of a body other than the Moon."""


class MainGuardError(InputError, SystemExit):
    """A script that starts processes as it is imported, which those do too: where nobody catches it, one line."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.code = f"lunarray: {self}"


class WrongKindError(InputError, AttributeError):
    """A verb of Datasets that is asked of a DataArray."""


class StoreError(LunarrayError, OSError):
    """A store that cannot be read or written."""


class StoreFormatError(StoreError):
    """A store that lunarray did not write, or wrote in a version that this one does not read."""


class StoreConflictError(StoreError):
    """A store that exists already and holds, or was begun with, something else."""


class StoreLockedError(StoreConflictError):
    """A store that another writer is at work on."""


class StoreWriteError(StoreError):
    """A store that cannot be written any further: a full disk, a lost permission, a folder deleted under way."""


class StoreChangedError(StoreConflictError):
    """A store that was written anew, deleted or moved since it was opened."""


class StoreIncompleteError(StoreError):
    """A store whose writing was interrupted; it can be resumed but not read as if it were whole."""


class StoreDamagedError(StoreError):
    """A store of which something is missing, or is not what was written."""


class ModelError(LunarrayError, ValueError):
    """Model weights that are missing, altered, or made for another architecture."""


class MissingDependencyError(LunarrayError, ImportError):
    """An optional dependency that is needed now and is not installed."""


#: The extra of this package that brings an optional package, by the name under which that is imported.
EXTRAS = {
    "torch": "torch",
    "torchvision": "torch",
    "sklearn": "learn",
    "pyarrow": "parquet",
    "dask_cuda": "gpu",
    "dask_jobqueue": "hpc",
    "kalasiris": "isis",
    "pyatomdb": "solar",
    "emcee": "posterior",
    "obstore": "cloud",
    "icechunk": "cloud",
}


@contextmanager
def needs(package: str, what: str) -> Iterator[None]:
    """Import an optional package in this context, or raise MissingDependencyError that names the extra.

    Parameters
    ----------
    package : str
        One of EXTRAS, as it is imported.
    what : str
        What needs it, in words that "needs" can follow.

    Raises
    ------
    MissingDependencyError
        If the package, or one that comes with it, is absent or cannot be imported.

    Examples
    --------
    >>> with needs("torch", "training on oxides"):
    ...     import torch
    """
    try:
        yield
    except MissingDependencyError:
        raise
    except ImportError as error:
        name = (error.name or package).partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and name in EXTRAS
        package = name if missing else package
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise MissingDependencyError(
            f"{what} needs {package}, which {why}",
            remedy=f"Install it with: pip install 'lunarray[{EXTRAS[package]}]'",
        ) from error


@contextmanager
def store_errors(
    problem: str, where: str | os.PathLike[str] | None, remedy: str | None = None
) -> Iterator[None]:
    """Raise what the system refuses in this context as a StoreError, with its reason behind the problem."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{problem} ({reason})", where=where, remedy=remedy) from error


class LunarrayWarning(UserWarning):
    """Something that lunarray did or found that the caller should know: a file skipped, a reference system assumed."""


def require_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise InputError unless an argument is one of the choices that it has."""
    choices = list(choices)
    if value not in choices:
        *first, last = map(repr, choices)
        either = f"{', '.join(first)} or {last}" if first else last
        raise InputError(f"{value!r}", where=name, remedy=f"Give {either}")


def require_number(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    strictly: bool = False,
    whole: bool = False,
) -> None:
    """Raise InputError unless an argument is a number from `low` to `high`, neither of both if `strictly`."""
    real = isinstance(value, numbers.Real) and (not whole or float(value).is_integer())
    if real and (low < value < high if strictly else low <= value <= high):
        return
    kind = "a whole number" if whole else "a number"
    if math.isfinite(low) and math.isfinite(high):
        wanted = f"{kind} {'between' if strictly else 'from'} {low:g} {'and' if strictly else 'to'} {high:g}"
    elif math.isfinite(low):
        wanted = f"{kind} above {low:g}" if strictly else f"{kind}, {low:g} or more"
    elif math.isfinite(high):
        wanted = f"{kind} below {high:g}" if strictly else f"{kind}, {high:g} or less"
    else:
        wanted = kind
    raise InputError(f"{value!r}", where=name, remedy=f"Give {wanted}")
