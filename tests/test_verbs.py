"""Every verb through the harness: in memory, in chunks, after xarray's own steps, after one another, on workers."""

from __future__ import annotations

import pytest
import verbs
from harness import check_chain, check_workers, hold, hold_equal, public_verbs
from verbs import CHAINS, VERBS

from lunarray import oxides, store, superres
from lunarray.store.append import append_zarr
from lunarray.xrf.footprints import to_geodataframe


@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_verb(verb):
    hold(verb)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0])
def test_verbs_after_one_another(chain):
    check_chain(*chain[1:])


def test_every_verb_is_in_the_table():
    """A new verb comes with a row."""
    names = [verb.name for verb in VERBS]
    assert len(set(names)) == len(names)
    assert public_verbs() == set(names)


def _write_and_append(ds, path):
    for half in (ds.isel(sample=slice(12)), ds.isel(sample=slice(12, None))):
        append_zarr(half, path / "a.zarr", dim="sample", progress=False)
    found = store.open_zarr(path / "a.zarr").load()
    return found[sorted(found.data_vars)]  # a folder lists them in any order


@pytest.mark.parametrize(
    ("make", "name", "own", "call"),
    [
        (verbs.samples, "TiO2", "sure", lambda ds, path: oxides.select_samples(ds)),
        (verbs.samples, "TiO2", "sure", _write_and_append),
        (verbs.footprints, "abundance", "abundance_std", lambda ds, path: superres.as_footprints(ds)),
        (verbs.elements, "abundance", "abundance_std", lambda ds, path: to_geodataframe(ds)),
    ],
    ids=["select_samples", "append_zarr", "as_footprints", "to_geodataframe"],
)  # fmt: skip
def test_a_variable_made_of_another(make, name, own, call, tmp_path):
    """``dask.compute`` of such a Dataset loses the one that the other is made of (Dask 2026.8); its own is right."""
    ds = make()
    ds = ds if own in ds else ds.assign({own: ds[name]})
    lazy = ds.assign({name: ds.chunk()[name] + 0})
    lazy[own] = (lazy[name] > 0).astype(ds[own].dtype).assign_attrs(ds[own].attrs)
    memory, chunked = tmp_path / "memory", tmp_path / "chunked"
    hold_equal(call(lazy, chunked), call(lazy.compute(), memory))


@pytest.fixture(scope="module")
def workers(client):
    with client() as made:
        yield made


# The last, for a cluster costs something as long as it lives.
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.lazy], ids=str)
def test_verb_on_workers(verb, workers):
    check_workers(verb, workers)
