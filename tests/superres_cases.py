"""Small regions and banks that the tests of super-resolution train on."""

from __future__ import annotations

import numpy as np
import xarray as xr

from lunarray.superres import GIBGrid, TrainSettings

#: So small that a training takes a fraction of a second.
TINY = TrainSettings.footprint_aware(
    size=12, stride=6, k=6, hidden=4, heads=1, channels=(4, 4, 4), fusion=6, epochs=1, steps=(1, 1), learning_rate=1e-2,
    held_out=0.0,
)  # fmt: skip
ELEMENTS = ("Fe", "Al", "Mg")


def fields(rng, grid, count=6):
    """Smooth fields on a grid, without a seam at ±180°: (count, lat, lon)."""
    lat, lon = np.deg2rad(grid.lat()), np.deg2rad(grid.lon())
    x = np.cos(lat)[:, None] * np.cos(lon)
    y = np.cos(lat)[:, None] * np.sin(lon)
    z = np.broadcast_to(np.sin(lat)[:, None], x.shape)
    place = np.stack([x, y, z])
    # Waves about as long as ten pixels.
    scale = 2 * np.pi / (10 * np.deg2rad(min(grid.step)))
    wave = rng.standard_normal((count, 4, 3)) * scale / 2
    phase = rng.uniform(0, 6, (count, 4))
    angle = np.tensordot(wave, place, axes=1) + phase[..., None, None]
    return np.cos(angle).sum(axis=1).astype(np.float32)


def truth_of(features):
    """Elements that follow from the features: (element, lat, lon), wt%."""
    a, b = features[0], features[1]
    return np.stack([8 + 1.5 * a, 9 - 1.2 * a + 0.3 * b, 5 + 0.4 * b]).astype(np.float32)


def footprints_of(rng, grid, truth, number=40, noise=0.02, elements=ELEMENTS):
    """Footprints of about one pixel by six, each the mean of what it covers."""
    from lunarray.superres.support import footprint_support

    west, south, east, north = grid.extent
    height, width = grid.step
    lon = rng.uniform(west + width, east - width, number)
    lat = rng.uniform(south + 4 * height, north - 4 * height, number)
    half_lat, half_lon = 3.2 * height, 1.1 * width
    corner_lat = lat[:, None] + half_lat * np.array([-1, 1, 1, -1])
    corner_lon = lon[:, None] + half_lon * np.array([-1, -1, 1, 1])
    blank = np.zeros((number, len(elements)))
    support = footprint_support(
        corner_lat, corner_lon, blank, blank, grid.lat(), grid.lon(), least=0
    )
    keep = support.number
    mean = support.mean(truth.reshape(len(elements), -1).T)
    measured = np.maximum(mean + noise * rng.standard_normal(mean.shape), 0.01)
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), corner_lat[keep]),
            "corner_lon": (("footprint", "corner"), corner_lon[keep]),
            "abundance": (("footprint", "element"), measured),
            "abundance_std": (("footprint", "element"), np.full(mean.shape, noise)),
        },
        {"element": list(elements)},
    )


def region(rng, shape=(24, 30), number=40, noise=0.02, extent=(10.0, 0.0, 11.98, 1.584)):
    """One region populated in memory, and its truth."""
    from lunarray.superres.regions import assemble_region

    grid = GIBGrid((1, 1), shape, extent)
    features = fields(rng, grid)
    truth = truth_of(features)
    mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
    footprints = footprints_of(rng, grid, truth, number, noise)
    return assemble_region(grid, features, mare, footprints), truth, footprints, grid


def bank(path, rng, grid, number=60):
    """A Global Information Bank with features and mare class, and footprints to populate it with."""
    import lunarray.superres as sr

    features = fields(rng, grid)
    truth = truth_of(features)
    mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
    sr.create_gib(path, grid, list(ELEMENTS), len(features))
    for own in grid.all_regions():
        rows, columns = grid.slices(*own)
        sr.write_region(
            path,
            own,
            feature=features[:, rows, columns],
            mare=mare[rows, columns],
            feature_model={"network": "waves", "sha256": "0" * 64},
        )
    return footprints_of(rng, grid, truth, number), truth
