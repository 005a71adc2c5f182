"""What fills the features of a bank: a value for each kind, with the card that the bank keeps of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.models import Device
from lunarray.errors import InputError
from lunarray.superres.backbone import FEATURES, Backbone, resnet50_backbone
from lunarray.superres.covariates import (
    SCALES,
    TEXTURES,
    Recipe,
    checked_maps,
    map_card,
    map_features,
    require_maps,
)
from lunarray.superres.feature_tiles import prepare
from lunarray.superres.features import Mode, surface_features
from lunarray.superres.grid import GIBGrid
from lunarray.superres.mrmr import select_features

Region = tuple[int, int]


class MapFeatures:
    """Covariates from maps."""

    def __init__(
        self,
        maps: Mapping[str, xr.DataArray],
        grid: GIBGrid,
        *,
        scales: Sequence[float] = SCALES,
        textures: Sequence[float] = TEXTURES,
    ) -> None:
        self.recipe = Recipe(tuple(scales), tuple(textures))
        self.maps, self.grid = checked_maps(maps), grid
        self.card = map_card(self.maps, self.recipe)

    def require(self, region: Region) -> None:
        """CoverageError where a map does not reach over a region."""
        require_maps(self.maps, self.grid, region)

    def __call__(self, region: Region) -> np.ndarray:
        """The features of a region, (feature, row, column)."""
        return map_features(
            self.maps, self.grid, region, scales=self.recipe.scales, textures=self.recipe.textures
        ).values


class NetworkFeatures:
    """What a ResNet50 sees in a base map."""

    def __init__(
        self,
        basemap: Any,
        grid: GIBGrid,
        weights: str | os.PathLike[str] | Backbone | None,
        meta: Mapping[str, Any],
        *,
        select: Sequence[int] | np.ndarray | None,
        mode: Mode,
        window_km: float,
        value_range: tuple[float, float] | None,
        device: Device,
        **options: Any,
    ) -> None:
        known = meta["feature_model"] or {}
        self.basemap, self.grid, self.options = basemap, grid, options
        self.setup = prepare(
            basemap, grid, resnet50_backbone(weights, device=device), mode=mode, window=window_km,
            value_range=value_range or known.get("value_range"),
        )  # fmt: skip
        low, high = self.setup.grey()
        self.card: dict[str, Any] = {
            **self.setup.backbone.description,
            "mode": mode,
            "window_km": float(window_km),
            "value_range": [low, high],
        }
        self.card["sha256"] = self.card.pop("weights_sha256")
        self.select = known.get("selection") if select is None else select
        #: Features of the bank; a bank that does not say keeps those of the paper.
        self.count = meta["features"] or (300 if self.select is None else len(self.select))

    def require(self, region: Region) -> None:
        """CoverageError where the base map does not reach over a region."""
        i, j = region
        self.setup.require(self.grid.lat(i), self.grid.lon(j), f"region {region}")

    def __call__(self, region: Region) -> np.ndarray:
        """The features of a region, (feature, row, column)."""
        low, high = self.card["value_range"]
        features = surface_features(
            self.basemap, self.grid, region, self.setup.backbone, self.card["mode"],
            self.card["window_km"], select=self.select, value_range=(low, high), **self.options,
        ).compute()  # fmt: skip
        if self.select is None:
            every = self.count == FEATURES
            self.select = np.arange(FEATURES) if every else select_features(features, self.count)
            features = features.isel(feature=self.select)
        self.card["selection"] = [int(f) for f in np.asarray(self.select)]
        if len(self.card["selection"]) != self.count:
            raise InputError(
                f"{len(self.card['selection'])} features for a store of {self.count}",
                where="select",
                remedy="Give as many as the store was made for",
            )
        return features.values


def feature_maker(
    grid: GIBGrid,
    meta: Mapping[str, Any],
    basemap: xr.DataArray | None,
    weights: str | os.PathLike[str] | Backbone | None,
    maps: Mapping[str, xr.DataArray] | None,
    network: Mapping[str, Any],
    **options: Any,
) -> MapFeatures | NetworkFeatures:
    """What makes features of the arguments of :func:`lunarray.superres.fill_features`; InputError if none can."""
    if (basemap is None) == (maps is None):
        raise InputError(
            "neither maps nor a base map" if maps is None else "maps and a base map",
            where="fill_features",
            remedy="Give maps={'albedo': ...}, or a base map and the weights of a network",
        )
    if maps is None and weights is not None:
        return NetworkFeatures(basemap, grid, weights, meta, **network, **options)
    if weights is not None or network["select"] is not None:
        raise InputError(
            "maps, and weights or a selection of a network's features",
            where="fill_features",
            remedy="Give a base map with weights, or maps alone",
        )
    return MapFeatures({"basemap": basemap} if maps is None else maps, grid, **options)  # type: ignore[dict-item]
