"""How footprints with abundances, and the Global Information Bank, are known."""

from __future__ import annotations

import os

from lunarray.readers import Reader, backend, head


def _is_tracks(path: str) -> bool:
    line = head(path, 4096).split(b"\n", 1)[0].upper()
    return path.lower().endswith(".csv") and b"V0_LAT" in line and b"_WT" in line


TRACKS = Reader(
    name="ch2-class-tracks",
    description="Chandrayaan-2 CLASS, Level 2 table of footprints with abundances",
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
