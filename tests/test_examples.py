"""Examples of public docstrings run, on samples and simulations, and give what they show."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import xarray as xr
from test_docstrings import public_objects

import lunarray as la

#: Public names without one, of the builder of graphs, which no user needs; fewer, never more.
WITHOUT = 3
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _examples():
    finder = doctest.DocTestFinder(recurse=False)
    return [
        pytest.param(test, id=path)
        for path, thing in sorted(public_objects().items())
        for test in finder.find(thing, path, globs={})
        if test.examples
    ]


@pytest.mark.parametrize("test", _examples())
def test_example_runs(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    test.globs.update(la=la, np=np, xr=xr)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False)
    assert not result.failed, "".join(said)


def test_an_example_in_each():
    """Errors and plain values need none."""
    without = [
        path
        for path, thing in public_objects().items()
        if ">>>" not in (thing.__doc__ or "")
        and not (isinstance(thing, type) and issubclass(thing, (Exception, tuple, dict)))
    ]
    assert len(without) <= WITHOUT, without
