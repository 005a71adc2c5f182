"""Readers: what can open a file, found by name or by looking at it, ours and those of other packages alike.

A reader is a :class:`Reader`, a small value that says how its files are known and which function opens them. Packages
announce theirs as entry points of the group ``lunarray.readers``; :func:`open` finds the one that a file is for, and
:func:`backend` makes an engine of xarray of it. Names that are imported and not in ``__all__`` are what the rooms that
read instruments build on.
"""
# ruff: noqa: F401

from __future__ import annotations

from lunarray.readers.archives import beginning, is_member, is_zip, members, read_whole
from lunarray.readers.backends import backend
from lunarray.readers.files import (
    Errors,
    Paths,
    find_files,
    lazy_array,
    read_all,
    warn_skipped,
)
from lunarray.readers.guard import guarded, reads
from lunarray.readers.netcdf import open_guarded
from lunarray.readers.opening import open, reader_of
from lunarray.readers.protocol import Reader, has_numbers, head, label_head
from lunarray.readers.registry import Readers, available, register
from lunarray.readers.samples import SAMPLES, Sample, sample

__all__ = [
    "SAMPLES",
    "Reader",
    "Readers",
    "Sample",
    "available",
    "backend",
    "head",
    "open",
    "reader_of",
    "register",
    "sample",
]
