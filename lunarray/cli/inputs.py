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


def open_maps(given: str | os.PathLike[str], reader: str | None = None) -> xr.Dataset:
    """Maps by name: a GeoTIFF, a folder or pattern of such, a Zarr of anyone, or whatever a reader opens."""
    from lunarray.readers import available
    from lunarray.store import open_maps as open_rasters

    name, files = _meant(given)
    tiff = all(_ending(file) in _RASTERS for file in files)
    folder = os.path.isdir(name) and not any(r.certain(name) for r in available().values())
    if reader is None and not _is_elsewhere(name) and (tiff or folder or not os.path.exists(name)):
        return open_rasters(name)
    return open_dataset([name], reader, otherwise="lunar-map")[0]


def open_map(given: str | os.PathLike[str], reader: str | None = None) -> xr.DataArray:
    """One map: a raster or table, the tiles of one in a folder or by a pattern, or the one map of a store."""
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.readers import available

    name, files = _meant(given)
    if reader is None and _ending(name) in _TABLES:
        return la.maps.open_map(name, chunks=None)
    known = reader is not None or any(r.certain(name) for r in available().values())
    if os.path.isdir(name) and not known:
        folder = sorted(Path(name).iterdir())
        files = [str(file) for file in folder if _ending(str(file)) in (*_RASTERS, *_LABELS)]
        if not files:
            raise InputError("there are no maps", where=name, remedy="Give GeoTIFFs, or a store")
    if reader is None and not os.path.isdir(files[0]) and not _holds_maps(name):
        if len(files) > 1:
            return _joined([la.maps.open_map(file) for file in files], name)
        return la.maps.open_map(files[0])
    maps = [v for v in open_maps(name, reader).data_vars.values() if v.ndim == 2]
    if len(maps) != 1:
        raise InputError(f"{len(maps)} maps", where=name, remedy="Give a file with one map")
    return maps[0]


_RASTERS, _LABELS = (".tif", ".tiff"), (".lbl",)
_TABLES = (".csv", ".csv.gz")


def _ending(name: str) -> str:
    """The ending of a file, in small letters; of a packed table both."""
    first, last = os.path.splitext(name.lower())
    return os.path.splitext(first)[1] + last if last == ".gz" else last


def _is_elsewhere(name: str) -> bool:
    return "://" in name


def _holds_maps(name: str) -> bool:
    """Whether something holds maps by name, each of which would have to be told apart."""
    return _ending(name.rstrip("/")) in (".zarr", ".nc", ".nc4", ".cdf")


def _meant(given: str | os.PathLike[str]) -> tuple[str, list[str]]:
    """What is named, and the files that are meant by it: one, or those that fit a pattern."""
    name = os.path.expanduser(os.fspath(given))
    if _is_elsewhere(name) or os.path.exists(name) or not glob.has_magic(name):
        return name, [name]
    found = sorted(glob.glob(name, recursive=True))
    return (found[0] if len(found) == 1 else name), found or [name]


def _joined(tiles: list[xr.DataArray], where: str) -> xr.DataArray:
    """Tiles of one map laid side by side."""
    from odc.geo.geobox import geobox_union_conservative

    from lunarray.errors import InputError
    from lunarray.fractures import mosaic
    from lunarray.geo import geobox_of

    try:
        if any(tile.ndim != 2 for tile in tiles):
            raise ValueError("several bands")
        box = geobox_union_conservative([geobox_of(tile) for tile in tiles])
    except ValueError:
        raise InputError(
            f"{len(tiles)} files that are no tiles of one map",
            where=where,
            remedy="Give one map, or tiles of one band and one grid",
        ) from None
    joined = mosaic(tiles, grid=box)["image"]
    return joined.assign_attrs(tiles[0].attrs).rename(tiles[0].name)
