"""What a notebook shows: bars without widgets, and tables of models, grids, reports, stores, which are text alone."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from IPython.core.formatters import DisplayFormatter

from lunarray import engine, geo, readers
from lunarray.engine import notebook, progress_bar, step_bar
from lunarray.engine.models import ModelSpec, Spectra
from lunarray.engine.tables import html_table
from lunarray.geo import shown
from lunarray.store import Fault, StoreCheck, describe, to_zarr, verify

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def kernel(monkeypatch):
    """As in Jupyter: a shell with a kernel; what is displayed is kept, as is what it is changed to."""
    displayed: list[list[str]] = []

    def display(thing, display_id=False):
        displayed.append([thing.data])
        return SimpleNamespace(update=lambda other: displayed[number].append(other.data))

    number = 0
    shell = SimpleNamespace(kernel=object(), display_formatter=DisplayFormatter())
    monkeypatch.setattr(notebook, "shell", lambda: shell)
    monkeypatch.setattr(shown, "shell", lambda: shell)
    monkeypatch.setattr("IPython.display.display", display)
    return SimpleNamespace(displayed=displayed, shell=shell)


def test_bars_in_a_notebook(kernel, capsys):
    with progress_bar(f"Mapping {EVIL}", 3) as step:
        threads = [threading.Thread(target=step) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (bar,) = kernel.displayed
    assert 'value="0" max="3"' in bar[0]
    assert 'value="3" max="3"' in bar[-1]
    assert "<script>" not in "".join(bar)
    kernel.displayed.clear()
    with step_bar("Training", 10) as advance:
        advance(4, "loss 0.25")
    assert "4/10" in kernel.displayed[0][-1]
    assert "loss 0.25" in kernel.displayed[0][-1]
    kernel.displayed.clear()
    with progress_bar("Silent", 3, show=False) as step:
        step()
    assert not kernel.displayed
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_where_there_is_neither_terminal_nor_notebook(capsys):
    with progress_bar("Mapping", 2) as step, step_bar("Training", 2) as advance:
        step()
        assert advance is None
    assert capsys.readouterr().err == ""


def test_grids(kernel):
    geo.register()
    formatter = kernel.shell.display_formatter
    for name in ("north", "geographic"):
        shows, _ = formatter.format(geo.lunar_grid(name))
        assert geo.NAMED_CRS[name] in shows["text/html"]
        assert shows.keys() == {"text/plain", "text/html"}
    from affine import Affine
    from odc.geo.geobox import GeoBox

    earth = GeoBox((10, 10), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
    assert "EPSG" in geo.grid_html(earth)  # odc-geo's own


def test_stores_and_what_is_found_in_them(tmp_path):
    ds = xr.Dataset({"a": ("x", np.arange(4.0), {"long_name": EVIL, "units": "m"})})
    to_zarr(ds, tmp_path / "<b>a.zarr", progress=False)
    told = describe(tmp_path / "<b>a.zarr")._repr_html_()
    assert "complete; " in told
    assert "&lt;script&gt;" in told
    assert "<b>a.zarr" not in told
    assert "all as it was written" in verify(tmp_path / "<b>a.zarr", progress=False)._repr_html_()
    bad = StoreCheck(tmp_path, tuple(Fault(f"{EVIL}{k}", "missing") for k in range(50)), 3, 4, 0.1)
    assert "and 30 more" in bad._repr_html_()
    assert "<script>" not in bad._repr_html_()
    report = engine.last_report()
    assert report is not None
    assert "<h1>" not in report._repr_html_()
    assert "Regions" in report._repr_html_()


def test_models_and_readers():
    spec = ModelSpec(
        "a:b", f"/x/{EVIL}.safetensors", "00", ("FeO",), inputs=Spectra((500.0, 600.0)), units=(("FeO", "percent"),)
    )  # fmt: skip
    assert "FeO (percent)" in spec._repr_html_()
    for thing in (*engine.available_models().values(), spec, readers.available()):
        text = thing._repr_html_()
        assert text.startswith("<table>")
        assert "<script>" not in text
        assert len(text) < 20_000


def test_tables_escape_and_end():
    text = html_table(("<i>",), [(EVIL, 3)] * 5, caption="<u>", most=2)
    assert "&lt;i&gt;" in text
    assert "<script>" not in text
    assert "and 3 more" in text
    assert text.count("<tr>") == 4
