"""Reference numbers of the verbs: where they change, the version of the room's numbers has to be raised.

``python tests/test_numbers.py`` writes them anew, from the rows of :mod:`verbs`, or with names of rooms those of these
alone; do so after raising :data:`lunarray.versions.NUMERIC_VERSION`, and say in CHANGELOG what changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from verbs import VERBS

from lunarray.versions import NUMERIC_VERSION

FILE = Path(__file__).with_name("numbers.json")

#: What is not numbers, or takes longer than it tells.
LEFT_OUT = {
    "fractures.tiles",
    "fractures.vectorize",
    "oxides.train",
    "superres.write_element_maps",
    "superres.write_element_vectors",
    "xrf.write_footprints",
}
#: Other processors round otherwise; what is meant here is seen with five digits.
RTOL = 2e-4


def rows() -> dict[str, Any]:
    return {
        verb.name: verb
        for verb in VERBS
        if verb.name.split(".")[0] in NUMERIC_VERSION and verb.name not in LEFT_OUT
    }


def arrays(result: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array of numbers in what a verb gives."""
    if isinstance(result, xr.Dataset):
        for key in result.data_vars:
            yield from arrays(result[key].values, str(key))
    elif isinstance(result, xr.DataArray):
        yield from arrays(result.values, name)
    elif isinstance(result, pd.DataFrame):
        for key in result.columns:
            yield from arrays(result[key].to_numpy(), str(key))
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from arrays(value, f"{name}{key}")
    elif isinstance(result, tuple | list) and all(np.isscalar(value) for value in result):
        yield from arrays(np.asarray(result), name)
    elif (
        isinstance(result, np.ndarray | np.generic | int | float)
        and np.asarray(result).dtype.kind in "biuf"
    ):
        yield name, np.asarray(result, np.float64).ravel()


def numbers(verb: Any) -> dict[str, list[float]]:
    """Of each array: how many are there, their mean, their root mean square, and five of them."""
    inputs = verb.inputs()
    result = verb.call(*inputs) if verb.call else verb.function(*inputs)
    if hasattr(result, "compute"):
        result = result.compute()
    found = {}
    for name, values in arrays(result):
        good = values[np.isfinite(values)]
        some = good[np.linspace(0, good.size - 1, 5).astype(int)] if good.size else good
        whole = [good.mean(), np.sqrt(np.mean(good**2))] if good.size else []
        found[name] = [float(good.size), *map(float, whole), *map(float, some)]
    return found


@pytest.mark.parametrize("name", sorted(rows()))
def test_numbers_are_those_of_their_version(name):
    known = json.loads(FILE.read_text())
    assert name in known, "a new verb: run python tests/test_numbers.py"
    version = NUMERIC_VERSION[name.split(".")[0]]
    assert known[name]["version"] == version, (
        "the version was raised: run python tests/test_numbers.py"
    )
    found = numbers(rows()[name])
    assert found.keys() == known[name]["numbers"].keys()
    for key, expected in known[name]["numbers"].items():
        scale = expected[2] if len(expected) > 2 else 0.0
        np.testing.assert_allclose(
            found[key],
            expected,
            rtol=RTOL,
            atol=RTOL * scale,
            err_msg=f"{key} of {name} changed: raise NUMERIC_VERSION[{name.split('.')[0]!r}], then run "
            "python tests/test_numbers.py",
        )


def test_every_room_that_computes_has_a_version():
    rooms = {verb.name.split(".")[0] for verb in VERBS}
    assert rooms - {"store", "export", "plot", "view", "readers"} <= set(NUMERIC_VERSION)


def main(rooms: list[str]) -> None:
    """Write the numbers anew, of some rooms, or of all."""
    import time

    known = json.loads(FILE.read_text())
    out = {}
    for name, verb in sorted(rows().items()):
        if rooms and name.split(".")[0] not in rooms and name in known:
            out[name] = known[name]
            continue
        begin = time.perf_counter()
        out[name] = {"version": NUMERIC_VERSION[name.split(".")[0]], "numbers": numbers(verb)}
        print(
            f"{name:<32}{len(out[name]['numbers']):>3} arrays, {time.perf_counter() - begin:.1f} s",
            flush=True,
        )
    lines = [f" {json.dumps(name)}: {json.dumps(own)}" for name, own in out.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
