"""What type checkers know of xarray objects that have ``.lunar``; when the program runs, they are xarray's own.

An accessor is registered while a program runs, so to a type checker ``ds.lunar`` is anything, and a wrong verb is found
by whoever runs it. In the stub beside this file :class:`Dataset` and :class:`DataArray` are subclasses that say what
``.lunar`` is, and that their variables are such DataArrays. Here they are :class:`xarray.Dataset` and
:class:`xarray.DataArray`, and nothing is wrapped or checked.
"""

from __future__ import annotations

from typing import Any, TypeVar

import xarray as xr

__all__ = ["DataArray", "Dataset", "T", "typed", "typed_either"]

Dataset = xr.Dataset
DataArray = xr.DataArray

#: Of functions that give back the kind that they are given.
T = TypeVar("T", xr.Dataset, xr.DataArray)


def typed(obj: Any) -> Any:
    """Tell type checkers that an object of xarray has ``.lunar``; the object itself is given back as it is.

    What lunarray's readers and verbs give needs no telling. It is for objects from elsewhere, such as those of
    :func:`xarray.open_dataset`. As a decorator it says the same of what a function returns.

    Parameters
    ----------
    obj : Dataset, DataArray or callable
        What is to be typed: an object of xarray, or a function that returns one.

    Returns
    -------
    Dataset, DataArray or callable
        `obj` itself.

    Examples
    --------
    >>> import lunarray as la
    >>> import xarray as xr
    >>> cube = la.typed(xr.Dataset())
    >>> type(cube) is xr.Dataset
    True
    """
    return obj


#: The decorator of functions that return the one or the other.
typed_either = typed
