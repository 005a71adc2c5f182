"""One guard for every reader: a result, or an error of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lunarray.errors import InputError, LunarrayError, ProductFormatError


@contextmanager
def guarded(
    where: str | os.PathLike[str] | None, what: str = "damaged, or another kind of file"
) -> Iterator[None]:
    """Raise whatever fails in this context as an error of ours, which names the file.

    A reader meets every byte that there is. What it did not foresee is still a fault of the file, not of the user's
    program, and is told as one.
    """
    try:
        yield
    except LunarrayError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            "no such file", where=error.filename or where, remedy="Check the path"
        ) from error
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})", where=where, remedy="Check the path"
        ) from error
    except MemoryError as error:
        raise ProductFormatError(
            "what it says of itself takes more memory than there is",
            where=where,
            remedy="Fetch it again",
        ) from error
    except Exception as error:
        raise ProductFormatError(
            f"{what} ({type(error).__name__}: {error})", where=where, remedy="Fetch it again"
        ) from error
