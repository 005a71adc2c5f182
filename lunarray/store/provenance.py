"""Where data came from: `source`, `history` and `lunarray_version` attributes (CF 1.11, section 2.6.2)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import xarray as xr

from lunarray.typing import T
from lunarray.versions import __version__


def now() -> datetime:
    """The time that is written into what is made, in UTC: SOURCE_DATE_EPOCH where it is given, else the clock's."""
    return datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()), UTC)


def stamp(obj: T, event: str, *, variables: Iterable[str] | None = None, **attrs: Any) -> T:
    """Record what was done to an object.

    Parameters
    ----------
    obj : Dataset or DataArray
        Left unchanged.
    event : str
        What was done, as one line; it is appended to `history` with the time in UTC. SOURCE_DATE_EPOCH sets that
        time where it is given, so that a run can be repeated to the byte.
    variables : iterable of str, optional
        The variables of a Dataset that were made by it; by default all.
    **attrs
        Further attributes, such as ``source`` or ``model_sha256``; None is left out.

    Returns
    -------
    Dataset or DataArray
        A shallow copy with the attributes; of a Dataset, the variables that were made carry them too.

    Examples
    --------
    >>> import lunarray as la
    >>> albedo = la.store.stamp(la.sample("albedo"), "scaled by 1.02")
    >>> "scaled by 1.02" in albedo.attrs["history"]
    True
    """
    line = f"{now():%Y-%m-%dT%H:%M:%SZ} lunarray {__version__}: {event}"
    past = obj.attrs.get("history")
    new = {key: value for key, value in attrs.items() if value is not None}
    new["lunarray_version"] = __version__
    result = obj.copy(deep=False)
    result.attrs = {**obj.attrs, **new, "history": f"{past}\n{line}" if past else line}
    if isinstance(result, xr.Dataset):
        for name in result.data_vars if variables is None else variables:
            result[name].attrs = {**obj[name].attrs, **new}
    return result
