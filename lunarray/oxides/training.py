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
from lunarray.errors import InputError, require_number
from lunarray.oxides.constants import choose_oxides
from lunarray.oxides.fit import OxideFit, oxide_dataset, oxide_matrix
from lunarray.oxides.fold_batches import Progress
from lunarray.oxides.folds import POLISH_RATE, FoldData, Folds, polish, train_folds
from lunarray.oxides.networks import State, recompute_statistics
from lunarray.oxides.samples import select_samples
from lunarray.oxides.settings import TrainSettings
from lunarray.store.provenance import stamp
from lunarray.typing import typed

#: Folds whose networks make the ensemble.
MEMBERS = 8
#: Epochs of polishing as a share of those of the training.
_POLISH_EPOCHS = 0.5


def train(
    samples: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    folds: int | Literal["leave-one-out"] | None = None,
    by: str | None = None,
    oxides: Sequence[str] | None = None,
    pixels: xr.Dataset | None = None,
    polish_epochs: int | None = None,
    members: int = MEMBERS,
    workers: int | None = None,
    device: Device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> OxideFit:
    """Train an oxide model on samples, leaving out each of some folds in turn if asked to.

    With folds, a network is trained for each from the same initial weights and tried on the samples that it has not
    seen: this gives scores, an ensemble and calibrated intervals. The final model begins with the mean of all these
    networks' weights, gets batch-normalisation statistics of its own, and is polished.

    Parameters
    ----------
    samples : Dataset
        ``reflectance`` (sample, wavelength) and oxides (sample) in wt%, as of :func:`build_samples`; those that cannot
        be used are dropped (:func:`select_samples`).
    settings : TrainSettings, optional
        How each network is trained; ``TrainSettings()``, those of [1]_, if None.
    folds : int or "leave-one-out", optional
        Number of folds; "leave-one-out" is the paper's, one for each sample. None by default: then no calibration.
    by : str, optional
        A coordinate, such as "lon", along which samples are cut into folds of equal counts: neighbours are left out
        together, and the predictions tell about places away from the training. By default samples are dealt at random.
    oxides : sequence of str, optional
        By default those of the six that the samples have.
    pixels : Dataset, optional
        Samples of the same lattice made with ``spectra_window=1``: single pixels, noisier than means of several, as the
        model will be used on. Intervals are calibrated, and the statistics of novelty taken, on them; by default on the
        samples themselves, which is too narrow for maps where noise counts.
    polish_epochs : int, optional
        Epochs at a tenth of the rate that follow: of each fold, before it predicts what it left out, and of the average
        on all samples. Half of the epochs by default; 0 is the paper's procedure, whose average is worse.
    members : int
        Folds whose networks make the ensemble behind ``invert_oxides(uncertainty=True)``; 0 or 1 for none.
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
        With too few usable samples, without spectra or oxides, with folds or a coordinate that cannot be.
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
    samples = select_samples(samples)
    left_out = _deal(samples, folds, by, settings.seed)
    names = choose_oxides(oxides, "train", samples=samples)
    more = 0 if folds is None else _polishing(polish_epochs, settings)
    require_number("members", members, 0)
    single = None if pixels is None else _match(pixels, samples)
    networks = _networks(samples, names, single, settings.joint, checkpoint)
    what = f"{folds} folds" if isinstance(folds, int) else folds or "training"
    total = len(networks) * len(left_out) * (settings.epochs + more)
    with _bar(what, total, show=progress) as advance:
        results = [
            train_folds(
                own, left_out, settings, polish_epochs=more, members=0 if folds is None else members,
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
    left_out = left_out if folds is not None else ()
    return _fit(samples, names, settings, results, states, left_out, single, what)


def _polishing(epochs: int | None, settings: TrainSettings) -> int:
    if epochs is None:
        return int(_POLISH_EPOCHS * settings.epochs)
    require_number("polish_epochs", epochs, 0)
    return epochs


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


def _networks(
    samples: xr.Dataset,
    names: Sequence[str],
    single: xr.Dataset | None,
    joint: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> list[tuple[FoldData, Path | None]]:
    """What each network is trained on, and its folder: one for all oxides, or one for each."""
    data = FoldData(
        samples["reflectance"].transpose("sample", "wavelength").values.astype(np.float32),
        oxide_matrix(samples, names),
        None if single is None else single["reflectance"].values,
    )
    folder = None if checkpoint is None else Path(checkpoint)
    if joint:
        return [(data, folder)]
    return [
        (data._replace(targets=data.targets[:, [i]]), None if folder is None else folder / name)
        for i, name in enumerate(names)
    ]


def _deal(
    samples: xr.Dataset, folds: int | str | None, by: str | None, seed: int
) -> tuple[np.ndarray, ...]:
    """Samples that each fold leaves out; one fold that leaves out none where there are to be no folds."""
    count = samples.sizes["sample"]
    counted = f"{count} usable sample{'' if count == 1 else 's'}"
    each = folds == "leave-one-out"
    if (folds is None and count < 2) or (each and count < 3):
        note = "Leave-one-out needs three: batch" if each else "Batch"
        raise InputError(
            counted, where="samples", remedy=f"{note} normalisation needs at least two"
        )
    if folds is None:
        return (np.empty(0, np.int64),)
    if each:
        return tuple(np.array([i]) for i in range(count))
    if isinstance(folds, str) or not 2 <= folds <= count:
        raise InputError(
            f"{folds} folds of {counted}",
            where="folds",
            remedy="Give at least 2 and at most the number of samples, or 'leave-one-out'",
        )
    if by is None:
        order = np.random.default_rng(seed).permutation(count)
    elif by in samples.coords and samples[by].dims == ("sample",):
        order = np.argsort(samples[by].values, kind="stable")
    else:
        raise InputError(
            f"no coordinate {by!r} of the samples",
            where="by",
            remedy=f"Choose from {', '.join(map(str, samples.coords))}",
        )
    return tuple(np.sort(part) for part in np.array_split(order, folds))


def _fit(
    samples: xr.Dataset,
    names: tuple[str, ...],
    settings: TrainSettings,
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
            "network": ["joint"] if settings.joint else list(names),
            "epoch": np.arange(1, losses.shape[2] + 1),
        },
        ("network", "fold", "epoch"),
        "loss",
        {"long_name": "mean square error of standardised oxides, before the step", "units": "1"},
    )
    return OxideFit(
        samples, names, settings, tuple(states), ensemble, left_out, loss, predicted, single
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
    """Try networks of several widths at several learning rates.

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
    """
    if not len(n) or not len(learning_rate):
        raise InputError(
            "nothing to try", where="search", remedy="Give widths n and learning rates"
        )
    settings = settings or TrainSettings()
    samples = select_samples(samples)
    # Only left-out predictions are looked at.
    options = {"members": 0, "polish_epochs": 0, **options}
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


def _match(pixels: xr.Dataset, samples: xr.Dataset) -> xr.Dataset:
    """The single-pixel spectra of the samples, in their order; NaN for those that have none."""
    for ds, name in ((pixels, "pixels"), (samples, "samples")):
        if "lon" not in ds.coords or "lat" not in ds.coords:
            raise InputError("no coordinates lon and lat", where=name, remedy="Use build_samples")
    spectra = pixels["reflectance"].transpose("sample", "wavelength").load()
    wanted = samples["reflectance"]["wavelength"].values
    if spectra.sizes["wavelength"] != wanted.size or not np.allclose(
        spectra["wavelength"], wanted, atol=0.1
    ):
        raise InputError(
            "other wavelengths than the samples", where="pixels", remedy="Give the same"
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
