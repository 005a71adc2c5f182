"""Weights files: arrays of networks and what they say of themselves as safetensors, which hold no code."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine.files import local_path
from lunarray.errors import ModelError

#: Key of the header. There is one: safetensors keeps metadata in a hash map, and several keys would come out in another
#: order each time.
METADATA_KEY = "lunarray"
#: Field of the header that holds the digest of its others. Files of earlier versions have none.
_OWN = "header_digest"
#: A header larger than this is not one of ours; the format's own limit is 100 MB.
_MAX_HEADER = 10_000_000


@dataclass(frozen=True)
class WeightsFormat:
    """A kind of weights file: what its header must say.

    `name`: what the files are, such as "lunarray.oxides.OxideCNN"; `remedy`: what to do with a file that is none;
    `key`: field of the header that holds the name; `versions`: those of the field ``format_version`` that can be read;
    `required`: further fields that must be there.
    """

    name: str
    remedy: str
    key: str = "format"
    versions: tuple[int, ...] = (1,)
    required: tuple[str, ...] = ()

    def write(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, np.ndarray],
        header: Mapping[str, Any],
    ) -> Path:
        """Write a file that is there only when it is complete.

        Name, the first version and the digest are put into the header, which is JSON, unless they are there; and a
        digest of the header itself.
        """
        own = {self.key: self.name, "format_version": self.versions[0]}
        told = {**own, "digest": tensors_digest(tensors), **header}
        write_tensors(path, tensors, {**told, _OWN: _header_digest(told)})
        return Path(path)

    def read_header(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """What a file says of itself; reads its first kilobytes only.

        Raises ModelError if it cannot be read, is of another kind or version, or a field is missing.
        """
        header = peek_header(path)
        if header is None or self.key not in header:
            problem = f"not a safetensors file of {self.name}"
        elif missing := [f for f in ("format_version", *self.required) if f not in header]:
            problem = f"the header lacks {', '.join(missing)}"
        elif header[self.key] != self.name or header["format_version"] not in self.versions:
            problem = (
                f"holds {header[self.key]} version {header['format_version']}, not {self.name} version "
                f"{' or '.join(map(str, self.versions))}"
            )
        elif header.get(_OWN) not in (None, _header_digest(header)):
            # Bands or names that were changed by one bit are as wrong as weights.
            problem = "the header is not the one that was written: its SHA-256 differs"
        else:
            return header
        raise ModelError(problem, where=path, remedy=self.remedy)

    def read(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Read header and tensors; needs no torch.

        Raises ModelError as :meth:`read_header`, or if the weights are not those that were written.
        """
        header, tensors = self.read_header(path), read_tensors(path)
        digest = header.get("digest")
        if digest is not None and digest not in (
            tensors_digest(tensors),
            _digest(tensors, scalars=True),
        ):
            raise ModelError(
                "the weights are not those that were written: their SHA-256 differs from the one in the header",
                where=path,
                remedy="Fetch or write the file again",
            )
        return header, tensors


def _header_digest(header: Mapping[str, Any]) -> str:
    told = json.loads(json.dumps({k: v for k, v in header.items() if k != _OWN}))
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file, its header as JSON, that is there only when it is complete."""
    from safetensors.numpy import save

    path = local_path(path)
    metadata = None if header is None else {METADATA_KEY: json.dumps(header, sort_keys=True)}
    # Not ascontiguousarray, which would make a vector of a scalar.
    content = save({n: np.asarray(a, order="C") for n, a in tensors.items()}, metadata)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file, whoever wrote it; ModelError if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(Path(path).read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"broken safetensors file ({error})", where=path, remedy="Fetch or write it again"
        ) from error


def peek_header(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a safetensors file of lunarray says of itself; None where a file is another's, ModelError without a file."""
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                return None
            header = json.loads(json.loads(file.read(length))["__metadata__"][METADATA_KEY])
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read ({error.strerror})",
            where=path,
            remedy="Check the path",
        ) from error
    except (ValueError, KeyError, TypeError):
        return None
    return header if isinstance(header, dict) else None


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in order of name; a scalar counts as a vector of one."""
    return _digest(tensors, scalars=False)


def _digest(tensors: Mapping[str, np.ndarray], *, scalars: bool) -> str:
    """The digest, or the one that files of fracture models had at first, in which a scalar is a scalar."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        shape = np.shape(tensors[name]) if scalars else array.shape
        sha.update(f"{name}:{array.dtype.str}:{shape};".encode())
        sha.update(array.data)
    return sha.hexdigest()
