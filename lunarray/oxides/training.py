"""Training of oxide models on samples: the entry, of which :mod:`lunarray.oxides.folds` does the work.

Averaging weights is sound where the networks lie in one basin of the loss [1]_. Full-batch Adam at a rate of 1e-3 is
chaotic: on 200 simulated soils two folds that differ by a single sample end 0.6 times as far from each other as from
where they began, and their plain average has half again the error of a single fold on soils that none has seen. Some
epochs on all samples at a low rate (polishing) lead it to the bottom of a basin, and its error down to that of a single
fold. The folds are polished too, so that their left-out predictions tell about a model like the final one.

References
----------
.. [1] Wortsman et al. (2022), Model soups, PMLR 162, 23965.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine.models import Device
from lunarray.engine.progress import step_bar
from lunarray.errors import InputError, require_choice
from lunarray.oxides.constants import OXIDES, choose_oxides
from lunarray.oxides.dealing import deal
from lunarray.oxides.fit import OxideFit, oxide_dataset, oxide_errors, oxide_matrix
from lunarray.oxides.fold_batches import Progress
from lunarray.oxides.folds import POLISH_RATE, FoldData, Folds, polish, train_folds
from lunarray.oxides.networks import State, recompute_statistics
from lunarray.oxides.regressor_folds import fit_folds
from lunarray.oxides.regressors import METHODS, Method, weights_of
from lunarray.oxides.samples import select_samples
from lunarray.oxides.settings import TrainSettings
from lunarray.store.provenance import stamp
from lunarray.typing import typed

#: Epochs of polishing as a share of those of the training.
_POLISH_EPOCHS = 0.5


def train(
    samples: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    folds: int | Literal["leave-one-out"] | None = None,
    by: str | None = None,
    method: Method = "cnn",
    prior: xr.Dataset | None = None,
    oxides: Sequence[str] | None = None,
    pixels: xr.Dataset | None = None,
    workers: int | None = None,
    device: Device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> OxideFit:
    """Train an oxide model on samples; with folds, leave each of them out in turn.

    With folds, a network is trained for each from the same initial weights and tried on the samples that it has not
    seen: this gives scores, an ensemble and calibrated intervals. The final model begins with the mean of all these
    networks' weights, gets batch-normalisation statistics of its own, and is polished.

    Parameters
    ----------
    samples : Dataset
        ``reflectance`` (sample, wavelength) and oxides (sample) in wt%, as of :func:`build_samples` or
        :func:`open_pairs`; those that cannot be used are dropped (:func:`select_samples`). Where errors of the oxides
        are told, ``FeO_std`` and so on, samples count the less the larger these are.
    settings : TrainSettings, optional
        How each network is trained; ``TrainSettings()`` if None, ``TrainSettings.paper()`` for the procedure of [1]_.
    folds : int or "leave-one-out", optional
        Number of folds; "leave-one-out" is the paper's, one for each sample. By default what the settings say, and
        none where they say nothing: then no calibration.
    by : str, optional
        A coordinate whose values are left out whole; by default samples are dealt at random. Of numbers, such as "lon",
        neighbours are left out together, and the predictions tell about places away from the training. Of names, such
        as a specimen or a mission, each is in one fold; with "leave-one-out" each is a fold.
    method : {"cnn", "gp", "pls"}
        The network, a Gaussian process on principal components of the spectra, or partial least squares: the last two
        take a second, and are the better choice for some tens of samples.
    prior : Dataset, optional
        Simulated soils on the same wavelengths (:func:`lunarray.simulate.soils`), for where samples are few. To a
        Gaussian process they are what is expected before samples are seen; to the others more samples, which together
        count as much as all real ones. They are never left out and in no score.
    oxides : sequence of str, optional
        By default those of the six that the samples have.
    pixels : Dataset, optional
        Samples of the same lattice made with ``spectra_window=1``: single pixels, noisier than means of several, as the
        model will be used on. Intervals are calibrated, and the statistics of novelty taken, on them; by default on the
        samples themselves, which is too narrow for maps where noise counts.
    workers : int, optional
        Folds trained side by side on the CPU; one to a core by default. With a Dask client in force, batches of folds
        go to its workers.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU where there is one.
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
        With too few usable samples, without spectra or oxides, with folds, a coordinate or a prior that cannot be.
    StoreConflictError
        If the checkpoint is of another training.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 2.4.

    Examples
    --------
    >>> fit = train(samples, TrainSettings(n=16, seed=1), folds="leave-one-out")  # doctest: +SKIP
    """
    settings = settings or TrainSettings()
    require_choice("method", method, METHODS)
    samples = _usable(samples, oxides)
    folds = settings.folds if folds is None else folds
    left_out = deal(samples, folds, by, settings.seed)
    names = choose_oxides(oxides, "train", samples=samples)
    single, simulated = _match(pixels, samples), _prior(prior, samples, names)
    what = f"{folds} folds" if isinstance(folds, int) else folds or "training"
    if method == "cnn":
        networks = _networks(samples, names, single, simulated, settings.joint, checkpoint)
        results, states = _train_networks(
            networks, left_out, settings, folds is not None, what,
            device=device, workers=workers, progress=progress,
        )  # fmt: skip
        results = [_real(result, samples.sizes["sample"]) for result in results]
    else:
        data = _data(samples, names, single, None)._replace(weights=None)
        errors = oxide_errors(samples, names)
        results = [fit_folds(method, data, left_out, simulated, errors, settings.seed)]
        states = [results[0].average]
    kept = left_out if folds is not None else ()
    return _fit(samples, names, settings, method, results, states, kept, single, what)


def _train_networks(
    networks: Sequence[tuple[FoldData, Path | None]],
    left_out: tuple[np.ndarray, ...],
    settings: TrainSettings,
    tried: bool,
    what: str,
    *,
    device: Device,
    workers: int | None,
    progress: bool | None,
) -> tuple[list[Folds], list[State]]:
    """Train the folds of each network, and make the final ones of them; `tried` where folds leave something out."""
    more = _polishing(settings) if tried else 0
    total = len(networks) * len(left_out) * (settings.epochs + more)
    with _bar(what, total, show=progress) as advance:
        results = [
            train_folds(
                own, left_out, settings, polish_epochs=more,
                members=settings.members if tried else 0,
                device=device, workers=workers, checkpoint=folder, progress=advance,
            )
            for own, folder in networks
        ]  # fmt: skip
    states = [result.average for result in results]
    if len(left_out) > 1:
        states = [
            _settled(state, own, settings, more, device)
            for state, (own, _) in zip(states, networks, strict=True)
        ]
    return results, states


def _usable(samples: xr.Dataset, oxides: Sequence[str] | None) -> xr.Dataset:
    """Samples that have what is asked for: what is missing of other oxides is no reason to drop one."""
    if oxides is not None and isinstance(samples, xr.Dataset):
        samples = samples.drop_vars([o for o in OXIDES if o in samples and o not in oxides])
    return select_samples(samples)


def _polishing(settings: TrainSettings) -> int:
    epochs = settings.polish_epochs
    return int(_POLISH_EPOCHS * settings.epochs) if epochs is None else epochs


def _prior(
    prior: xr.Dataset | None, samples: xr.Dataset, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Spectra and oxides of simulated soils, if there are some, and they are on the bands of the samples."""
    if prior is None:
        return None
    found = select_samples(prior)
    spectra = found["reflectance"].transpose("sample", "wavelength")
    _require_bands(spectra, samples, "prior")
    choose_oxides(names, "train", prior=found)
    return spectra.values.astype(np.float32), oxide_matrix(found, names)


