"""Damage to a Global Information Bank: never a wrong number, always named by verify, mended by those who wrote it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from superres_cases import bank, fields
from typer.testing import CliRunner

import lunarray.superres as sr
from lunarray import errors
from lunarray.cli import app
from lunarray.store import verify

FLIPS = int(os.environ.get("LUNARRAY_FLIPS", "60"))
MODEL = {"network": "waves", "sha256": "0" * 64}


def grid() -> sr.GIBGrid:
    return sr.GIBGrid((1, 2), (14, 20), (-20.0, -10.0, 20.0, 10.0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("banks") / "gib.zarr"
    table, _ = bank(path, np.random.default_rng(3), grid(), 40)
    sr.populate(path, table.isel(footprint=slice(0, 20)), progress=False)
    sr.populate(path, table.isel(footprint=slice(20, 40)), progress=False)
    return path


def read(path: Path) -> xr.Dataset:
    table = sr.gib_footprints(path).rename({"abundance": "of_table", "abundance_std": "error"})
    return xr.merge([sr.open_gib(path).load(), table])


def files(path: Path) -> list[Path]:
    # The groups' own metadata say nothing but that they are groups, those of batches their id.
    return sorted(f for f in path.rglob("*") if f.is_file())


def test_a_whole_one(whole):
    check = verify(whole, progress=False)
    assert check.ok
    assert check.path == whole
    assert check.objects > 30
    assert check.nbytes > 5000
    assert "All is as it was written" in CliRunner().invoke(app, ["verify", str(whole)]).output


def test_damage_is_seen_and_never_read(whole, tmp_path):
    """Seeded flips, truncations, losses, and objects in the places of others."""
    known = read(whole)
    there = files(whole)
    unseen, wrong = [], []
    for seed in range(FLIPS):
        rng = np.random.default_rng(seed)
        copy = tmp_path / "gib.zarr"
        shutil.copytree(whole, copy)
        file = copy / there[rng.integers(len(there))].relative_to(whole)
        data = bytearray(file.read_bytes())
        kind = rng.integers(4)
        if kind == 3:
            others = [f for f in there if f.name == file.name and f.parts[-3:] != file.parts[-3:]]
            other = others[rng.integers(len(others))].read_bytes() if others else b""
            if other == bytes(data):
                shutil.rmtree(copy)
                continue
            file.write_bytes(other)
        elif kind == 2:
            file.unlink()
        elif kind == 1:
            file.write_bytes(data[: rng.integers(len(data))])
        else:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            file.write_bytes(data)
        what = f"seed {seed}: {file.relative_to(copy)}, {('bit', 'cut', 'lost', 'other')[kind]}"
        try:
            got = read(copy)
        except errors.LunarrayError:
            pass
        else:
            if not got.equals(known):
                wrong.append(what)
        try:
            if verify(copy, progress=False).ok:
                unseen.append(what)
        except errors.StoreFormatError:
            assert file == copy / "zarr.json"
        shutil.rmtree(copy)
    assert not wrong
    assert not unseen


def test_what_was_taken_away_is_written_again(whole, tmp_path):
    copy = tmp_path / "gib.zarr"
    shutil.copytree(whole, copy)
    for name in ("abundance/c/0/0/1", "count/c/0/0", "mare/c/0/1", "lat/c/0", "mare/zarr.json"):
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 4
        (copy / name).write_bytes(data)
    (copy / "feature/c/0/0/0").unlink()
    with pytest.raises(errors.LunarrayError):
        read(copy)
    result = CliRunner().invoke(app, ["verify", str(copy)])
    assert result.exit_code == 1
    assert "metadata   mare/zarr.json" in result.output
    assert verify(copy, repair=True, progress=False).repaired
    # Metadata that were damaged hide what lies below them: their objects are held to them once they are back.
    verify(copy, repair=True, progress=False)
    assert verify(copy, progress=False).ok
    with pytest.raises(errors.StoreIncompleteError):
        sr.open_gib(copy)
    features = fields(np.random.default_rng(3), grid())
    for own in grid().all_regions():
        rows, columns = grid().slices(*own)
        state = int(sr.open_gib(copy, incomplete=True)["state"][own])
        if not state & 1:
            sr.write_region(copy, own, feature=features[:, rows, columns], feature_model=MODEL)
        if not state & 2:
            classes = np.where(features[0] > 0, 1, 2).astype(np.uint8)
            sr.write_region(copy, own, mare=classes[rows, columns])
    sr.populate(copy, progress=False)
    xr.testing.assert_identical(
        read(copy).drop_attrs(deep=False), read(whole).drop_attrs(deep=False)
    )


def test_what_cannot_be_made_again_is_said(whole, tmp_path):
    copy = tmp_path / "gib.zarr"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "footprints/0001")
    with pytest.raises(errors.StoreDamagedError, match="holds 20 footprints"):
        sr.gib_footprints(copy)
    assert not verify(copy, progress=False).ok
    with pytest.raises(errors.StoreDamagedError, match="footprints"):
        verify(copy, repair=True, progress=False)
    with pytest.raises(errors.InputError, match="not accepted"):
        verify(copy, accept=True)
