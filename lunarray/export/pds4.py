"""Products of the Planetary Data System, version 4: raw arrays with an XML label, as GDAL writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import GridError, InputError, WrongKindError
from lunarray.export.geotiff import is_map
from lunarray.export.places import place_of, span, times_of
from lunarray.units import unit_label

#: What is missing, in floats: the NULL of ISIS, which PDS4 tools and QGIS know.
MISSING = -3.4028226550889045e38
#: The logical identifier of the Moon, as GDAL would make it and as the PDS has it.
_GDALS_MOON = "urn:nasa:pds:context:target:satellite.moon"
_MOON = "urn:nasa:pds:context:target:satellite.earth.moon"
_NIL = '<{}_date_time xsi:nil="true" nilReason="inapplicable" />'


def to_pds4(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    identifier: str = "urn:nasa:pds:lunarray:data",
    title: str | None = None,
    investigation: tuple[str, str] = (
        "lunarray",
        "urn:nasa:pds:context:investigation:other_investigation.lunarray",
    ),
    observing_system: str | None = None,
    time: Any = None,
) -> list[Path]:
    """Write maps as products of PDS4: for each variable a raw array (.img) and its label (.xml).

    Lazy variables are computed block by block. The label is GDAL's, with the cartography of the map.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables with dims (y, x) or (lat, lon) and a lunar reference system; others are left out.
    path : path
        The label (.xml) for a DataArray; for a Dataset, the folder that gets ``<variable>.xml`` and ``.img`` each.
    identifier : str
        Bundle and collection, ``urn:AGENCY:pds:BUNDLE:COLLECTION``; the variable's name is appended. An archive gives
        you yours: the default belongs to none.
    title : str, optional
        Of the products; by default the long name of each variable.
    investigation : tuple of str
        Name, and logical identifier of the investigation in the PDS context. The default is a placeholder, as that of
        `identifier` is.
    observing_system : str, optional
        By default the attribute ``instrument``.
    time : pair of datetime-like, optional
        When the observations were made, UTC; by default what the result says, else the label says that none
        applies.

    Returns
    -------
    list of Path
        The labels.

    Raises
    ------
    InputError
        If there is no map, or `identifier` or the ending is none.
    GridError
        If the map has no reference system.
    WrongKindError
        If `obj` is no object of xarray.

    Notes
    -----
    Numbers are little-endian, of their own type; missing floats are ISIS' NULL, which the label names. A grid of
    longitudes and latitudes is labelled as the equirectangular projection in metres that it is.

    Examples
    --------
    >>> import lunarray as la
    >>> maps = la.simulate.polar_scene(resolution=20_000, latitude=85).lunar.invert_oxides()
    >>> [label.name for label in la.export.to_pds4(maps[["FeO"]], "archive")]
    ['FeO.xml']
    """
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise WrongKindError(
            f"a {type(obj).__name__} is no object of xarray",
            where="to_pds4",
            remedy="Give a Dataset or a DataArray",
        )
    path = local_path(path)
    parts = identifier.split(":")
    if parts[0] != "urn" or len(parts) != 5 or not all(parts) or identifier != identifier.lower():
        raise InputError(
            f"{identifier!r} is no identifier of a collection",
            where="identifier",
            remedy="Give urn:AGENCY:pds:BUNDLE:COLLECTION, in lower case",
        )
    said = {
        "identifier": identifier,
        "title": title,
        "investigation": investigation,
        "observing_system": observing_system or str(obj.attrs.get("instrument", "unknown")),
        "time": time,
    }
    if isinstance(obj, xr.DataArray):
        if path.suffix.lower() != ".xml":
            raise InputError(
                f"labels are not called {path.name}", where=path, remedy="End the name in .xml"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return [_write(obj, path, obj.attrs, **said)]
    maps = {str(n): da for n, da in obj.data_vars.items() if is_map(da) and da.ndim == 2}
    if not maps:
        raise InputError(
            "no map to write",
            where=path,
            remedy="Grid the observations first: ds.lunar.grid('north')",
        )
    path.mkdir(parents=True, exist_ok=True)
    return [_write(da, path / f"{name}.xml", obj.attrs, **said) for name, da in maps.items()]


def _write(
    da: xr.DataArray,
    path: Path,
    attrs: Any,
    *,
    identifier: str,
    title: str | None,
    investigation: tuple[str, str],
    observing_system: str,
    time: Any,
) -> Path:
    import rioxarray  # noqa: F401  registers `.rio`

    if not is_map(da) or da.ndim != 2:
        raise InputError(
            f"dims {da.dims} are no map", where=str(da.name), remedy="Give dims (y, x)"
        )
    ds = da.to_dataset(name=da.name or path.stem)
    lon, lat, placed = place_of(ds)
    if not placed:
        raise GridError(
            "the map has no coordinate reference system",
            where=str(da.name),
            remedy="Attach one with lunarray.geo.assign_crs(da, 'north')",
        )
    west, south, east, north = span(lon, lat, float(np.ptp(lon)) >= 360 - 1e-9)
    y, x = da.dims
    unit = unit_label(da, "")
    plain = da.drop_encoding().rio.set_spatial_dims(x_dim=x, y_dim=y)
    plain.attrs = {k: v for k, v in da.attrs.items() if k == "grid_mapping"}
    if da.dtype.kind == "b":
        plain = plain.astype("uint8")
    missing = None
    if da.dtype.kind == "f":
        plain = plain.astype("float32") if da.dtype.itemsize < 4 else plain
        plain, missing = plain.fillna(plain.dtype.type(MISSING)), MISSING
    elif "nodata" in da.attrs:
        missing = int(da.attrs["nodata"])
    name = str(da.name or path.stem).lower()
    options = {
        "IMAGE_FORMAT": "RAW",
        "ARRAY_TYPE": "Array_2D_Image",
        "BOUNDING_DEGREES": f"{west!r},{south!r},{east!r},{north!r}",
        "VAR_LOGICAL_IDENTIFIER": f"{identifier}:{name}",
        "VAR_TITLE": title or str(da.attrs.get("long_name") or da.name or path.stem),
        "VAR_INVESTIGATION_AREA_NAME": investigation[0],
        "VAR_INVESTIGATION_AREA_LID_REFERENCE": investigation[1],
        "VAR_OBSERVING_SYSTEM_NAME": observing_system,
        "VAR_TARGET": "Moon",
        "VAR_TARGET_TYPE": "Satellite",
        **({"UNIT": unit} if unit and unit != "1" else {}),
    }
    if missing is not None:
        plain = plain.rio.write_nodata(missing)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        label = Path(folder) / path.name
        plain.rio.to_raster(
            label,
            driver="PDS4",
            lock=True if da.chunks else None,
            windowed=bool(da.chunks),
            **options,
        )
        _complete(label, ds, attrs, time)
        os.replace(label.with_suffix(".img"), path.with_suffix(".img"))
        os.replace(label, path)
    return path


def _complete(label: Path, ds: xr.Dataset, attrs: Any, time: Any) -> None:
    """Put into a label what GDAL does not know: the Moon's name in the PDS, and when it was observed."""
    text = label.read_text(encoding="utf-8").replace(_GDALS_MOON, _MOON)
    try:
        when = times_of(ds, dict(attrs), time, label.name)
    except InputError:
        if time is not None:
            raise
        when = {"created": ""}
    if "created" not in when:  # that is when the result was made, not the observations
        ends = {
            "start": when.get("start_datetime") or when["datetime"],
            "stop": when.get("end_datetime") or when["datetime"],
        }
        for end, moment in ends.items():
            text = text.replace(_NIL.format(end), f"<{end}_date_time>{moment}</{end}_date_time>")
    label.write_text(text, encoding="utf-8")
