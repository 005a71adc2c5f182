"""Samples that come with lunarray: whole, small, and what their descriptions say."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

import lunarray as la
from lunarray.errors import InputError, ProductFormatError
from lunarray.readers import SAMPLES, samples


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_opens_and_is_small(name):
    files = SAMPLES[name].files
    assert files
    assert sum(path.stat().st_size for path in files) < 1e6
    opened = la.sample(name)
    assert opened.sizes
    assert SAMPLES[name].licence == "CC0-1.0"


def test_iron_of_the_orbit_is_what_it_says():
    iron = la.sample("sp_orbit").lunar.condition().lunar.invert_oxides()["FeO"].values
    highland, mare = np.median(iron[20:60]), np.median(iron[105:160])
    assert abs(highland - 5.0) < 1.5
    assert abs(mare - 16.5) < 1.5


def test_the_type_knows_all_names():
    assert set(get_args(samples.SampleName)) == set(SAMPLES)


def test_unknown_name_is_told_what_there_is():
    with pytest.raises(InputError, match="nac_crop"):
        la.sample("sp")


def test_damaged_file_is_not_opened(tmp_path, monkeypatch):
    for path in (*SAMPLES["tracks"].files, samples._FOLDER / "SHA256SUMS"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "class_l2_tracks.csv"
    table.write_bytes(table.read_bytes().replace(b"1.62", b"1.63", 1))
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    with pytest.raises(ProductFormatError, match="Install lunarray again"):
        la.sample("tracks")