def _require_bands(spectra: xr.DataArray, samples: xr.Dataset, where: str) -> None:
    wanted = samples["reflectance"]["wavelength"].values
    if spectra.sizes["wavelength"] != wanted.size or not np.allclose(
        spectra["wavelength"], wanted, atol=0.1
    ):
        raise InputError("other wavelengths than the samples", where=where, remedy="Give the same")


def _real(result: Folds, count: int) -> Folds:
    """The same without the predictions of what is no sample."""
    return replace(
        result, left_out=result.left_out[:count], left_out_others=result.left_out_others[:count]
    )


def _settled(
    state: State, data: FoldData, settings: TrainSettings, epochs: int, device: Device
) -> State:
    """An average of folds with statistics of its own, polished."""
    state = recompute_statistics(state, data.spectra)
    if epochs == 0:
        return state
    rate = POLISH_RATE * settings.learning_rate
    gentle = replace(settings, epochs=epochs, learning_rate=rate)
    return polish(state, data, gentle, device=device)


def _data(
    samples: xr.Dataset,
    names: Sequence[str],
    single: xr.Dataset | None,
    prior: tuple[np.ndarray, np.ndarray] | None,
) -> FoldData:
    """What all networks are trained on: the samples, and behind them the simulated soils."""
    spectra = samples["reflectance"].transpose("sample", "wavelength").values.astype(np.float32)
    targets = oxide_matrix(samples, names)
    others = None if single is None else single["reflectance"].values
    errors = oxide_errors(samples, names)
    if prior is None and errors is None:
        return FoldData(spectra, targets, others)
    errors = np.zeros_like(targets) if errors is None else errors
    if prior is None:
        return FoldData(spectra, targets, others, _weights(targets, errors, np.ones(len(errors), bool)))  # fmt: skip
    if others is not None:
        others = np.concatenate([others, np.full_like(prior[0], np.nan)])
    real = np.arange(len(targets) + len(prior[1])) < len(targets)
    errors = np.concatenate([errors, np.zeros_like(prior[1])])
    targets = np.concatenate([targets, prior[1]])
    spectra = np.concatenate([spectra, prior[0]])
    return FoldData(spectra, targets, others, _weights(targets, errors, real))


