"""How footprints with abundances, and the Global Information Bank, are known."""

from __future__ import annotations

import os

from lunarray.readers import Reader, backend, head


def _is_tracks(path: str) -> bool:
    if not path.lower().endswith(".csv"):
        return False
    from lunarray.superres.tables import is_table

    return is_table(head(path, 4096).split(b"\n", 1)[0].decode("utf-8", "replace"))


TRACKS = Reader(
    name="ch2-class-tracks",
    description="Chandrayaan-2 CLASS, Level 2 and other tables of footprints with abundances",
    opens="lunarray.superres:read_class_tracks",
    guess=_is_tracks,
    extensions=(".csv",),
    could=lambda path: False,
)
BANK = Reader(
    name="lunarray-gib",
    description="Global Information Bank of element maps",
    opens="lunarray.superres:open_gib",
    guess=lambda path: b'"lunarray_gib"' in head(os.path.join(path, "zarr.json"), 1 << 20),
    extensions=(".zarr",),
    could=lambda path: False,
)

TracksBackend = backend(TRACKS)
BankBackend = backend(BANK)
