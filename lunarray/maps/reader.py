"""How M3's products, Lunar Prospector's tables and global maps are known."""

from __future__ import annotations

import gzip
import os
import re

from lunarray.readers import Reader, backend, head, label_head

_M3 = re.compile(
    r"M3[GT]\d{8}T\d{6}_V\d\d_(?:(?:RDN|RFL).*\.IMG|(?:L1B|L2).*\.LBL)$", re.IGNORECASE
)
_OF_AN_INSTRUMENT = re.compile(rb"Group\s*=\s*Instrument", re.IGNORECASE)
_OF_A_FRAME = re.compile(rb"\bFRAME_ID\s*=\s*\"?(?:LEFT|RIGHT)\b")
_ON_A_MAP = re.compile(rb"Group\s*=\s*Mapping", re.IGNORECASE)
#: Columns of the narrowest table that is taken for a map of the whole Moon: pixels of 10°.
_COLUMNS = 36


def _is_m3(path: str) -> bool:
    return bool(_M3.match(os.path.basename(path)))


def _is_table(path: str) -> bool:
    from lunarray.maps.prospector import is_table

    return path.lower().endswith(".tab") and is_table(path)


def _is_map(path: str) -> bool:
    ending = os.path.splitext(path.lower())[1]
    if ending in (".csv", ".gz"):
        return path.lower().endswith((".csv", ".csv.gz")) and _is_map_of_numbers(path)
    if ending in (".lbl", ".img"):
        return _is_map_of_pds(path)
    if ending == ".cub":
        label = head(path, 65536)
        return label.startswith(b"Object = IsisCube") and bool(
            _ON_A_MAP.search(label) and not _OF_AN_INSTRUMENT.search(label)
        )
    return ending in (".tif", ".tiff") and _goes_around(path)


def _is_map_of_numbers(path: str) -> bool:
    """Whether the first line of a table is numbers, and twice as many as there may be lines."""
    if path.lower().endswith(".gz"):
        with gzip.open(path) as stream:
            line = stream.readline(2**20)
    else:
        line = head(path, 2**20).split(b"\n")[0]
    columns = line.split(b",")
    numbers = [float(v) for v in columns]
    return len(numbers) >= _COLUMNS and len(numbers) % 2 == 0


def _is_map_of_pds(path: str) -> bool:
    label = label_head(path)
    return (
        b"MOON" in label.upper()
        and b"IMAGE_MAP_PROJECTION" in label
        and not _OF_A_FRAME.search(label)
    )


def _goes_around(path: str) -> bool:
    """Whether a GeoTIFF is of the whole Moon, in one band."""
    from odc.geo.geobox import GeoBox

    from lunarray.geo import MOON, raster_info
    from lunarray.geo.grid import closure_of

    info = raster_info(path)
    if info.count != 1 or info.transform is None or info.crs is None or not MOON.holds(info.crs):
        return False
    return closure_of(GeoBox(info.shape, info.transform, info.crs)).around


def _may_be_a_map(path: str) -> bool:
    """A picture, or a raster of one band with a place on the Moon: that may be an image of the NAC as well."""
    from lunarray.geo import MOON, raster_info

    if path.lower().endswith((".jpg", ".jpeg")):
        return True
    if not path.lower().endswith((".tif", ".tiff", ".cub", ".img")):
        return False
    info = raster_info(path)
    return info.count == 1 and None not in (info.transform, info.crs) and MOON.holds(info.crs)


M3 = Reader(
    name="m3",
    description="Moon Mineralogy Mapper of Chandrayaan-1, Levels 1B and 2",
    opens="lunarray.maps:open_m3",
    guess=_is_m3,
    extensions=(".lbl", ".img"),
    could=lambda path: False,
)
PROSPECTOR = Reader(
    name="lunar-prospector",
    description="Lunar Prospector, tables of elemental abundances",
    opens="lunarray.maps:open_lunar_prospector",
    guess=_is_table,
    extensions=(".tab",),
    could=lambda path: False,
)
MAP = Reader(
    name="lunar-map",
    description="Global maps: LOLA, WAC, Clementine and their like",
    opens="lunarray.maps:open_map",
    guess=_is_map,
    extensions=(".lbl", ".img", ".cub", ".tif", ".tiff", ".jpg", ".jpeg", ".csv", ".csv.gz"),
    could=_may_be_a_map,
)

M3Backend = backend(M3)
ProspectorBackend = backend(PROSPECTOR)
MapBackend = backend(MAP)
