"""What a store says of itself: version, identity, what it is made from, how it is cut, how far its writing got."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lunarray.errors import StoreConflictError, StoreFormatError, store_errors
from lunarray.store.transaction import change_attribute, read_attribute

#: Version of the convention. A store of another major version is refused.
FORMAT_VERSION = 1

#: Attribute of the root group that makes a Zarr group a lunarray store.
KEY = "lunarray_store"


def state_of(path: Path) -> dict[str, Any] | None:
    """Read the state of the store at `path`.

    Returns none where nothing is there. StoreFormatError if it is no lunarray store, or one of another version.
    StoreError if the place cannot be looked at.
    """
    state = _any_state(path)
    if state is not None and state["version"] != FORMAT_VERSION:
        raise StoreFormatError(
            f"the store has version {state['version']} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it (attribute lunarray_version), or write it anew",
        )
    return state


def _any_state(path: Path) -> dict[str, Any] | None:
    """Read the state of a store of whatever version."""
    remedy = "Check the permissions of the folders on the way"
    with store_errors("the place cannot be looked at", path, remedy):
        if not path.exists():
            return None
    try:
        return read_attribute(path, KEY)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(
            "not a lunarray store",
            where=path,
            remedy="Pass a store that lunarray wrote; other Zarr stores open with xarray.open_zarr",
        ) from error


def set_state(path: Path, **state: Any) -> None:
    """Change entries of the state of a store in one step; None takes one away."""
    change_attribute(
        path, KEY, lambda old: {k: v for k, v in {**old, **state}.items() if v is not None}
    )


def begun_with(path: Path, token: str) -> bool:
    """Tell whether a store of that identity was begun at `path`; whatever else is there says no."""
    try:
        state = state_of(path)
    except StoreFormatError:
        return False
    return state is not None and state["token"] == token


def require_ours(path: Path) -> None:
    """StoreConflictError if there is something else at `path` than a lunarray store, of whatever version."""
    try:
        _any_state(path)
    except StoreFormatError as error:
        raise StoreConflictError(
            "it is no lunarray store, so it is not overwritten",
            where=path,
            remedy="Delete it yourself or choose another path",
        ) from error
