"""How the bands of spectra go with the oxides of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.oxides.constants import choose_oxides
from lunarray.oxides.samples import sampled_spectra
from lunarray.typing import typed


@typed
def band_correlation(samples: xr.Dataset, *, oxides: Sequence[str] | None = None) -> xr.DataArray:
    """Correlate the reflectance of every band with the abundance of every oxide.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, equation 1 and figure 2.

    Parameters
    ----------
    samples : Dataset
        ``reflectance`` (sample, wavelength) and oxides (sample); samples whose ``status`` is not 0 are left out.
    oxides : sequence of str, optional
        By default those of the six that are there.

    Returns
    -------
    DataArray
        Pearson's R (oxide, wavelength), float32, lazy where the samples are. Each R is of the samples in which both
        are finite; NaN where these are fewer than two, or the band or the oxide is the same in all of them.

    Raises
    ------
    InputError
        If these are not samples, or an oxide is missing.

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> la.oxides.band_correlation(samples).dims
    ('oxide', 'wavelength')
    """
    reflectance = sampled_spectra(samples, "band_correlation")
    names = choose_oxides(oxides, "band_correlation", samples=samples)
    x = reflectance.data
    y = [samples[oxide].data for oxide in names]
    status = samples["status"].data if "status" in samples else np.zeros(x.shape[0], np.uint8)
    if any(map(dask.is_dask_collection, (x, status, *y))):
        whole = [
            da.asarray(a).rechunk(-1) for a in (x, da.stack([da.asarray(a) for a in y]), status)
        ]
        data: Any = da.blockwise(
            _pearson,
            "ob",
            whole[0],
            "sb",
            whole[1],
            "os",
            whole[2],
            "s",
            concatenate=True,
            dtype=np.float32,
            meta=np.empty((0, 0), np.float32),
        )
    else:
        data = _pearson(x, np.stack(y), status)
    return xr.DataArray(
        data,
        {"oxide": list(names), "wavelength": reflectance["wavelength"]},
        ("oxide", "wavelength"),
        "R",
        {"long_name": "Pearson correlation of reflectance and abundance", "units": "1"},
    )


def _pearson(x: np.ndarray, y: np.ndarray, status: np.ndarray) -> np.ndarray:
    """R of bands (sample, band) with oxides (oxide, sample), shape (oxide, band), over pairs that are finite."""
    used = status == 0
    x, y = x[used].astype(np.float64), y[:, used].astype(np.float64)
    return np.stack([_pearson_columns(x, column) for column in y]).astype(np.float32)


def _pearson_columns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """R of the columns of x (sample, band) with y (sample); in two passes, since pairs differ from band to band."""
    pairs = np.isfinite(x) & np.isfinite(y)[:, None]
    n = pairs.sum(axis=0)

    def about_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not pairs.shape[0]:
            return np.zeros(pairs.shape), np.zeros(n.size, bool)
        least = np.where(pairs, values, np.inf).min(axis=0)
        # A constant is told by its range: rounding in the mean leaves it some variance.
        varies = np.where(pairs, values, -np.inf).max(axis=0) > least
        mean = np.where(pairs, values, 0.0).sum(axis=0) / np.maximum(n, 1)
        return np.where(pairs, values - mean, 0.0), varies

    with np.errstate(invalid="ignore"):  # inf in what is left out
        (dx, x_varies), (dy, y_varies) = about_mean(x), about_mean(y[:, None])
    size = np.sqrt((dx**2).sum(axis=0)) * np.sqrt((dy**2).sum(axis=0))
    r = (dx * dy).sum(axis=0) / np.where(size > 0, size, 1.0)
    return np.where(x_varies & y_varies & (size > 0), np.clip(r, -1, 1), np.nan)
