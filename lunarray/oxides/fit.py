"""What training an oxide model leaves: networks, and how they did on samples that they had not seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.oxides.accuracy import metrics
from lunarray.oxides.networks import State, network_of, predict_state
from lunarray.oxides.regressors import Method
from lunarray.oxides.settings import TrainSettings
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.oxides.model import OxideCNN


@dataclass(frozen=True)
class OxideFit:
    """A trained oxide model, and how well it did on samples that it had not seen.

    Attributes
    ----------
    samples : Dataset
        The samples that it was trained on, in memory.
    oxides : tuple of str
        What it gives.
    settings : TrainSettings
        How each network was trained.
    states : tuple of dict of ndarray
        The final networks: one that gives all oxides, or one for each.
    members : tuple of tuple of dict of ndarray
        The ensemble: for each member its networks.
    folds : tuple of ndarray
        Samples that each fold left out.
    loss : DataArray
        On (network, fold, epoch): mean square error of standardised oxides before each step.
    left_out : Dataset or None
        The oxides of each sample (wt%) as predicted by the networks that had not seen it; None without folds.
    pixels : Dataset or None
        ``reflectance`` (sample, wavelength) of the samples' single pixels, where they were given, and the oxides as
        predicted for these by the networks that had not seen the sample.
    method : {"cnn", "gp", "pls"}
        What was trained: networks, or regressions, of which ``states`` and ``members`` are then.

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> fit = la.oxides.train(samples, method="pls")
    >>> fit.method
    'pls'
    """

    samples: xr.Dataset
    oxides: tuple[str, ...]
    settings: TrainSettings
    states: tuple[State, ...]
    members: tuple[tuple[State, ...], ...]
    folds: tuple[np.ndarray, ...]
    loss: xr.DataArray
    left_out: xr.Dataset | None
    pixels: xr.Dataset | None = None
    method: Method = "cnn"

    @property
    def reference(self) -> xr.Dataset:
        """The samples' oxides."""
        return self.samples[list(self.oxides)]

    @property
    def models(self) -> tuple[OxideCNN, ...]:
        """The final networks, in PyTorch; none of another method."""
        if self.method != "cnn":
            return ()
        return tuple(network_of(state) for state in self.states)

    def metrics(self) -> xr.Dataset:
        """Scores by oxide, :func:`lunarray.oxides.metrics`, of the left-out predictions.

        Without folds, those of the fit to the training samples themselves, which say little; attribute ``of`` tells
        which.
        """
        predicted = self.predict(self.samples) if self.left_out is None else self.left_out
        result = metrics(predicted, self.reference, oxides=self.oxides)
        result.attrs["of"] = "training samples" if self.left_out is None else "left-out predictions"
        return result

    def predict(self, samples: xr.Dataset) -> xr.Dataset:
        """Abundances (wt%) of samples on the bands of the training by the final model; NaN where a band is."""
        spectra = samples["reflectance"].transpose("sample", "wavelength")
        values = _abundances(self.states, spectra.values)
        coords = {name: c for name, c in spectra.coords.items() if "wavelength" not in c.dims}
        return oxide_dataset(values, self.oxides, coords)

    @cached_property
    def calibration(self) -> Any:
        """Errors of the left-out predictions, for intervals; None without folds.

        Where the samples say how far off the reference is, ``FeO_std`` and so on, that is taken off.
        """
        from lunarray.oxides.uncertainty import calibrate

        if self.left_out is None:
            return None
        source = self.left_out if self.pixels is None else self.pixels
        spectra = self.samples if self.pixels is None else self.pixels
        left_out, measured = (oxide_matrix(ds, self.oxides) for ds in (source, self.reference))
        good = np.isfinite(left_out).all(axis=1)
        if good.sum() < 2:
            return None
        spread = None
        if len(self.members) > 1:
            values = spectra["reflectance"].transpose("sample", "wavelength").values
            each = [_abundances(member, values) for member in self.members]
            spread = np.std(each, axis=0, ddof=1, dtype=np.float64)
        theirs = oxide_errors(self.samples, self.oxides)
        return calibrate(left_out, measured, spread, measured_std=theirs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a weights file for ``invert_oxides(model=...)``.

        It holds the networks or the regression, the novelty statistics of the training spectra (of their single pixels,
        where these were given) and, after training with folds, the ensemble (of networks) and the calibration that
        ``invert_oxides(uncertainty=True)`` needs.
        """
        from lunarray.oxides.regressor_files import save_regressor
        from lunarray.oxides.weights import save_oxide_cnn

        spectra = self.samples["reflectance"].transpose("sample", "wavelength")
        scores = self.metrics()
        training = {
            **self.settings.to_dict(),
            "samples": len(spectra),
            "folds": len(self.folds) if self.left_out is not None else 0,
            "source": str(self.samples.attrs.get("source", "")),
            "scores_of": scores.attrs["of"],
            "scores": {
                oxide: {
                    name: _number(scores[name].sel(oxide=oxide))
                    for name in ("r2_correlation", "r2_determination", "RMSE", "MAE", "bias")
                }
                for oxide in self.oxides
            },
        }
        seen = (self.samples if self.pixels is None else self.pixels)["reflectance"]
        statistics = _novelty(seen.transpose("sample", "wavelength").values)
        bands = spectra["wavelength"].values
        if self.method != "cnn":
            return save_regressor(
                path, self.method, self.states[0], wavelengths=bands, oxides=self.oxides,
                statistics=statistics, calibration=self.calibration, training=training,
            )  # fmt: skip
        save_oxide_cnn(
            path,
            self.models,
            wavelengths=bands,
            oxides=self.oxides,
            novelty=statistics,
            training=training,
            members=[tuple(map(network_of, member)) for member in self.members],
            calibration=self.calibration,
        )
        return Path(path)


def oxide_matrix(ds: xr.Dataset, oxides: Sequence[str]) -> np.ndarray:
    """Oxides of samples, (sample, oxide), float32."""
    return np.stack([ds[oxide].values for oxide in oxides], axis=1).astype(np.float32)


def oxide_errors(ds: xr.Dataset, oxides: Sequence[str]) -> np.ndarray | None:
    """Standard deviations of the errors of samples' oxides, (sample, oxide), 0 where none is told; None without any."""
    if not any(f"{oxide}_std" in ds for oxide in oxides):
        return None
    zero = xr.zeros_like(ds[oxides[0]])
    return np.stack([ds.get(f"{oxide}_std", zero).values for oxide in oxides], axis=1)


def _abundances(states: Sequence[State], spectra: np.ndarray) -> np.ndarray:
    """Abundances by one or several networks, (sample, oxide); NaN where a band is."""
    good = np.isfinite(spectra).all(axis=1)
    parts = [predict_state(state, spectra[good]) for state in states]
    result = np.full((len(spectra), sum(part.shape[1] for part in parts)), np.nan, np.float32)
    result[good] = np.concatenate(parts, axis=1)
    return result


def oxide_dataset(values: np.ndarray, names: Sequence[str], coords: Any) -> xr.Dataset:
    """Oxides (sample, oxide) by name."""
    return xr.Dataset(
        {
            name: ("sample", values[:, i], {"long_name": f"{name} abundance", "units": WEIGHT})
            for i, name in enumerate(names)
        },
        coords=coords,
    )


def _novelty(spectra: np.ndarray) -> Any:
    """Statistics of the training spectra, with no more components than they can bear."""
    from lunarray.oxides.novelty import fit_novelty

    spectra = spectra[np.isfinite(spectra).all(axis=1)]
    if len(spectra) < 8 or not (spectra.mean(axis=1) > 0).all():
        return None
    components = max(1, min(12, spectra.shape[1] - 1, len(spectra) // 4))
    return fit_novelty(spectra, components=components)


def _number(value: Any) -> float | None:
    """A float for JSON, which has no NaN."""
    value = float(value)
    return value if np.isfinite(value) else None
