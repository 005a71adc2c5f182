"""The time written into results: frozen in all other tests, so that none hangs on the second in which it runs."""

from __future__ import annotations

import time

import xarray as xr

from lunarray.store.provenance import stamp


def test_frozen_in_tests():
    one, two = (stamp(xr.Dataset(), "made").attrs["history"] for _ in range(2))
    assert one == two
    assert one.startswith("2025-06-15T15:06:40Z lunarray ")


def test_otherwise_the_clock_is_read(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    assert stamp(xr.Dataset(), "made").attrs["history"].startswith("2027-01-15T08:00:00Z")
