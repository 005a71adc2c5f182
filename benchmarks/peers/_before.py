"""Ours of another checkout, such as that of the commit before: measured in the same rounds, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any


@contextmanager
def before(checkout: Path, topic: str, options: Any, units: float) -> Iterator[Any]:
    """Prepare ours of another checkout.

    Parameters
    ----------
    checkout : Path
        Root of the other working tree; its dependencies are those of this process.
    topic : str
        Module of ``benchmarks.peers``, which must be there too.
    options : Options
        Of this run.
    units : float
        Work of one call.

    Yields
    ------
    Contender
    """
    from benchmarks.peers import _harness

    child = subprocess.Popen(
        # Its own folder is not to be searched: topics have the names of rooms.
        [sys.executable, "-P", __file__, topic, json.dumps(asdict(options) | {"folder": ""})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.fspath(checkout.resolve())},
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(seconds: float) -> Any:
        print(seconds, file=child.stdin, flush=True)
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError(f"{topic} of {checkout} did not run")
        return _harness.Measurement(*json.loads(answer))

    try:
        variant = child.stdout.readline().strip()
        if not variant:
            raise RuntimeError(f"{topic} of {checkout} did not run")
        yield _harness.Contender(units, {variant: lambda: None}, check=False, measure=ask)
    finally:
        child.stdin.close()
        child.wait()


def _serve(topic: str, given: dict[str, Any]) -> None:
    """Answer each number of seconds with a measurement; what is printed otherwise goes to standard error."""
    import importlib
    import tempfile

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from benchmarks.peers import _harness

    measure = getattr(_harness, "measure_quietly", None) or _harness._measure_quietly
    with tempfile.TemporaryDirectory(prefix="lunarray-before-") as folder:
        options = _harness.Options(**given | {"folder": Path(folder)})
        ours = importlib.import_module(f"benchmarks.peers.{topic}").prepare(options).ours
        entry = _harness._Entry("ours", ours)
        _harness._warm_up(entry, lambda output: None, options.seconds / 4)
        print(entry.variant, file=answers, flush=True)
        for line in sys.stdin:
            measured = measure(entry.run, float(line))
            values = [measured.seconds, measured.cores, measured.others]
            print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
