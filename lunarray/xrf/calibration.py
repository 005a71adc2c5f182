"""The response as the data show it: widths and gain of the lines of bright spectra, by epoch and set of detectors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import known_values
from lunarray.errors import InputError, require_number
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.constants import HIGHLAND
from lunarray.xrf.fit_kernels import template_kernel
from lunarray.xrf.frames import described, is_lazy, require_frames
from lunarray.xrf.line_shape import LineShape
from lunarray.xrf.model import PhotonModel
from lunarray.xrf.response import Response, rebin
from lunarray.xrf.settings import Geometry

__all__ = ["SHAPE_PARAMETERS", "calibrate_response"]

#: What is measured of a `LineShape`, and the steps (same units) by which its slopes are taken.
SHAPE_PARAMETERS = ("width", "slope", "offset")
SHAPE_STEPS = (0.004, 0.002, 0.004)
_LIMITS = ((0.08, 0.24), (0.95, 1.05), (-0.06, 0.06))
#: Scattered lines of the Sun beside those of the surface, keV: helium- and hydrogen-like ions of a flare; potassium.
_OTHER_LINES = (1.352, 1.865, 2.006, 2.461, 2.622, 3.140, 3.313, 3.902)
#: Temperatures (keV) of the continua whose mixture is the scattered sunlight.
_CONTINUA = (0.25, 0.4, 0.6, 0.9, 1.4, 2.5, 6.0)
#: Frames that are added up have at least this share of the counts of the brightest of their group.
_BRIGHT = 0.25
_BAND = (0.95, 4.3)
_PACKED = 3 + 9 + 5


@typed
def calibrate_response(
    ds: xr.Dataset,
    response: Response,
    background: xr.Dataset | None = None,
    *,
    epoch: str = "1D",
    min_counts: float = 2e4,
) -> xr.Dataset:
    """Measure the width and the gain of the lines in bright frames, by epoch and set of detectors.

    The lit frames of an epoch and a set of detectors that are at least a quarter as bright as the brightest of them are
    added up; lines of the surface and of the Sun, each with its own strength, and a scattered continuum are fitted to
    the sum. No composition and no solar spectrum is needed. Sets are told apart by ``detectors``, of frames, or by
    ``n_detectors``; where either has to be computed first, those with the most common number of an epoch are taken.

    Parameters
    ----------
    ds : Dataset
        Spectra of :func:`lunarray.open_class` or :func:`lunarray.xrf.coadd`.
    response : Response
        Of the same channels; its width and gain are replaced, its tail, shelf and area stay.
    background : Dataset, optional
        Of :func:`lunarray.xrf.read_background`: its shape. By default a flat one, whose height is fitted.
    epoch : str
        Length of an epoch, as pandas writes it.
    min_counts : float
        A row with fewer counts in 0.95-4.3 keV tells nothing: NaN.

    Returns
    -------
    Dataset
        ``value`` (epoch, parameter) with ``covariance`` (epoch, parameter, parameter_b), float64, of the parameters
        width (full at half maximum at 1.5 keV, keV), slope (1) and offset (keV): a photon of energy E is counted around
        slope · (E + offset); errors are multiplied with the root of ``reduced_chi2`` (epoch) where that is above 1.
        ``counts``, ``frames`` and ``n_detectors`` (epoch) that were used; ``start`` and ``end`` of each row, and
        ``detectors``, flags of its set, 0 where frames do not say. An epoch has a row for each of its sets. Lazy where
        `ds` is. :func:`fit_elements` takes for each spectrum the nearest row of its own set, or of any.

    Raises
    ------
    InputError
        If the response is not made for these channels, or `epoch` is no length of time.

    Examples
    --------
    >>> shape = lunarray.xrf.calibrate_response(frames, response)  # doctest: +SKIP
    >>> lunarray.xrf.fit_elements(frames, sun, response, calibration=shape)  # doctest: +SKIP
    """
    require_frames(ds, "calibrate_response")
    require_number("min_counts", min_counts, 0)
    if response.channels != ds.sizes["channel"]:
        raise InputError(
            f"the response has {response.channels} channels, the spectra have {ds.sizes['channel']}",
            where="response",
            remedy="Give the RMF made for this binning, or join channels with Response.group",
        )
    epochs, labels = _epochs(ds, epoch)
    options = {
        "epochs": epochs,
        "response": response,
        "back": None if background is None else np.asarray(background["counts"].values, "f8"),
        "min_counts": min_counts,
    }
    packed = _packed(ds, options)
    result = xr.Dataset(
        {
            "value": described(("epoch", "parameter"), packed[:, :3], "1", "width and offset in keV, slope"),
            "covariance": described(
                ("epoch", "parameter", "parameter_b"), packed[:, 3:12].reshape(-1, 3, 3), "1", "of the values"
            ),
            "reduced_chi2": described("epoch", packed[:, 12], "1", "chi squared over degrees of freedom"),
            "counts": described("epoch", packed[:, 14], "1", "counts in 0.95-4.3 keV that were fitted"),
            "frames": described("epoch", packed[:, 15], "1", "number of frames that were added up"),
            "n_detectors": described("epoch", packed[:, 16], "1", "number of detectors that they used"),
        },
        {
            **labels,
            "parameter": np.array(SHAPE_PARAMETERS, object),
            "parameter_b": np.array(SHAPE_PARAMETERS, object),
        },
    )  # fmt: skip
    return stamp(
        result,
        f"calibrate_response(epoch={epoch})",
        source=ds.attrs.get("source"),
        response_digest=response.digest,
    )


def _packed(ds: xr.Dataset, options: dict[str, Any]) -> Any:
    """What `_measure_epochs` gives, in memory or lazily."""
    columns = [
        ds[k].data if k in ds.variables else np.full(ds.sizes["time"], np.nan) for k in _COLUMNS
    ]
    counts = ds["counts"].transpose("time", "channel").data
    if is_lazy(ds["counts"]) or any(hasattr(c, "dask") for c in columns):
        import dask
        import dask.array as da

        table = da.stack([da.asarray(c).astype("f8") for c in columns], axis=1).rechunk((-1, -1))
        return da.map_blocks(
            _measure_epochs, da.asarray(counts).rechunk((-1, -1)), table,
            options=dask.delayed(options, pure=True), chunks=((len(options["epochs"]),), (_PACKED,)), dtype="f8",
            meta=np.empty((0, 0)),
        )  # fmt: skip
    table = np.stack([np.asarray(c, "f8") for c in columns], axis=1)
    return _measure_epochs(np.asarray(counts), table, options=options)


_COLUMNS = ("incidence", "emission", "phase", "n_detectors")


def _epochs(ds: xr.Dataset, epoch: str) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Indices of the frames of each epoch, and the coordinates of these."""
    import pandas as pd

    time = pd.DatetimeIndex(ds["time"].values)
    try:
        starts = time.floor(epoch)
    except (
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # what pandas raises depends on what it was given
        raise InputError(
            f"epoch {epoch!r}", where="epoch", remedy="Give a length of time such as '1D' or '6h'"
        ) from error
    used = detector_sets(ds)
    found = pd.Series(np.arange(time.size)).groupby([starts, used])
    rows = [(key[1], part.to_numpy()) for key, part in found]
    epochs = [own for _, own in rows]
    masks = "detectors" in ds.variables
    sets = np.array([key if masks else 0 for key, _ in rows], "u2")
    labels = {
        "epoch": np.arange(len(epochs)),
        "start": ("epoch", np.array([time[i].min() for i in epochs], "M8[ns]")),
        "end": ("epoch", np.array([time[i].max() for i in epochs], "M8[ns]")),
        "detectors": ("epoch", sets, {"long_name": "flags of the detectors used"}),
    }
    return epochs, labels


def detector_sets(ds: xr.Dataset) -> np.ndarray:
    """Set of detectors of each spectrum: flags, or their number; 0 where it is not known without computing."""
    for name in ("detectors", "n_detectors"):
        if name in ds.variables and (values := known_values(ds[name].data)) is not None:
            return np.round(np.nan_to_num(np.asarray(values, "f8"))).astype("i8")
    return np.zeros(ds.sizes["time"], "i8")


def _measure_epochs(
    counts: np.ndarray, table: np.ndarray, *, options: dict[str, Any]
) -> np.ndarray:
    """Line shapes of the epochs' frames, packed: value, covariance, χ²/dof, dof, counts, frames, detectors."""
    response = options["response"]
    energy = response.channel_energy()
    band = (energy >= _BAND[0]) & (energy < _BAND[1])
    out = np.full((len(options["epochs"]), _PACKED), np.nan)
    for row, own in zip(out, options["epochs"], strict=True):
        own = own[np.asarray(table[own, 0], "f8") < 90]
        if not own.size:
            continue
        bright = np.nan_to_num(np.asarray(counts[own], "f8")[:, band].sum(axis=1))
        own = own[bright >= _BRIGHT * bright.max()]
        # Sets of detectors are not mixed: where they were not told apart, the one that most frames have.
        used = np.nan_to_num(table[own, 3], nan=CLASS_DETECTORS)
        number, times = np.unique(used, return_counts=True)
        use = own[used == number[np.argmax(times)]]
        total = np.nansum(np.asarray(counts[use], "f8"), axis=0)
        row[14:] = total[band].sum(), use.size, number[np.argmax(times)]
        if total[band].sum() < options["min_counts"]:
            continue
        incidence, emission, phase = (
            np.mean(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan
            for column in table[use, :3].T
        )
        emission = emission if np.isfinite(emission) else 0.0
        geometry = Geometry(incidence, emission, phase if np.isfinite(phase) else None)
        row[:14] = measure_shape(total, response, geometry, options["back"])
    return out


def measure_shape(
    counts: np.ndarray, response: Response, geometry: Geometry, back: np.ndarray | None = None
) -> np.ndarray:
    """Fit width, slope and offset to one spectrum; lines and continuum are solved for at each step.

    `counts` (channel,): of many photons; `back` (channel,): shape of the background. Returns the three values, their
    covariance (9), χ² over degrees of freedom and these, (14,) float64.
    """
    from scipy.optimize import least_squares, nnls

    response, first = _part(response)
    energy = response.channel_energy()
    band = np.flatnonzero((energy >= _BAND[0]) & (energy < _BAND[1]))
    data = counts[first : first + response.channels][band]
    back = None if back is None else back[first : first + response.channels]
    steps = np.array(SHAPE_STEPS)
    low, high = np.array(_LIMITS).T / steps
    variance = np.maximum(np.convolve(np.pad(data, 2, mode="edge"), np.full(5, 0.2), "valid"), 1.0)
    model, used = data, 0

    def residual(x: np.ndarray) -> np.ndarray:
        nonlocal model, used
        shape = LineShape(**dict(zip(SHAPE_PARAMETERS, (x * steps).tolist(), strict=True)))
        design = _design(response.with_shape(shape), geometry, back)[:, band]
        total = design.sum(axis=1)
        design = design[total > 0] / total[total > 0, None]
        weight = 1 / np.sqrt(variance)
        solution, _ = nnls((design * weight).T, data * weight, maxiter=30 * len(design))
        model, used = solution @ design, int(np.count_nonzero(solution))
        return (model - data) * weight

    x = np.array([0.142, 1.0, 0.0]) / steps
    for _ in range(2):  # with variances of the data, then with those of the model
        found = least_squares(
            residual, x, bounds=(low, high), diff_step=3e-3, max_nfev=12, xtol=1e-4
        )
        x = found.x
        residual(x)
        variance = np.maximum(model, 1.0)
    chi2, dof = float(np.sum((data - model) ** 2 / variance)), data.size - used - x.size
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * np.outer(steps, steps)
    reduced = chi2 / dof
    return np.array([*(x * steps), *(covariance * max(reduced, 1.0)).ravel(), reduced, dof])


@functools.lru_cache(maxsize=4)
def _part(response: Response) -> tuple[Response, int]:
    """The rows and channels that the band has to do with, and the number of the first channel."""
    energy = response.channel_energy()
    first, stop = np.searchsorted(energy, [_BAND[0] - 0.4, _BAND[1] + 0.4]).tolist()
    part = response.select(first, stop)
    return part.below(_BAND[1] + 4.0), first


def _design(response: Response, geometry: Geometry, back: np.ndarray | None) -> np.ndarray:
    """Counts of unit lines and continua through a response, (part, channel)."""
    tables = atomic_tables()
    area = response.area, response.row, response.channel, response.value, response.channels
    ends = response.energy_lo, response.energy_hi
    lines = template_kernel(np.asarray(tables.line_energy), 0, 0.0, *ends, *area)
    rows = []
    for i, name in enumerate(tables.line_names):
        if not name.endswith("Ka") or name == "O Ka":
            continue
        beta = name[:-2] + "Kb"
        j = tables.line_names.index(beta) if beta in tables.line_names else i
        share = tables.line_rate[j] / tables.line_rate[i] if j != i else 0.0
        rows.append(lines[i] + share * lines[j])
    rows.extend(template_kernel(np.array(_OTHER_LINES), 0, 0.0, *ends, *area))
    for parts in _continua(
        round(geometry.incidence), round(geometry.emission), round(geometry.scattering_angle)
    ):
        photons = np.zeros(response.energies)
        for low, high, values in parts:
            photons += rebin(values, low, high, *ends)
        rows.append(response.fold(photons))
    rows.append(np.ones(response.channels) if back is None else back + 1e-9)
    return np.array(rows)


@functools.lru_cache(maxsize=16)
def _continua(incidence: int, emission: int, angle: int) -> list[Any]:
    """Sunlight of several temperatures that a highland surface scatters."""
    edges = 0.1 + 0.01 * np.arange(1301)
    energy = (edges[:-1] + edges[1:]) / 2
    geometry = Geometry(min(incidence, 89), min(emission, 89), 180.0 - angle)
    return [
        PhotonModel(
            (edges[:-1], edges[1:], energy**-1.4 * np.exp(-(energy - 2.0) / kt)), geometry
        ).scattered(list(HIGHLAND.values()))
        for kt in _CONTINUA
    ]
