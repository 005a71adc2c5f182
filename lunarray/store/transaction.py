"""Folders that appear all at once or not at all, and what a group says of itself, changed in one step.

What a store is (:mod:`lunarray.store.state`), a Global Information Bank and the tables in it are begun beside their
place and renamed into it when they are complete.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lunarray.errors import store_errors


@contextmanager
def appearing(path: Path, what: str = "store") -> Iterator[Path]:
    """Begin a folder beside its place; it is put there when the context ends well.

    `path`: the place; `what`: what it is called where it cannot be written. Yields where to write. StoreError if it
    cannot be written; nothing is left of it then.
    """
    begun = path.with_name(f".{path.name}.{os.getpid()}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    remedy = "Check the free space and the permissions of the folder"
    try:
        with store_errors(f"the {what} cannot be written", path, remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield begun
            os.rename(begun, path)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def read_attribute(path: Path, key: str) -> dict[str, Any]:
    """Read what a Zarr group says of itself.

    `path`: the group; `key`: the attribute. OSError, ValueError, KeyError, TypeError if there is no group, or it has no
    such attribute with an entry ``version``.
    """
    found = json.loads((path / "zarr.json").read_text())["attributes"][key]
    return {**found, "version": found["version"]}


def change_attribute(
    path: Path, key: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Change what a Zarr group says of itself, in one step.

    `path`: the group; `key`: the attribute; `change`: takes what it says now, gives what it is to say.
    """
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    attributes = metadata.setdefault("attributes", {})
    attributes[key] = change(attributes.get(key, {}))
    # A name of its own: threads of one process may say something at the same time.
    new = file.with_name(f".zarr.json.{uuid.uuid4().hex}")
    try:
        new.write_text(json.dumps(metadata, indent=2))
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