def _weights(targets: np.ndarray, errors: np.ndarray, real: np.ndarray) -> np.ndarray | None:
    """Weights of a mean of 1, so that the loss is what it is without; none where all are the same."""
    weights = weights_of(targets, errors, real)
    weights = (weights / weights.mean(axis=0)).astype(np.float32)
    return None if np.allclose(weights, 1) else weights


def _networks(
    samples: xr.Dataset,
    names: Sequence[str],
    single: xr.Dataset | None,
    prior: tuple[np.ndarray, np.ndarray] | None,
    joint: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> list[tuple[FoldData, Path | None]]:
    """What each network is trained on, and its folder: one for all oxides, or one for each."""
    data = _data(samples, names, single, prior)
    folder = None if checkpoint is None else Path(checkpoint)
    if joint:
        return [(data, folder)]
    weights = data.weights
    return [
        (
            data._replace(
                targets=data.targets[:, [i]], weights=None if weights is None else weights[:, [i]]
            ),
            None if folder is None else folder / name,
        )
        for i, name in enumerate(names)
    ]


def _fit(
    samples: xr.Dataset,
    names: tuple[str, ...],
    settings: TrainSettings,
    method: Method,
    results: Sequence[Folds],
    states: Sequence[State],
    left_out: tuple[np.ndarray, ...],
    single: xr.Dataset | None,
    what: str,
) -> OxideFit:
    """Put what the networks' trainings gave together."""
    ensemble: tuple[tuple[State, ...], ...] = ()
    predicted = None
    if left_out:
        if len(results[0].members) > 1:
            ensemble = tuple(zip(*(result.members for result in results), strict=True))
        coords = {name: c for name, c in samples.coords.items() if c.dims == ("sample",)}
        fold = np.full(samples.sizes["sample"], -1)
        for index, part in enumerate(left_out):
            fold[part] = index
        values = np.concatenate([result.left_out for result in results], axis=1)
        predicted = oxide_dataset(values, names, coords).assign_coords(fold=("sample", fold))
        predicted = stamp(predicted, f"predicted while left out, {what}")
        if single is not None:
            values = np.concatenate([result.left_out_others for result in results], axis=1)
            single = single.assign(oxide_dataset(values, names, coords).data_vars)
    losses = np.stack([result.loss for result in results])
    loss = xr.DataArray(
        losses,
        {
            "network": ["joint"] if len(losses) == 1 else list(names),
            "epoch": np.arange(1, losses.shape[2] + 1),
        },
        ("network", "fold", "epoch"),
        "loss",
        {"long_name": "mean square error of standardised oxides, before the step", "units": "1"},
    )
    return OxideFit(
        samples, names, settings, tuple(states), ensemble, left_out, loss, predicted, single, method
    )


@typed
def search(
    samples: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    n: Sequence[int] = (16, 32, 64),
    learning_rate: Sequence[float] = (1e-2, 1e-3, 1e-4),
    folds: int | Literal["leave-one-out"] = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Search for the best width and learning rate of the network.

    Parameters
    ----------
    samples : Dataset
        As of :func:`train`.
    settings : TrainSettings, optional
        What is the same for all.
    n : sequence of int
        Channels of the first block.
    learning_rate : sequence of float
        Learning rates.
    folds : int or "leave-one-out"
        Folds by which each is judged; in [1]_ it is leave-one-out, where the number of networks trained is that of
        samples.
    checkpoint : path, optional
        Folder; each setting has its own in it.
    **options
        Others of :func:`train`.

    Returns
    -------
    Dataset
        The scores of :func:`lunarray.oxides.metrics` of left-out predictions, on (n, learning_rate, oxide). Table 1 of
        [1]_ is ``.sel(learning_rate=1e-3)``, table 2 ``.sel(n=32)``.

    Raises
    ------
    InputError
        Without widths or rates, and as :func:`train`.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 3.1, tables 1 and 2.

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> scores = la.oxides.search(samples, n=(8,), learning_rate=(0.01,), folds=2, epochs=2)  # doctest: +SKIP
    """
    if not len(n) or not len(learning_rate):
        raise InputError(
            "nothing to try", where="search", remedy="Give widths n and learning rates"
        )
    settings = settings or TrainSettings()
    samples = select_samples(samples)
    # Only left-out predictions are looked at.
    settings = replace(settings, members=0, polish_epochs=0)
    rows = []
    for width in map(int, n):
        row = []
        for rate in map(float, learning_rate):
            own = None if checkpoint is None else Path(checkpoint) / f"n{width}-rate{rate:g}"
            tried = replace(settings, n=width, learning_rate=rate)
            row.append(train(samples, tried, folds=folds, checkpoint=own, **options).metrics())
        rows.append(xr.concat(row, _axis("learning_rate", learning_rate, "learning rate")))
    result = xr.concat(rows, _axis("n", n, "channels of the first block"))
    result.attrs["folds"] = folds
    return result


def _axis(name: str, values: Sequence[float], long_name: str) -> xr.DataArray:
    attrs = {"long_name": long_name, "units": "1"}
    return xr.DataArray(list(values), dims=name, name=name, attrs=attrs)


def _match(pixels: xr.Dataset | None, samples: xr.Dataset) -> xr.Dataset | None:
    """The single-pixel spectra of the samples, if there are some, in their order; NaN for those that have none."""
    if pixels is None:
        return None
    for ds, name in ((pixels, "pixels"), (samples, "samples")):
        if "lon" not in ds.coords or "lat" not in ds.coords:
            raise InputError("no coordinates lon and lat", where=name, remedy="Use build_samples")
    spectra = pixels["reflectance"].transpose("sample", "wavelength").load()
    _require_bands(spectra, samples, "pixels")
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
            remedy="Use the lattice of the samples",
        )
    values = np.where((index >= 0)[:, None], spectra.values[index], np.float32(np.nan))
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return xr.Dataset(
        {"reflectance": (("sample", "wavelength"), values)},
        coords={"wavelength": spectra["wavelength"], **{k: samples[k] for k in ("lon", "lat")}},
    )


@contextmanager
def _bar(description: str, total: int, *, show: bool | None = None) -> Iterator[Progress | None]:
    """A bar that counts fold-epochs and shows the loss."""
    text = "fold-epochs, loss {task.fields[state]}, left"
    with step_bar(description, total, text=text, show=show) as advance:
        yield None if advance is None else lambda done, loss: advance(done, f"{loss:.4f}")
