"""Methods side by side on pairs that they had not seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, InputError, require_choice
from lunarray.oxides.accuracy import metrics
from lunarray.oxides.api import feo_lucey2000
from lunarray.oxides.constants import choose_oxides
from lunarray.oxides.dealing import deal
from lunarray.oxides.fit import oxide_dataset, oxide_matrix
from lunarray.oxides.samples import select_samples
from lunarray.oxides.settings import TrainSettings
from lunarray.oxides.training import train
from lunarray.typing import typed

Compared = Literal["mean", "prospector", "lucey", "pls", "gp", "cnn"]
_COMPARED: tuple[Compared, ...] = get_args(Compared)


@typed
def compare_methods(
    samples: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    methods: Sequence[Compared] | None = None,
    folds: int | Literal["leave-one-out"] = 10,
    by: str | None = None,
    prior: xr.Dataset | None = None,
    prospector: xr.Dataset | None = None,
    workers: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Compare regression methods on pairs of spectra and oxides, each by what it was not fitted to.

    Parameters
    ----------
    samples : Dataset
        As of :func:`lunarray.oxides.train`.
    settings : TrainSettings, optional
        Of the network.
    methods : sequence of str, optional
        Which of "mean" (that of the samples that are not left out: what knowing no spectrum gives), "prospector" (what
        Lunar Prospector found around the sample), "lucey" (the band ratio of :func:`lunarray.oxides.feo_lucey2000`,
        FeO alone; spectra that say that they are SP's are brought to the laboratory's scale), "pls", "gp", "cnn". By
        default all that can be: "prospector" needs its table and ``lon`` and ``lat`` of the samples, "lucey" 750 and
        950 nm.
    folds : int or "leave-one-out"
        As of :func:`lunarray.oxides.train`.
    by : str, optional
        As of :func:`lunarray.oxides.train`: what is left out together.
    prior : Dataset, optional
        As of :func:`lunarray.oxides.train`.
    prospector : Dataset, optional
        As of :func:`lunarray.maps.open_lunar_prospector`.
    workers : int, optional
        Networks trained side by side.
    checkpoint : path, optional
        Folder from which a stopped training of networks goes on.
    progress : bool, optional
        Show a bar; by default where standard error is a terminal.

    Returns
    -------
    Dataset
        The scores of :func:`lunarray.oxides.metrics` on (model, oxide); NaN, and a count of 0, where a method gives no
        such oxide. Attribute ``left_out`` tells what was left out.

    Raises
    ------
    InputError
        As :func:`lunarray.oxides.train`, for methods that are unknown, or what a method needs and is not there.

    Examples
    --------
    >>> table = compare_methods(open_pairs("pairs.csv"), by="mission")  # doctest: +SKIP
    >>> table.RMSE.to_pandas().round(2)  # doctest: +SKIP
    """
    settings = settings or TrainSettings()
    samples = select_samples(samples)
    names = choose_oxides(None, "compare_methods", samples=samples)
    left_out = deal(samples, folds, by, settings.seed)
    places = prospector is not None and {"lon", "lat"} <= set(samples.coords)
    possible = [m for m in _COMPARED if m != "prospector" or places]
    chosen = possible if methods is None else list(methods)
    found: dict[str, xr.Dataset] = {}
    for method in chosen:
        require_choice("methods", method, _COMPARED)
        if method == "mean":
            found[method] = _mean(samples, names, left_out)
        elif method == "prospector":
            if prospector is None or not places:
                raise InputError(
                    "no table of Lunar Prospector, or samples without lon and lat",
                    where="methods",
                    remedy="Give prospector=open_lunar_prospector(...), or leave 'prospector' out",
                )
            found[method] = _prospector(samples, names, prospector)
        elif method == "lucey":
            try:
                found[method] = xr.Dataset({"FeO": feo_lucey2000(samples)})
            except BandMismatchError:
                if methods is not None:
                    raise
        else:
            own = None if checkpoint is None else os.path.join(checkpoint, method)
            fit = train(
                samples, settings, folds=folds, by=by, method=method, prior=prior,
                workers=workers, checkpoint=own if method == "cnn" else None, progress=progress,
            )  # fmt: skip
            assert fit.left_out is not None
            found[method] = fit.left_out
    table = xr.concat(
        [_scores(predicted, samples, names) for predicted in found.values()],
        xr.DataArray(list(found), dims="model", name="model", attrs={"long_name": "method"}),
    )
    what = "one" if folds == "leave-one-out" else f"one of {folds} parts"
    table.attrs["left_out"] = what if by is None else f"{what} by {by}"
    return table


def _scores(predicted: xr.Dataset, samples: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Scores of all oxides, of those too that a method does not give."""
    missing = xr.full_like(samples[names[0]], np.nan)
    plain = {o: (predicted if o in predicted else {o: missing})[o].variable for o in names}
    truth = xr.Dataset({o: samples[o].variable for o in names})
    return metrics(xr.Dataset(plain), truth, oxides=names)


def _mean(samples: xr.Dataset, names: Sequence[str], left_out: Sequence[np.ndarray]) -> xr.Dataset:
    values = oxide_matrix(samples, names)
    result = np.empty_like(values)
    for index in left_out:
        result[index] = np.delete(values, index, axis=0).mean(axis=0)
    return oxide_dataset(result, names, {})


def _prospector(samples: xr.Dataset, names: Sequence[str], prospector: xr.Dataset) -> xr.Dataset:
    from lunarray.maps import cells_at

    here: Any = cells_at(prospector, samples["lon"], samples["lat"])
    values = np.stack([np.asarray(here[name].values) for name in names], axis=1)
    return oxide_dataset(values.astype(np.float32), names, {})
