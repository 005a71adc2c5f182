"""A reader of another package: Chandrayaan-2 IIRS cubes (.qub with a PDS4 label beside it), lazily."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.errors import ProductFormatError
from lunarray.readers import Reader, backend, head

NAMESPACE = {"p": "http://pds.nasa.gov/pds4/pds/v1"}
TYPES = {"IEEE754LSBSingle": "<f4", "IEEE754MSBSingle": ">f4", "UnsignedLSB2": "<u2"}
AXES = {"BAND": "wavelength", "LINE": "y", "SAMPLE": "x"}


def is_iirs(path: str) -> bool:
    label = head(Path(path).with_suffix(".xml"))
    return path.endswith(".qub") and b"pds4" in label and b"ch2_iir" in label


def open_iirs(path: str, *, lines: int = 256, wavelengths: list[float] | None = None) -> xr.Dataset:
    """Open a cube; `lines` of it make a Dask chunk."""
    label = Path(path).with_suffix(".xml")
    array = ET.parse(label).find(".//p:Array_3D_Spectrum", NAMESPACE)
    if array is None:
        raise ProductFormatError("no Array_3D_Spectrum", where=label, remedy="Give IIRS cubes")
    text = {e.tag.split("}")[1]: e.text.strip() for e in array.iter() if e.text}
    axes = sorted(
        (int(axis.findtext("p:sequence_number", "", NAMESPACE)),
         AXES[axis.findtext("p:axis_name", "", NAMESPACE).upper()],
         int(axis.findtext("p:elements", "", NAMESPACE)))
        for axis in array.findall("p:Axis_Array", NAMESPACE)
    )  # fmt: skip
    dims, shape = [name for _, name, _ in axes], tuple(size for _, _, size in axes)
    dtype, offset = np.dtype(TYPES[text["data_type"]]), int(text["offset"])
    needed = offset + dtype.itemsize * int(np.prod(shape))
    if os.path.getsize(path) < needed:
        raise ProductFormatError(
            f"truncated: {needed} bytes are needed", where=path, remedy="Fetch it again"
        )
    chunks = tuple(lines if name == "y" else -1 for name in dims)
    cube = da.map_blocks(
        _read,
        path=os.path.abspath(path),
        stored=(dtype.str, offset, shape),
        chunks=da.core.normalize_chunks(chunks, shape),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )
    radiance = xr.DataArray(cube.astype("f4"), dims=dims).transpose("wavelength", "y", "x")
    if wavelengths is not None:
        radiance = radiance.assign_coords(wavelength=np.asarray(wavelengths, "f4"))
    radiance.attrs = {"units": "mW cm-2 sr-1 um-1", "long_name": "radiance"}
    return radiance.to_dataset(name="radiance")


def _read(path, stored, block_info=None):
    dtype, offset, shape = stored
    window = tuple(slice(*pair) for pair in block_info[None]["array-location"])
    return np.array(np.memmap(path, dtype, "r", offset, shape)[window])


READER = Reader(
    name="ch2-iirs",
    description="Chandrayaan-2 IIRS, Level 1 cubes",
    opens=open_iirs,
    guess=is_iirs,
    extensions=(".qub",),
)
Backend = backend(READER)
