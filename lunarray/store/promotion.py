"""Transactions in object stores, which can neither rename nor link.

**First write.** A store appears in steps, so its root is written first, put only if there is none, and says no more
than that a store is being laid out: nobody reads it, and whoever comes next lays it out anew. Then come the metadata
and coordinates, and then a root that says what is to be written. Regions are objects of their own names, put whole; the
root that says that all is complete is put if it is still the one that was read, so that a writer that was taken for
dead and wakes up cannot say so of another's store.

**Overwriting and appending.** The successor is written whole below ``.lunarray/next`` in the store. It could stay there
and be pointed to for good, but then the store would be no Zarr group to other programs, for an array lies where its
name says. So the root is exchanged, by one conditional put, for one that points to the successor (:func:`promote`):
that is the commit. lunarray follows the pointer; to other programs the group is empty as long as it stands, and not a
mixture. Then the objects are copied to their names within the store's own service, what is no more is deleted, the root
of the successor takes the place of the pointer, and the successor is deleted. A stop anywhere after the commit is gone
on from by the next writer (:func:`settle`), under the lock, and until then readers have all of it by the pointer. Rows
are appended to such a copy as well: that costs a copy of the store within the service, once for each call and not for
each batch.

**Readers** of the old store hold every object to its digest, as in folders, and get StoreChangedError.

**icechunk** has all of this, and history: there a store is written in place within the user's session, and the commit
is the session's.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zarr.storage import MemoryStore

from lunarray.errors import InputError, StoreConflictError, StoreLockedError, store_errors
from lunarray.store.buckets import Bucket, ZarrBucket, each
from lunarray.store.places import ASIDE, Remote

#: Where the successor of a store is written, from the store's root.
NEXT = f"{ASIDE}/next"

#: What to do where an object store refuses.
REMEDY = "Check that the bucket is there, who you are to it, and that you may read and write it"

#: Attribute of the root group that makes a Zarr group a lunarray store.
KEY = "lunarray_store"


def _root(**state: Any) -> bytes:
    """A root that tells other programs of an empty group."""
    empty = {"kind": "inline", "must_understand": False, "metadata": {}}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {KEY: state}}
    return json.dumps({**root, "consolidated_metadata": empty}, indent=2).encode()


def _said(place: Remote) -> tuple[dict[str, Any], bytes | None, Any]:
    """What a root says of the state of its store, its text, and its tag; None for the text where there is none."""
    with store_errors("the store cannot be reached", place, REMEDY):
        try:
            text, tag = place.bucket.tagged((place / "zarr.json").key)
        except FileNotFoundError:
            return {}, None, None
    try:
        state = json.loads(text)["attributes"][KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        state = {}
    return (state if isinstance(state, dict) else {}), text, tag


def is_laid_out(state: Any) -> bool:
    """Tell whether a root is more than the mark of a store that is being laid out."""
    return not (isinstance(state, dict) and "laying_out" in state)


def points_on(state: Any) -> bool:
    """Tell whether a root points to the successor of its store."""
    return isinstance(state, dict) and state.get("successor") == NEXT


def current(place: Remote) -> Remote:
    """Where the objects of a store are now: at its place, or those of its successor, which is on its way there."""
    return place / NEXT if points_on(_said(place)[0]) else place


def vacant(place: Remote) -> bool:
    """Tell whether a store can be laid out there: nothing is there, or what a stopped writer began to lay out."""
    state, text, _ = _said(place)
    return not is_laid_out(state) if text is not None else not place.exists()


def exchange_root(place: Remote, text: bytes, tag: Any) -> None:
    """Put a root, if the one that is there is still that of `tag`; None: if there is none. StoreLockedError if not."""
    root = (place / "zarr.json").key
    put = place.bucket.create(root, text) if tag is None else place.bucket.replace(root, text, tag)
    if not put:
        raise StoreLockedError(
            "another writer has changed the store meanwhile",
            where=place,
            remedy="Let that one finish; this run gave no sign of life for too long (a suspended machine?)",
        )


@contextmanager
def laid_out(place: Remote) -> Iterator[Remote]:
    """Lay out a store in memory; it is put to its place when the context ends well, its root at last.

    `place`: vacant; the caller holds the lock.
    """
    staged = memory()
    yield staged
    with begun(place) as finish:

        def put(name: str) -> None:
            (place / name).write_bytes((staged / name).read_bytes())

        # icechunk takes objects of arrays that it knows.
        names = [name for name in staged.sizes() if name != "zarr.json"]
        for name in sorted(name for name in names if name.endswith("/zarr.json")):
            put(name)
        each(put, [name for name in names if not name.endswith("/zarr.json")])
        finish((staged / "zarr.json").read_bytes())


@contextmanager
def begun(place: Remote) -> Iterator[Any]:
    """Mark a place as one where a store is being laid out, and delete what a stopped writer left there.

    Yields a function that puts the root.
    """
    _, text, tag = _said(place)
    exchange_root(place, _root(version=0, laying_out=uuid.uuid4().hex), tag if text else None)
    place.clear(keep="zarr.json")
    _, _, mark = _said(place)
    yield lambda root: exchange_root(place, root, mark)


def memory() -> Remote:
    """A place in the memory of this process."""
    return Remote(ZarrBucket(MemoryStore(), "memory:"))


def copy(source: Remote, place: Remote) -> None:
    """Copy all objects of a store but the root."""
    each(
        lambda name: place.bucket.copy((source / name).key, (place / name).key),
        [name for name in source.sizes() if name != "zarr.json"],
    )


def promote(place: Remote) -> None:
    """Let the successor of a store take its place; the caller holds the lock.

    With the first put it has: what follows can be stopped and gone on with.
    """
    _, text, tag = _said(place)
    exchange_root(
        place, _root(version=0, successor=NEXT, id=uuid.uuid4().hex), tag if text else None
    )
    _bring(place)


def settle(place: Remote) -> None:
    """Go on with a promotion that was stopped, and delete a successor that has taken its place; under the lock."""
    if place.bucket.transactional:
        return
    state, text, _ = _said(place)
    if points_on(state):
        _bring(place)
    elif _said(place / NEXT)[1] in (None, text):  # its root is put first, and deleted first
        (place / NEXT).clear()


def _bring(place: Remote) -> None:
    """Bring the objects of the successor, which a root points to, to their names in the store."""
    new = place / NEXT
    root = (new / "zarr.json").read_bytes()
    copy(new, place)
    kept = new.sizes()
    each(
        lambda name: (place / name).unlink(),
        [name for name in place.sizes() if name not in kept and name != "zarr.json"],
    )
    exchange_root(place, root, _said(place)[2])
    new.clear()


def clear(place: Remote) -> None:
    """Delete a store; one below which another is on its way stays, as far as that is concerned."""
    bucket = place.bucket
    if isinstance(bucket, ZarrBucket) and bucket.transactional:
        bucket.clear(place.key)
    else:
        place.clear()


def commit(place: Any, message: str) -> None:
    """Commit what was written to an icechunk session; elsewhere it is there already.

    StoreConflictError if others have committed to the same branch meanwhile.
    """
    session = getattr(getattr(place, "bucket", None), "session", None)
    if session is None or session.read_only or not session.has_uncommitted_changes:
        return
    from icechunk import ConflictError

    with warnings.catch_warnings():
        # Of forks that were made for reading, which have nothing to merge.
        warnings.filterwarnings("ignore", "Committing a session after forking", UserWarning)
        try:
            session.commit(message)
        except ConflictError as error:
            raise StoreConflictError(
                "another session has committed to the branch meanwhile",
                where=place,
                remedy="Open a new session and do the same again, or rebase this one and commit it yourself",
            ) from error


def require_reach(bucket: Bucket, threads: bool) -> None:
    """InputError where other processes are to write what only this one can; `threads`: none are to."""
    if threads or (bucket.shared and not bucket.transactional):
        return
    raise InputError(
        "other processes cannot write to it",
        where=bucket.url,
        remedy="Compute with threads: without a client, or with one of Client(processes=False)",
    )
