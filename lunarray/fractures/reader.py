"""How images of the LROC Narrow Angle Camera are known."""

from __future__ import annotations

import os
import re

from lunarray.readers import Reader, backend, head

_IS_NAC = re.compile(rb"InstrumentId\s*=\s*NAC[LR]\b|\bFRAME_ID\s*=\s*\"?(?:LEFT|RIGHT)\b")
#: What the camera's products are called: M143947267LE, M1229577647RC.
_NAME = re.compile(r"M\d{9,10}[LR][EC]?(?![0-9A-Za-z])")


def _is_nac(path: str) -> bool:
    label = head(path)
    if label.startswith((b"Object = IsisCube", b"PDS_VERSION_ID")):
        return b"LUNAR RECONNAISSANCE ORBITER" in label and bool(_IS_NAC.search(label))
    return bool(_NAME.match(os.path.basename(path))) and path.lower().endswith(NAC.extensions)


def _is_one_band(path: str) -> bool:
    from lunarray.geo import raster_info

    return path.lower().endswith(NAC.extensions) and raster_info(path).count == 1


NAC = Reader(
    name="lroc-nac",
    description="LROC Narrow Angle Camera, and other images of one band",
    opens="lunarray.fractures:open_nac",
    guess=_is_nac,
    extensions=(".tif", ".tiff", ".cub", ".png", ".img", ".jp2"),
    could=_is_one_band,
)

NacBackend = backend(NAC)
