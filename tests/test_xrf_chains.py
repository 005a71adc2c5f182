"""X-ray verbs on chosen frames, and on what are no frames: what the harness does not ask of every verb."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import lunarray.xrf as xrf
from lunarray.engine.graph import apart
from lunarray.errors import InputError
from lunarray.simulate.xrf import class_counts, class_orbit, class_response, thermal_spectrum
from lunarray.xrf import HIGHLAND

Step = Callable[[xr.Dataset], xr.Dataset]

SOURCE = thermal_spectrum(1.2, 1e-5), class_response(1024)


def _mask(ds: xr.Dataset) -> np.ndarray:
    return np.arange(ds.sizes["time"]) % 5 != 3


#: What users do to a Dataset between two verbs.
STEPS: dict[str, Step] = {
    "isel": lambda ds: ds.isel(time=slice(1, None)),
    "mask": lambda ds: ds.isel(time=_mask(ds)),
    "sel": lambda ds: ds.sel(time=slice(ds["time"].values[1], ds["time"].values[-2])),
    "where": lambda ds: ds.where(xr.DataArray(_mask(ds), dims="time")),
    "drop": lambda ds: ds.where(xr.DataArray(_mask(ds), dims="time"), drop=True),
    "concat": lambda ds: xr.concat([ds.isel(time=slice(0, 2)), ds.isel(time=slice(3, None))], "time"),
    "sortby": lambda ds: ds.isel(time=slice(None, None, -1)).sortby("time"),
}  # fmt: skip
#: The same of lazy ones alone.
LAZY_STEPS: dict[str, Step] = {
    "chunk": lambda ds: ds.chunk(time=3),
    "persist": lambda ds: ds.persist(),
    "persist, isel": lambda ds: ds.persist().isel(time=slice(2, None)),
}


@pytest.fixture(scope="module")
def frames() -> xr.Dataset:
    return class_counts(HIGHLAND, class_orbit(frames=14), *SOURCE, seed=3).drop_vars("expected")


def test_running_sums_of_chosen_frames(frames) -> None:
    for name in ("isel", "mask", "concat"):
        eager = xrf.coadd(STEPS[name](frames), "running", min_significance=5.0)
        lazy = xrf.coadd(STEPS[name](frames.chunk(time=5)), "running", min_significance=5.0)
        xr.testing.assert_identical(lazy.compute().drop_attrs(), eager.drop_attrs())


@pytest.mark.parametrize("name", [*STEPS, *LAZY_STEPS])
def test_apart_shares_no_task(frames, name) -> None:
    counts = (STEPS | LAZY_STEPS)[name](frames.chunk(time=3))["counts"].data
    other = apart(counts)
    assert not set(counts.__dask_graph__()) & set(other.__dask_graph__())
    assert other.name == apart(counts).name
    np.testing.assert_array_equal(counts, other)


ARRAY = xr.DataArray(np.zeros(3), dims="time", name="counts")


@pytest.mark.parametrize("given", [ARRAY, ARRAY.to_dataset(), 3])
@pytest.mark.parametrize(
    "verb",
    ["flag_frames", "night_background", "coadd", "particle_rate", "grid_footprints", "write_footprints",
     "to_geodataframe", "footprint_mean", "oxides_to_elements", "elements_to_oxides", "fit_elements",
     "spectrum_components"],
)  # fmt: skip
def test_the_wrong_kind_of_object(given, verb, tmp_path) -> None:
    homes = (
        xrf,
        importlib.import_module("lunarray.xrf.footprints"),
        importlib.import_module("lunarray.xrf.selection"),
    )
    function = next(getattr(home, verb) for home in homes if hasattr(home, verb))
    more = {
        "write_footprints": (tmp_path / "a.gpkg",),
        "footprint_mean": (xr.DataArray(np.ones((2, 2)), dims=("lat", "lon")),),
        "fit_elements": SOURCE,
        "spectrum_components": (ARRAY.to_dataset(), *SOURCE),
    }
    with pytest.raises(InputError, match=r"[Gg]ive"):
        function(given, *more.get(verb, ()))
    if isinstance(given, xr.DataArray) and hasattr(xr.DataArray.lunar, verb):
        with pytest.raises(InputError, match=r"[Gg]ive"):
            getattr(given.lunar, verb)(*more.get(verb, ()))
