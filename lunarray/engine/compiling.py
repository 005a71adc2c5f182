"""Numba's compiler as every kernel here uses it: a cache of compiled code that cannot be kept costs time, no more."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache

from lunarray.errors import LunarrayWarning

_warning = threading.Lock()
_warned = False


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function as :func:`numba.njit` does, and keep the compiled code for other processes where that works.

    Numba's own ``cache=True`` raises when the function is defined, that is when its module is imported, where neither
    the package's folder nor the user's home can be written; and when it is called, where the disk is full.

    Parameters
    ----------
    cache : bool
        Keep the compiled code.
    **options
        As of :func:`numba.njit`.

    Returns
    -------
    callable
        Decorator. The first cache of a process that cannot be kept warns, with a LunarrayWarning.

    Examples
    --------
    >>> @njit(nogil=True, cache=True)
    ... def total(values):
    ...     return values.sum()
    """
    compiled = numba.njit(**options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compiled(function)
        # With NUMBA_DISABLE_JIT the function comes back as it is.
        if cache and hasattr(dispatcher, "enable_caching"):
            try:
                dispatcher._cache = _Cache(function)
            except (RuntimeError, OSError) as error:
                _warn(error)
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """Numba's cache; files that cannot be read or written are as good as none."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            _warn(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(error)


def _warn(error: Exception) -> None:
    global _warned
    with _warning:
        if _warned:
            return
        _warned = True
    warnings.warn(
        f"compiled code cannot be kept here ({error}), so every process compiles it anew, which takes seconds to a "
        "minute. Set the environment variable NUMBA_CACHE_DIR to a folder that can be written",
        LunarrayWarning,
        stacklevel=4,
    )
