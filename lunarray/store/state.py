"""What a store says of itself: version, identity, what it is made from, how it is cut, how far its writing got.

It stands in the ``zarr.json`` of the store's root, which is sealed: it holds a digest of its own text, and those of the
``zarr.json`` of each array. That of a complete store has more: the digests of all objects, the id that these and the
arrays' metadata make (:mod:`lunarray.store.objects`), and the metadata of all arrays once more (consolidated), so that
a program that opens the store reads one file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lunarray.errors import (
    StoreConflictError,
    StoreDamagedError,
    StoreFormatError,
    StoreIncompleteError,
    store_errors,
)
from lunarray.store import objects
from lunarray.store.places import Place, Remote
from lunarray.store.promotion import KEY, NEXT, is_laid_out, points_on
from lunarray.store.transaction import read_tagged, write_root

#: Version of the convention. A store of another major version is refused.
FORMAT_VERSION = 2

#: What stands in place of the seal when it is made.
_BLANK = "0" * 64

#: What only a complete store says.
_OF_COMPLETE = ("objects", "content_id")


def state_of(path: Place) -> dict[str, Any] | None:
    """Read the state of the store at `path`.

    Returns none where nothing is there. StoreFormatError if it is no lunarray store, or one of another version.
    StoreDamagedError if its metadata are not those that were written. StoreError if the place cannot be looked at.
    """
    found = read_state(path)
    if found is None:
        return None
    state, text = found
    if state["version"] != FORMAT_VERSION:
        raise StoreFormatError(
            f"the store has version {state['version']} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it (attribute lunarray_version), or write it anew",
        )
    if not (sealed(state, text) and _whole(state)):
        raise damaged_metadata(path / "zarr.json")
    return state


def read_state(path: Place) -> tuple[dict[str, Any], str] | None:
    """Read the state of a store of whatever version, and the text that it stands in."""
    remedy = "Check the permissions of the folders on the way"
    with store_errors("the place cannot be looked at", path, remedy):
        if not path.exists():
            return None
    try:
        if not (path / "zarr.json").is_file():
            raise FileNotFoundError
        text = (path / "zarr.json").read_text("utf-8")
        state = json.loads(text)["attributes"][KEY]
        if not is_laid_out(state):
            return None
        if points_on(state) and isinstance(path, Remote):
            return read_state(path / NEXT)
        return {**state, "version": state["version"]}, text
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreFormatError(
            "not a lunarray store",
            where=path,
            remedy="Give a store that lunarray wrote; other Zarr stores open with xarray.open_zarr. If lunarray did "
            "write it, its zarr.json is damaged: put a copy of that file back",
        ) from error


def _whole(state: Mapping[str, Any]) -> bool:
    """Tell whether a state has what every state has."""
    kinds = {"token": str, "complete": bool, "regions": int, "groups": list, "metadata": dict}
    if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        return False
    groups = state["groups"]
    if not all(
        isinstance(group, dict) and {"axes", "sizes", "dims"} <= {*group} for group in groups
    ):
        return False
    return "append_dim" not in state or isinstance(state.get("committed"), int)


def sealed(state: Mapping[str, Any], text: str) -> bool:
    """Tell whether the text that a state stands in is the one that was written."""
    seal = state.get("seal")
    return isinstance(seal, str) and seal == digest_of(_with_seal(text, seal, _BLANK).encode())


def _with_seal(text: str, old: str, new: str) -> str:
    return text.replace(f'"seal": "{old}"', f'"seal": "{new}"', 1)


def damaged_metadata(file: Place) -> StoreDamagedError:
    """Say that a file of metadata is not the one that was written."""
    return StoreDamagedError(
        "these metadata are not those that lunarray wrote: damaged, or changed by another program",
        where=file,
        remedy="Put a copy of the file back, mend it with 'lunarray verify STORE --repair', write the store anew with "
        "overwrite=True, or, if the change is meant, take it as it is with 'lunarray verify STORE --accept'",
    )


def set_state(path: Place, told: Mapping[str, Any] | None = None, **state: Any) -> None:
    """Change entries of the state of a store in one step; None takes one away.

    `told`: other attributes of the store to change in the same step.

    With ``complete=True`` it is looked at whether every object is there, their digests are recorded, and the metadata
    are consolidated. StoreIncompleteError if an object is missing then.
    """
    text, tag = read_tagged(path / "zarr.json")
    write_root(path, with_state(path, text, told, **state), tag)


def with_state(
    path: Place, text: bytes, told: Mapping[str, Any] | None = None, **state: Any
) -> bytes:
    """The text of a root with other entries of the state, as :func:`set_state` takes them, for the store at `path`."""
    root = json.loads(text)
    attributes = root.setdefault("attributes", {})
    attributes.update(told or {})
    new = {k: v for k, v in {**attributes.get(KEY, {}), **state}.items() if v is not None}
    metadata = objects.arrays(path)
    new["metadata"] = {name: digest_of(text) for name, text in metadata.items()}
    for name in _OF_COMPLETE:
        new.pop(name, None)
    root.pop("consolidated_metadata", None)
    if new.get("complete"):
        new.update(_account(path, metadata, _gaps(new)))
        root["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: json.loads(text) for name, text in metadata.items()},
        }
    attributes[KEY] = new
    return seal(root, KEY)


def seal(root: dict[str, Any], key: str) -> bytes:
    """Give the text of the metadata of a root whose attribute `key` holds a digest of that text."""
    root["attributes"][key]["seal"] = _BLANK
    blank = json.dumps(root, indent=2)
    return _with_seal(blank, _BLANK, digest_of(blank.encode())).encode()


def consolidated(text: str) -> dict[str, bytes]:
    """Give the copies of the ``zarr.json`` of each array in the text of the root's."""
    copies = json.loads(text).get("consolidated_metadata", {}).get("metadata", {})
    return {name: json.dumps(copy, indent=2).encode() for name, copy in copies.items()}


