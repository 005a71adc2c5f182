"""What raster files say of themselves beyond what rasterio reads."""

from __future__ import annotations

import json
from typing import Any


def isis_label(raster: Any) -> dict[str, Any]:
    """Label of an ISIS3 cube.

    Parameters
    ----------
    raster : rasterio.DatasetReader

    Returns
    -------
    dict
        The object ``IsisCube``; empty where the raster is no ISIS3 cube.
    """
    if "json:ISIS3" not in raster.tag_namespaces():
        return {}
    # rasterio takes the JSON document for "key:value" or "key=value"; put together again it is whole.
    for key, value in raster.tags(ns="json:ISIS3").items():
        for separator in (":", "="):
            try:
                return dict(json.loads(f"{key}{separator}{value}").get("IsisCube", {}))
            except (ValueError, AttributeError):
                continue
    return {}
