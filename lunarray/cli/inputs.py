"""What commands are given, opened by the readers that there are."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

if TYPE_CHECKING:
    import xarray as xr

ReaderName = Annotated[
    str | None,
    Option(
        "--reader",
        help="Reader of the input, by name (**lunarray readers** lists them); by default the one that knows it.",
    ),
]


def open_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    reader: str | None,
    *,
    otherwise: str | None = None,
    skip: bool = False,
    **options: dict[str, Any],
) -> tuple[Any, str]:
    """What inputs hold, and the name of the reader that opened them.

    `reader`: named by the user; `otherwise`: the reader that the command is for, where none or several may be meant;
    `skip`: leave out files that cannot be read; `**options`: of the function of each reader, under its name with
    underscores.
    """
    import lunarray as la

    reader = reader or reader_for(inputs, otherwise)
    chosen = options.get(reader.replace("-", "_"), {})
    opened = la.open(inputs, reader=reader, errors="skip" if skip else "raise", **chosen)
    return opened, reader


def reader_for(inputs: Sequence[str | os.PathLike[str]], otherwise: str | None) -> str:
    """The name of the reader that knows the inputs; where none or several may be meant, `otherwise` if it may be."""
    from lunarray.errors import InputError
    from lunarray.readers import available, reader_of

    try:
        return reader_of(inputs).name
    except InputError:
        known = available().get(otherwise or "")
        endings = () if known is None else known.extensions
        if not all(os.fspath(i).lower().endswith(endings) and Path(i).exists() for i in inputs):
            raise
        return str(otherwise)


def open_dataset(
    inputs: Sequence[str | os.PathLike[str]], reader: str | None, **others: Any
) -> tuple[xr.Dataset, str]:
    """The same; what has one variable is a Dataset too."""
    opened, reader = open_inputs(inputs, reader, **others)
    if hasattr(opened, "to_dataset") and not hasattr(opened, "data_vars"):
        opened = opened.to_dataset(name=opened.name or "data")
    return opened, reader


def open_maps(path: Path, reader: str | None = None) -> xr.Dataset:
    """Maps by name: a GeoTIFF, a folder of such, or whatever a reader opens."""
    from lunarray.readers import available
    from lunarray.store import open_maps as open_rasters

    path = _meant(path)
    tiff = path.suffix.lower() in (".tif", ".tiff")
    folder = path.is_dir() and not any(r.certain(str(path)) for r in available().values())
    if reader is None and (tiff or folder or not path.exists()):
        return open_rasters(path)
    return open_dataset([path], reader, otherwise="lunar-map")[0]


def _meant(path: Path) -> Path:
    """What a pattern means where it means one thing; others are for readers that take several."""
    if path.exists() or not glob.has_magic(str(path)):
        return path
    found = glob.glob(str(path), recursive=True)
    return Path(found[0]) if len(found) == 1 else path


def open_map(path: Path, reader: str | None = None) -> xr.DataArray:
    """The one map of a file."""
    from lunarray.errors import InputError

    maps = [v for v in open_maps(path, reader).data_vars.values() if v.ndim == 2]
    if len(maps) != 1:
        raise InputError(f"{len(maps)} maps", where=path, remedy="Give a file with one map")
    return maps[0]