def digest_of(text: bytes) -> str:
    """Digest of the text of a file of metadata."""
    return hashlib.sha256(text).hexdigest()


def _gaps(state: Mapping[str, Any]) -> set[tuple[str, tuple[int, ...]]]:
    """Name the objects that need not be there, because what they were to hold could not be computed."""
    found = set()
    for gap in state.get("failed", ()):
        group = state["groups"][gap["group"]]
        place = dict(zip(group["axes"], gap["index"], strict=True))
        for name, dims in group["dims"].items():
            found.add((name, tuple(place.get(dim, 0) for dim in dims)))
    return found


def _account(
    path: Place, metadata: Mapping[str, bytes], gaps: set[tuple[str, tuple[int, ...]]]
) -> dict[str, Any]:
    """Digests of all objects, as text, and the id of the content."""
    own = {name: objects.digests(path, cut) for name, cut in objects.cuts(metadata).items()}
    for name, cut in objects.cuts(metadata).items():
        gone = [
            index
            for index, known in zip(np.ndindex(*cut.counts), own[name], strict=True)
            if not known and (name, index) not in gaps
        ]
        if gone:
            raise StoreIncompleteError(
                f"{len(gone)} of {own[name].size} objects of {name!r} are missing or empty",
                where=path / cut.key(gone[0]),
                remedy="Run again what wrote the store: it goes on where it stopped",
            )
    return {
        "objects": {
            name: base64.b64encode(np.ascontiguousarray(values, "<u8").tobytes()).decode()
            for name, values in own.items()
        },
        "content_id": objects.joined(
            {name: objects.array_id(metadata[name], own[name]) for name in own}
        ),
    }


def recorded(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Digests of the objects of a complete store as they were written, by array."""
    return {
        name: np.frombuffer(base64.b64decode(text), "<u8")
        for name, text in state["objects"].items()
    }


def begun_with(path: Place, token: str) -> bool:
    """Tell whether a store of that identity was begun at `path`; whatever else is there says no."""
    try:
        state = state_of(path)
    except (StoreFormatError, StoreDamagedError):
        return False
    return state is not None and state["token"] == token


def require_ours(path: Place) -> None:
    """StoreConflictError if there is something else at `path` than a lunarray store, of whatever version."""
    try:
        read_state(path)
    except StoreFormatError as error:
        raise StoreConflictError(
            "it is no lunarray store, so it is not overwritten",
            where=path,
            remedy="Delete it yourself or choose another path",
        ) from error
