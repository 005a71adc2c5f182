"""One guard for every reader: a result, or an error of ours."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from lunarray.errors import InputError, LunarrayError, MissingDependencyError, ProductFormatError

P = ParamSpec("P")
T = TypeVar("T")

#: Characters of what a library says that are repeated.
_WORDS = 200


@contextmanager
def guarded(where: str | os.PathLike[str] | None) -> Iterator[None]:
    """Raise whatever fails in this context as an error of ours, which names the file.

    A reader meets every byte that there is. What it did not foresee is still a fault of the file, not of the user's
    program, and is told as one.
    """
    try:
        yield
    except (LunarrayError, Warning):
        raise
    except FileNotFoundError as error:
        raise InputError(
            "no such file", where=error.filename or where, remedy="Check the path"
        ) from error
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or _told(error)})",
            where=where,
            remedy="Check the path, or fetch the file again",
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"what reads it cannot be imported ({error})", where=where, remedy="Install it"
        ) from error
    except MemoryError as error:
        raise ProductFormatError(
            "it takes more memory than there is, or is damaged and says so",
            where=where,
            remedy="Fetch it again",
        ) from error
    except Exception as error:
        raise ProductFormatError(
            f"damaged, or another kind of file ({type(error).__name__}: {_told(error)})",
            where=where,
            remedy="Fetch it again",
        ) from error


def reads(function: Callable[P, T]) -> Callable[P, T]:
    """Guard a function whose first argument names what it reads."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        # What a call has wrong of itself is no file's fault.
        given = signature.bind(*args, **kwargs).arguments
        with guarded(_place(next(iter(given.values()), None))):
            return function(*args, **kwargs)

    return read


def _place(paths: Any) -> str | None:
    if isinstance(paths, list | tuple) and paths:
        paths = paths[0]
    return str(paths) if isinstance(paths, str | os.PathLike) else None


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _WORDS else f"{text[:_WORDS]} ..."
