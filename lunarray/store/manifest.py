"""What a store is made from: digests of the input, the models and the parameters, read off the lazy graph.

They say *what* differs where a store was begun with something else. The identity by which a store is recognised
(the token) covers all of it and more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dask
import numpy as np
import xarray as xr

from lunarray.engine import graph
from lunarray.versions import numeric_versions

#: Values of parameters that are kept readable, in characters; longer ones are kept as digests.
MAX_VALUE = 200

_PLAIN = (bool, int, float, str, bytes, type(None))


def contents(ds: xr.Dataset) -> dict[str, Any]:
    """Describe what the variables of a Dataset are computed from.

    `ds`: nothing is computed. Returns - ``input``: digest of the arrays in memory and the sources of the lazy ones
    (stores and files by what they hold, as their readers name them); - ``models``: list of ``{"loader",
    "sha256"}``; - ``parameters``: list of ``{"step", "values", "digest"}``, a step for each block-wise operation in the
    graph: its plain arguments readable, the digest of all of them without what comes from upstream; - ``numbers``: the
    version of the numbers of each room that computes them (:data:`lunarray.versions.NUMERIC_VERSION`).
    """
    lazy, loaded = [], []
    for name, variable in sorted(ds.variables.items(), key=str):
        if dask.is_dask_collection(variable.data):
            lazy.append(variable.data)
        else:
            loaded.append((str(name), variable.dims, variable.data))
    steps = graph.steps(lazy)
    models: dict[tuple[str, str], dict[str, str]] = {}
    parameters: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step.function is None or step.root:
            continue
        literals = []
        for key, value in step.literals:
            if hasattr(value, "sha256") and hasattr(value, "loader"):
                known = {"loader": value.loader, "sha256": value.sha256}
                models[value.loader, value.sha256] = known
            else:
                literals.append((f"{key}=" if key else "", value))
        own = dask.base.tokenize(step.function, literals)
        parameters[own] = {
            "step": step.kind,
            "values": [key + _readable(value) for key, value in literals],
            "digest": own,
        }
    return {
        "input": dask.base.tokenize(sorted(step.name for step in steps if step.root), loaded),
        "models": [models[key] for key in sorted(models)],
        "parameters": sorted(parameters.values(), key=lambda step: (step["step"], step["digest"])),
        "numbers": numeric_versions(graph.rooms_of(lazy)),
    }


def explain(stored: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Say what differs between two descriptions of :func:`contents`.

    `stored`, `now`: of the store and of what is to be written; None where there is none. Returns a sentence without its
    point.
    """
    if not stored or not now or "input" not in stored or "input" not in now:
        return "how they differ is not known: one of them was named by a token"
    parts = []
    if stored["input"] != now["input"]:
        parts.append(f"the input differs (digest {stored['input'][:8]} there, {now['input'][:8]} here)")  # fmt: skip
    there, here = ({m["loader"]: m["sha256"] for m in side["models"]} for side in (stored, now))
    for loader in sorted({*there, *here}):
        a, b = (side.get(loader) for side in (there, here))
        if a != b:
            name = loader.rsplit(":", 1)[-1]
            parts.append(
                f"the model differs ({name}: {(a or 'none')[:8]} there, {(b or 'none')[:8]} here)"
            )
    before, after = ({s["digest"]: s for s in side["parameters"]} for side in (stored, now))
    gone = [s for digest, s in before.items() if digest not in after]
    new = [s for digest, s in after.items() if digest not in before]
    for name in sorted({s["step"] for s in [*gone, *new]}):
        a, b = (_values(s for s in side if s["step"] == name) for side in (gone, new))
        parts.append(f"the parameters of step {name!r} differ ({a} there, {b} here)")
    there, here = (side.get("numbers", {}) for side in (stored, now))
    parts += [
        f"the versions of the numbers of {room!r} differ ({there.get(room)} there, {here.get(room)} here)"
        for room in sorted({*there, *here})
        if there.get(room) != here.get(room)
    ]
    if not parts:
        return (
            "the input, the models and the parameters are the same, but not the steps between them"
        )
    return "; ".join(parts)


def _values(steps: Iterable[Mapping[str, Any]]) -> str:
    texts = [", ".join(step["values"]) or step["digest"][:8] for step in steps]
    return " | ".join(texts) or "no such step"


def _readable(value: Any) -> str:
    if isinstance(value, _PLAIN) or (
        isinstance(value, tuple | list) and all(isinstance(v, _PLAIN) for v in value)
    ):
        text = repr(value)
        if len(text) <= MAX_VALUE:
            return text
    if isinstance(value, np.generic):
        return str(value)
    return f"{type(value).__name__}:{dask.base.tokenize(value)[:8]}"
