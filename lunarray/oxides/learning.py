"""Training and validation of oxide models on samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.progress import step_bar
from lunarray.errors import InputError
from lunarray.oxides.accuracy import metrics
from lunarray.oxides.folds import (
    POLISH_RATE,
    Backend,
    Folds,
    Progress,
    State,
    network_of,
    polish,
    predict_state,
    recompute_statistics,
    train_folds,
)
from lunarray.oxides.samples import oxides_of, select_samples
from lunarray.oxides.training import TrainingSettings
from lunarray.store.provenance import stamp

if TYPE_CHECKING:
    from lunarray.oxides.model import OxideCNN

#: Folds whose networks make the ensemble.
MEMBERS = 8
#: Epochs of polishing as a share of those of the training.
_POLISH_EPOCHS = 0.5


@dataclass(frozen=True)
class OxideFit:
    """A trained oxide model, and how it did on samples that it had not seen.

    Attributes
    ----------
    samples : Dataset
        The samples that it was trained on, in memory.
    oxides : tuple of str
        What it gives.
    settings : TrainingSettings
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
    """

    samples: xr.Dataset
    oxides: tuple[str, ...]
    settings: TrainingSettings
    states: tuple[State, ...]
    members: tuple[tuple[State, ...], ...]
    folds: tuple[np.ndarray, ...]
    loss: xr.DataArray
    left_out: xr.Dataset | None
    pixels: xr.Dataset | None = None

    @property
    def reference(self) -> xr.Dataset:
        """The samples' oxides."""
        return self.samples[list(self.oxides)]

    @property
    def models(self) -> tuple[OxideCNN, ...]:
        """The final networks, in PyTorch."""
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
        """Abundances of samples by the final model.

        Parameters
        ----------
        samples : Dataset
            With ``reflectance`` (sample, wavelength) on the bands of the training.

        Returns
        -------
        Dataset
            The oxides (sample) in wt%; NaN where a band is.
        """
        spectra = samples["reflectance"].transpose("sample", "wavelength")
        values = _predict(self.states, spectra.values)
        coords = {name: c for name, c in spectra.coords.items() if "wavelength" not in c.dims}
        return _oxides(values, self.oxides, coords)

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
        left_out, measured = (_matrix(ds, self.oxides) for ds in (source, self.reference))
        good = np.isfinite(left_out).all(axis=1)
        if good.sum() < 2:
            return None
        spread = None
        if len(self.members) > 1:
            values = spectra["reflectance"].transpose("sample", "wavelength").values
            each = [_predict(member, values) for member in self.members]
            spread = np.std(each, axis=0, ddof=1, dtype=np.float64)
        theirs = None
        if any(f"{oxide}_std" in self.samples for oxide in self.oxides):
            zero = xr.zeros_like(self.samples[self.oxides[0]])
            theirs = np.stack(
                [self.samples.get(f"{oxide}_std", zero).values for oxide in self.oxides], axis=1
            )
        return calibrate(left_out, measured, spread, measured_std=theirs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a weights file for ``invert_oxides(model=...)``.

        It holds the networks, the novelty statistics of the training spectra (of their single pixels, where these were
        given) and, after training with folds, the
        ensemble and the calibration that ``invert_oxides(uncertainty=True)`` needs.

        Parameters
        ----------
        path : path
            File to write.

        Returns
        -------
        Path
        """
        from lunarray.oxides.weights import save_oxide_cnn

        spectra = self.samples["reflectance"].transpose("sample", "wavelength")
        scores = self.metrics()
        training = {
            **asdict(self.settings),
            "samples": len(spectra),
            "folds": len(self.folds) if self.left_out is not None else 0,
            "joint": len(self.states) == 1,
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
        save_oxide_cnn(
            path,
            self.models,
            wavelengths=spectra["wavelength"].values,
            oxides=self.oxides,
            novelty=_novelty(
                (self.samples if self.pixels is None else self.pixels)["reflectance"].values
            ),
            training=training,
            members=[tuple(map(network_of, member)) for member in self.members],
            calibration=self.calibration,
        )
        return Path(path)


def train(
    samples: xr.Dataset,
    *,
    n: int = 32,
    lr: float = 1e-3,
    epochs: int = 100,
    weight_decay: float = 1e-4,
    joint: bool = True,
    seed: int = 0,
    oxides: Sequence[str] | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> OxideFit:
    """Train an oxide model on all samples.

    Parameters
    ----------
    samples : Dataset
        ``reflectance`` (sample, wavelength) and oxides (sample) in wt%, as of :func:`build_samples`; those that cannot
        be used are dropped (:func:`select_samples`).
    n : int
        Channels of the first convolution block.
    lr : float
        Adam's learning rate.
    epochs : int
        Full-batch steps.
    weight_decay : float
        Adam's L2 penalty.
    joint : bool
        One network for all oxides; otherwise one for each.
    seed : int
        Of the weights to begin with.
    oxides : sequence of str, optional
        By default those of the six that the samples have.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU where there is one.
    backend : {"auto", "fused", "stacked"}
        See :func:`lunarray.oxides.folds.train_folds`.
    checkpoint : path, optional
        Folder from which a stopped run goes on.
    progress : bool, optional
        Show a bar with the loss; by default where standard error is a terminal.

    Returns
    -------
    OxideFit
        Without left-out predictions, and so without calibration.

    Raises
    ------
    InputError
        With fewer than two usable samples, or without spectra or oxides.
    StoreConflictError
        If the checkpoint is of another training.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 2.4, whose settings are the defaults.
    """
    samples = select_samples(samples)
    settings = _settings(n, lr, epochs, weight_decay, seed)
    everything = (np.empty(0, np.int64),)
    return _fit(
        samples, everything, settings, joint=joint, oxides=oxides, polish_epochs=0, pixels=None, members=0,
        device=device, backend=backend,
        checkpoint=checkpoint, progress=progress, fold_batch=None, threads=None, what="training",
    )  # fmt: skip


def train_loocv(
    samples: xr.Dataset,
    *,
    n: int = 32,
    lr: float = 1e-3,
    epochs: int = 100,
    weight_decay: float = 1e-4,
    joint: bool = True,
    seed: int = 0,
    oxides: Sequence[str] | None = None,
    polish_epochs: int | None = None,
    pixels: xr.Dataset | None = None,
    members: int = MEMBERS,
    fold_batch: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> OxideFit:
    """Train an oxide model for each sample left out, and average their weights into one.

    The paper's procedure: N samples, N networks, each trained on N - 1 samples from the same initial weights and tried
    on the one left out. The final model begins with the mean of all N networks' weights, and batch-normalisation
    statistics taken anew with these (:func:`lunarray.oxides.folds.recompute_statistics`), and is polished.

    Parameters
    ----------
    samples : Dataset
        As of :func:`train`.
    n : int
        Channels of the first convolution block.
    lr : float
        Adam's learning rate.
    epochs : int
        Full-batch steps of each fold, before polishing.
    weight_decay : float
        Adam's L2 penalty.
    joint : bool
        One network for all oxides; otherwise one for each.
    seed : int
        Of the weights to begin with.
    oxides : sequence of str, optional
        By default those of the six that the samples have.
    polish_epochs : int, optional
        Epochs at a tenth of the rate that follow: of each fold on its own training samples, before it predicts what it
        left out, and of the average on all samples. Half of `epochs` by default; 0 is the paper's procedure. See the
        notes.
    pixels : Dataset, optional
        Samples of the same lattice made with ``spectra_window=1``: single pixels, as the model will be used on. They
        are noisier than means of several; intervals are calibrated, and the statistics of novelty taken, on them. By
        default on the samples themselves, which is too narrow for maps where noise counts.
    members : int
        Folds, evenly spaced, whose networks make the ensemble behind ``invert_oxides(uncertainty=True)``; 0 or 1 for
        none.
    fold_batch : int, optional
        Folds in memory at once; see :func:`lunarray.oxides.folds.train_folds`. With a Dask client in force, batches go
        to its workers.
    threads : int, optional
        Folds trained side by side on the CPU; one to a core by default.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU where there is one.
    backend : {"auto", "fused", "stacked"}
        See :func:`lunarray.oxides.folds.train_folds`.
    checkpoint : path, optional
        Folder from which a stopped run goes on, to the same result.
    progress : bool, optional
        Show a bar with the loss; by default where standard error is a terminal.

    Returns
    -------
    OxideFit

    Raises
    ------
    InputError
        With fewer than three usable samples, or without spectra or oxides.
    StoreConflictError
        If the checkpoint is of another training.

    Notes
    -----
    Averaging weights is sound where the networks lie in one basin of the loss [2]_. Full-batch Adam at a rate of 1e-3
    is chaotic: on 200 simulated soils two folds that differ by a single sample end 0.6 times as far from each other as
    from where they began, and their plain average has half again the error of a single fold on soils that none has
    seen. Some epochs on all samples at a low rate lead it to the bottom of a basin, and its error down to that of a
    single fold. The folds are polished too, so that their left-out predictions tell about a model like the final one.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 2.4.
    .. [2] Wortsman et al. (2022), Model soups, PMLR 162, 23965.
    """
    samples = select_samples(samples)
    count = samples.sizes["sample"]
    if count < 3:
        raise InputError(
            f"{count} usable sample{'s' if count > 1 else ''}",
            where="samples",
            remedy="leave-one-out needs three, for batch normalisation needs two to train on",
        )
    left_out = tuple(np.array([i]) for i in range(count))
    return _fit(
        samples, left_out, _settings(n, lr, epochs, weight_decay, seed), joint=joint, oxides=oxides,
        polish_epochs=polish_epochs, pixels=pixels, members=members, device=device,
        backend=backend, checkpoint=checkpoint, progress=progress,
        fold_batch=fold_batch, threads=threads, what="leave-one-out",
    )  # fmt: skip


def train_kfold(
    samples: xr.Dataset,
    *,
    folds: int = 10,
    by: str | None = None,
    n: int = 32,
    lr: float = 1e-3,
    epochs: int = 100,
    weight_decay: float = 1e-4,
    joint: bool = True,
    seed: int = 0,
    oxides: Sequence[str] | None = None,
    polish_epochs: int | None = None,
    pixels: xr.Dataset | None = None,
    members: int = MEMBERS,
    fold_batch: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    backend: Backend = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> OxideFit:
    """Train an oxide model for each of some folds left out, and average their weights into one.

    Parameters
    ----------
    samples : Dataset
        As of :func:`train`.
    folds : int
        Number of folds.
    by : str, optional
        A coordinate, such as "lon", along which samples are cut into folds of equal counts: neighbours are left out
        together, and the predictions tell about places away from the training. By default samples are dealt at random.
    n : int
        Channels of the first convolution block.
    lr : float
        Adam's learning rate.
    epochs : int
        Full-batch steps of each fold, before polishing.
    weight_decay : float
        Adam's L2 penalty.
    joint : bool
        One network for all oxides; otherwise one for each.
    seed : int
        Of the weights to begin with, and of the dealing.
    oxides : sequence of str, optional
        By default those of the six that the samples have.
    polish_epochs : int, optional
        Epochs at a tenth of the rate that follow, as of :func:`train_loocv`.
    pixels : Dataset, optional
        Single-pixel samples to calibrate on, as of :func:`train_loocv`.
    members : int
        Folds, evenly spaced, whose networks make the ensemble; 0 or 1 for none.
    fold_batch : int, optional
        Folds in memory at once; see :func:`lunarray.oxides.folds.train_folds`. With a Dask client in force, batches go
        to its workers.
    threads : int, optional
        Folds trained side by side on the CPU; one to a core by default.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU where there is one.
    backend : {"auto", "fused", "stacked"}
        See :func:`lunarray.oxides.folds.train_folds`.
    checkpoint : path, optional
        Folder from which a stopped run goes on, to the same result.
    progress : bool, optional
        Show a bar with the loss; by default where standard error is a terminal.

    Returns
    -------
    OxideFit

    Raises
    ------
    InputError
        With fewer than two folds or more than samples, an unknown coordinate, or too few samples.
    StoreConflictError
        If the checkpoint is of another training.
    """
    samples = select_samples(samples)
    count = samples.sizes["sample"]
    if not 2 <= folds <= count:
        raise InputError(
            f"{folds} folds of {count} usable samples",
            where="folds",
            remedy="give at least 2 and at most the number of samples",
        )
    if by is None:
        order = np.random.default_rng(seed).permutation(count)
    elif by in samples.coords and samples[by].dims == ("sample",):
        order = np.argsort(samples[by].values, kind="stable")
    else:
        raise InputError(
            f"no coordinate {by!r} of the samples",
            where="by",
            remedy=f"choose from {', '.join(map(str, samples.coords))}",
        )
    left_out = tuple(np.sort(part) for part in np.array_split(order, folds))
    return _fit(
        samples, left_out, _settings(n, lr, epochs, weight_decay, seed), joint=joint, oxides=oxides,
        polish_epochs=polish_epochs, pixels=pixels, members=members, device=device,
        backend=backend, checkpoint=checkpoint, progress=progress,
        fold_batch=fold_batch, threads=threads, what=f"{folds} folds",
    )  # fmt: skip


def search(
    samples: xr.Dataset,
    *,
    n: Sequence[int] = (16, 32, 64),
    lr: Sequence[float] = (1e-2, 1e-3, 1e-4),
    folds: int | None = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Try networks of several widths at several learning rates.

    Parameters
    ----------
    samples : Dataset
        As of :func:`train`.
    n : sequence of int
        Channels of the first block.
    lr : sequence of float
        Learning rates.
    folds : int, optional
        Folds by which each is judged; None for leave-one-out, as in [1]_, where the number of networks trained is that
        of samples.
    checkpoint : path, optional
        Folder; each setting has its own in it.
    **options
        Others of :func:`train_kfold` or :func:`train_loocv`.

    Returns
    -------
    Dataset
        The scores of :func:`lunarray.oxides.metrics` of left-out predictions, on (n, lr, oxide). Table 1 of [1]_ is
        ``.sel(lr=1e-3)``, table 2 ``.sel(n=32)``.

    Raises
    ------
    InputError
        Without widths or rates, and as :func:`train_kfold`.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 3.1, tables 1 and 2.
    """
    if not len(n) or not len(lr):
        raise InputError("nothing to try", where="search", remedy="give widths n and rates lr")
    samples = select_samples(samples)
    # Only left-out predictions are looked at.
    options = {"members": 0, "polish_epochs": 0, **options}
    rows = []
    for width in n:
        row = []
        for rate in lr:
            own = None if checkpoint is None else Path(checkpoint) / f"n{width}-lr{rate:g}"
            given = {**options, "n": width, "lr": rate, "checkpoint": own}
            fit = (
                train_loocv(samples, **given)
                if folds is None
                else train_kfold(samples, folds=folds, **given)
            )
            row.append(fit.metrics())
        rows.append(xr.concat(row, xr.DataArray(list(map(float, lr)), dims="lr", name="lr")))
    result = xr.concat(rows, xr.DataArray(list(map(int, n)), dims="n", name="n"))
    result["lr"].attrs = {"long_name": "learning rate", "units": "1"}
    result["n"].attrs = {"long_name": "channels of the first block", "units": "1"}
    result.attrs["folds"] = "leave-one-out" if folds is None else int(folds)
    return result


# --- Details --------------------------------------------------------------------------------------


def _settings(n: int, lr: float, epochs: int, weight_decay: float, seed: int) -> TrainingSettings:
    for name, value, good in (
        ("n", n, n >= 1),
        ("lr", lr, lr > 0),
        ("epochs", epochs, epochs >= 1),
        ("weight_decay", weight_decay, weight_decay >= 0),
    ):
        if not good:
            raise InputError(f"{value}", where=name, remedy="give a positive number")
    return TrainingSettings(
        n=int(n), epochs=int(epochs), learning_rate=float(lr), weight_decay=float(weight_decay), seed=int(seed)
    )  # fmt: skip


def _fit(
    samples: xr.Dataset,
    left_out: tuple[np.ndarray, ...],
    settings: TrainingSettings,
    *,
    joint: bool,
    oxides: Sequence[str] | None,
    polish_epochs: int | None,
    pixels: xr.Dataset | None,
    members: int,
    device: str,
    backend: Backend,
    checkpoint: str | os.PathLike[str] | None,
    progress: bool | None,
    fold_batch: int | None,
    threads: int | None,
    what: str,
) -> OxideFit:
    names = oxides_of(samples, oxides, "samples")
    spectra = samples["reflectance"].transpose("sample", "wavelength").values.astype(np.float32)
    targets = _matrix(samples, names)
    if len(spectra) < 2:
        raise InputError(
            f"{len(spectra)} usable sample",
            where="samples",
            remedy="batch normalisation needs at least two",
        )
    if members < 0:
        raise InputError(f"{members}", where="members", remedy="give 0 or more")
    networks = [list(range(len(names)))] if joint else [[i] for i in range(len(names))]
    with_folds = any(index.size for index in left_out)
    more = int(_POLISH_EPOCHS * settings.epochs) if polish_epochs is None else polish_epochs
    if more < 0:
        raise InputError(f"{more}", where="polish_epochs", remedy="give 0 or more")
    single = None if pixels is None else _match(pixels, samples)
    others = None if single is None else single["reflectance"].values
    results: list[Folds] = []
    with _bar(
        what, len(networks) * len(left_out) * (settings.epochs + more), show=progress
    ) as advance:
        for number, columns in enumerate(networks):
            folder = None if checkpoint is None else Path(checkpoint)
            if folder is not None and not joint:
                folder = folder / names[number]
            results.append(
                train_folds(
                    spectra,
                    targets[:, columns],
                    left_out,
                    settings,
                    others=others,
                    polish_epochs=more,
                    members=members,
                    backend=backend,
                    device=device,
                    fold_batch=fold_batch,
                    threads=threads,
                    checkpoint=folder,
                    progress=advance,
                )
            )

    final = []
    gentle = replace(settings, epochs=more, learning_rate=POLISH_RATE * settings.learning_rate)
    for result, columns in zip(results, networks, strict=True):
        state = result.average
        if len(left_out) > 1:
            # A single network has its own statistics; an average has none of its own.
            state = recompute_statistics(state, spectra)
            if more > 0:
                state = polish(
                    state, spectra, targets[:, columns], gentle, backend=backend, device=device
                )
        final.append(state)
    states = tuple(final)
    ensemble: tuple[tuple[State, ...], ...] = ()
    if with_folds and len(results[0].members) > 1:
        ensemble = tuple(zip(*(result.members for result in results), strict=True))
    predicted = None
    if with_folds:
        coords = {name: c for name, c in samples.coords.items() if c.dims == ("sample",)}
        predicted = _oxides(np.concatenate([r.left_out for r in results], axis=1), names, coords)
        fold = np.full(len(spectra), -1)
        for index, part in enumerate(left_out):
            fold[part] = index
        predicted = predicted.assign_coords(fold=("sample", fold))
        predicted = stamp(predicted, f"predicted while left out, {what}")
        if single is not None:
            values = np.concatenate([r.left_out_others for r in results], axis=1)
            single = single.assign(_oxides(values, names, coords).data_vars)
    loss = xr.DataArray(
        np.stack([result.loss for result in results]),
        {
            "network": ["joint"] if joint else list(names),
            "epoch": np.arange(1, settings.epochs + more + 1),
        },
        ("network", "fold", "epoch"),
        "loss",
        {"long_name": "mean square error of standardised oxides, before the step", "units": "1"},
    )
    return OxideFit(
        samples,
        names,
        settings,
        states,
        ensemble,
        left_out if with_folds else (),
        loss,
        predicted,
        single,
    )


def _match(pixels: xr.Dataset, samples: xr.Dataset) -> xr.Dataset:
    """The single-pixel spectra of the samples, in their order; NaN for those that have none."""
    for ds, name in ((pixels, "pixels"), (samples, "samples")):
        if "lon" not in ds.coords or "lat" not in ds.coords:
            raise InputError("no coordinates lon and lat", where=name, remedy="use build_samples")
    spectra = pixels["reflectance"].transpose("sample", "wavelength").load()
    wanted = samples["reflectance"]["wavelength"].values
    if spectra.sizes["wavelength"] != wanted.size or not np.allclose(
        spectra["wavelength"], wanted, atol=0.1
    ):
        raise InputError(
            "other wavelengths than the samples", where="pixels", remedy="give the same"
        )
    place = {
        key: i for i, key in enumerate(zip(pixels["lon"].values, pixels["lat"].values, strict=True))
    }
    index = np.array(
        [
            place.get(key, -1)
            for key in zip(samples["lon"].values, samples["lat"].values, strict=True)
        ]
    )
    if (index < 0).all():
        raise InputError(
            "no pixel at the place of a sample",
            where="pixels",
            remedy="use the lattice of the samples",
        )
    values = np.where((index >= 0)[:, None], spectra.values[index], np.float32(np.nan))
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return xr.Dataset(
        {"reflectance": (("sample", "wavelength"), values)},
        coords={"wavelength": spectra["wavelength"], **{k: samples[k] for k in ("lon", "lat")}},
    )


def _matrix(ds: xr.Dataset, oxides: Sequence[str]) -> np.ndarray:
    return np.stack([ds[oxide].values for oxide in oxides], axis=1).astype(np.float32)


def _predict(states: Sequence[State], spectra: np.ndarray) -> np.ndarray:
    """Abundances by one or several networks, (sample, oxide); NaN where a band is."""
    good = np.isfinite(spectra).all(axis=1)
    parts = [predict_state(state, spectra[good]) for state in states]
    result = np.full((len(spectra), sum(part.shape[1] for part in parts)), np.nan, np.float32)
    result[good] = np.concatenate(parts, axis=1)
    return result


def _oxides(values: np.ndarray, names: Sequence[str], coords: Any) -> xr.Dataset:
    return xr.Dataset(
        {
            name: ("sample", values[:, i], {"long_name": f"{name} abundance", "units": "wt%"})
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


@contextmanager
def _bar(description: str, total: int, *, show: bool | None = None) -> Iterator[Progress | None]:
    """A bar that counts fold-epochs and shows the loss."""
    text = "fold-epochs, loss {task.fields[state]}, left"
    with step_bar(description, total, text=text, show=show) as advance:
        yield None if advance is None else lambda done, loss: advance(done, f"{loss:.4f}")
