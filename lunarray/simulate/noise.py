"""Random numbers that depend on a seed and a place only, so that chunks do not matter."""

from __future__ import annotations

import math

import numpy as np


def hash_uniform(seed: int, pixel: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) that depend on seed, pixel number and stream only (splitmix64)."""
    with np.errstate(over="ignore"):
        z: np.ndarray = (
            pixel[:, None] * np.uint64(0x9E3779B97F4A7C15)
            + stream[None, :] * np.uint64(0xD1B54A32D192ED03)
            + np.uint64(seed % 2**63) * np.uint64(0x8CB92BA72F3D8DD7)
        )
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def hash_normal(seed: int, pixel: np.ndarray, count: int) -> np.ndarray:
    """Normal numbers, shape (pixel, count), float32 (Box-Muller)."""
    half = (count + 1) // 2
    u = hash_uniform(seed, pixel, np.arange(2 * half, dtype=np.uint64)).astype(np.float32)
    radius = np.sqrt(-2 * np.log(np.maximum(u[:, :half], np.float32(1e-12))))
    angle = np.float32(2 * math.pi) * u[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
