"""PDS3 labels: a small, strict and fast reader of the keywords that locate the data.

`pvl` reads these labels too, but takes 0.12-0.14 s for one of SP's (25 kB; measured on the machine this was written
on), which is ten minutes for five thousand files; this reader takes well under a millisecond per label and needs
nothing but the keywords below.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.errors import ProductFormatError

#: Longest label that is looked for in the head of a file (bytes); SP labels are 25 kB.
MAX_LABEL_BYTES = 1 << 18

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_QUOTED = re.compile(r'"[^"]*"')
_ENDS = ("END_OBJECT", "END_GROUP")
_POINTER = re.compile(r"^\(?\s*(?:\"([^\"]+)\"\s*,)?\s*(\d+)\s*(?:<\s*(\w+)\s*>)?\s*\)?$")
_NUMBER_UNIT = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:<[^>]*>)?$")

# DATA_TYPE / SAMPLE_TYPE of PDS3 -> NumPy kind with byte order (PDS Standards Reference 3.8, appendix C).
_KINDS = {
    name: kind
    for kind, names in {
        ">f": "IEEE_REAL FLOAT REAL",
        "<f": "PC_REAL",
        ">i": "MSB_INTEGER INTEGER",
        ">u": "MSB_UNSIGNED_INTEGER UNSIGNED_INTEGER",
        "<i": "LSB_INTEGER PC_INTEGER",
        "<u": "LSB_UNSIGNED_INTEGER PC_UNSIGNED_INTEGER",
    }.items()
    for name in names.split()
}


def damaged(problem: str, where: str | os.PathLike[str]) -> ProductFormatError:
    """The error of a product whose faults another copy of it may not have."""
    return ProductFormatError(problem, where=where, remedy="Fetch the product again")


def not_read(problem: str, where: str | os.PathLike[str]) -> ProductFormatError:
    """The error of a product of another kind than those that are read."""
    remedy = "Give a product as its archive has it"
    return ProductFormatError(problem, where=where, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where an object begins: a file name (None: the file of the label) and an offset in bytes counted from 0."""

    file: str | None
    offset: int


@dataclass(slots=True)
class LabelObject:
    """An OBJECT of a PDS3 label: its keywords, and the objects inside it in the order in which they come."""

    name: str
    keywords: dict[str, str] = field(default_factory=dict)
    objects: list[LabelObject] = field(default_factory=list)

    def child(self, name: str) -> LabelObject | None:
        return next((o for o in self.objects if o.name == name), None)

    def find(self, name: str) -> LabelObject | None:
        """The first object of a name, at whatever depth."""
        found = (o if o.name == name else o.find(name) for o in self.objects)
        return next((o for o in found if o is not None), None)


def parse_label(text: str, where: str) -> LabelObject:
    """Parse the text of a PDS3 label up to its END statement.

    `text`: the label; what follows the END statement (binary data decoded as Latin-1, say) is not looked at; `where`:
    file that the label is in, for messages. Returns the root: keywords at the top level, pointers with their leading
    ``^``, and the objects. ProductFormatError if the text is no PDS3 label, has no END, or its objects are not closed.
    """
    if not text.lstrip("\ufeff \t\r\n").startswith("PDS_VERSION_ID"):
        raise ProductFormatError(
            "no PDS3 label (it does not begin with PDS_VERSION_ID)",
            where=where,
            remedy="Give a PDS3 product or its label",
        )
    root = LabelObject("ROOT")
    stack = [root]
    pending = ""
    for raw in text.splitlines():
        line = raw.strip()
        if "/*" in line and not pending:
            line = _COMMENT.sub("", line).strip()
        if pending:
            line = f"{pending} {line}"
            pending = ""
        if not line:
            continue
        if line.upper() == "END":
            if len(stack) != 1:
                break
            return root
        key, equals, value = line.partition("=")
        if not equals:
            if line.split()[0].upper() in _ENDS and len(stack) > 1:
                stack.pop()
                continue
            if not line.isprintable():
                break  # binary data, with no END before them
            raise damaged(f"cannot read the label line {line[:60]!r}", where)
        key, value = key.strip(), value.strip()
        # A string or sequence that is not closed goes on in the next line.
        bare = _QUOTED.sub("", value)
        if '"' in bare or any(bare.count(a) > bare.count(b) for a, b in ("()", "{}")):
            if len(line) > MAX_LABEL_BYTES:
                break
            pending = line
            continue
        if key.upper() in ("OBJECT", "GROUP"):
            child = LabelObject(value)
            stack[-1].objects.append(child)
            stack.append(child)
        elif key.upper() in _ENDS:
            if len(stack) == 1 or stack[-1].name != value:
                break
            stack.pop()
        else:
            stack[-1].keywords[key] = value
    raise damaged("the label is cut short or its objects are not closed", where)


def text_value(value: str | None) -> str | None:
    """The value without quotes and blanks; None for N/A, NULL, UNK and absent ones."""
    if value is None:
        return None
    bare = value.strip().strip("\"'").strip()
    return None if bare.upper() in ("", "N/A", "NULL", "UNK", "NONE") else bare


def number_value(value: str | None) -> float | None:
    """The number in ``123.4``, ``"123.4"``, ``123.4 <km>`` or ``"123.4 <s>"``; None where there is none."""
    bare = text_value(value)
    if bare is None:
        return None
    match = _NUMBER_UNIT.match(bare)
    return float(match.group(1)) if match else None


def pointer_value(value: str, name: str, where: str) -> Pointer:
    """Read ``N <BYTES>`` or ``("FILE", N <BYTES>)``; the offset comes back counted from 0."""
    match = _POINTER.match(value)
    if match is None or (match.group(3) or "").upper() != "BYTES" or int(match.group(2)) < 1:
        raise not_read(
            f"the pointer ^{name} = {value} is not an offset in <BYTES> counted from 1", where
        )
    return Pointer(match.group(1), int(match.group(2)) - 1)


def numpy_dtype(
    data_type: str | None, n_bytes: float | None, name: str, where: str
) -> np.dtype[Any]:
    """NumPy dtype of a PDS3 DATA_TYPE or SAMPLE_TYPE with its size in bytes."""
    kind = _KINDS.get((text_value(data_type) or "").upper())
    if kind is None or n_bytes not in (1, 2, 4, 8) or (kind[1] == "f" and n_bytes < 4):
        raise not_read(
            f"{name} has the sample type {data_type} of {n_bytes} bytes, which is not read", where
        )
    return np.dtype(f"{kind}{int(n_bytes)}")


def read_label(path: str | os.PathLike[str]) -> LabelObject:
    """Read the label that a file is, or begins with."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_LABEL_BYTES).decode("latin-1")
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    return parse_label(text, os.fspath(path))


def beside(path: Path, name: str) -> Path | None:
    """The file called `name` in the folder of `path`, whatever the case of its letters.

    ProductFormatError if the name leads out of that folder: a label does not say which files of the machine are read.
    """
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise damaged(f"its data are said to be elsewhere than beside it: {name!r}", path)
    exact = path.with_name(name)
    if exact.exists():
        return exact
    lowered = name.lower()
    try:
        return next((p for p in path.parent.iterdir() if p.name.lower() == lowered), None)
    except OSError:
        return None
