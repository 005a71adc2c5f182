"""Run every asv suite once, with its smallest parameters, and say which do not come to their end.

``python -m benchmarks.suites [bench_x | bench_x.Suite ...]`` runs some of them. Nothing is measured for its own
sake; the seconds are printed to show where they went. Suites that raise NotImplementedError are skipped, as by asv.
"""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METHODS = ("time_", "peakmem_", "track_", "mem_", "timeraw_")


def suites(words: list[str] | None = None) -> Iterator[tuple[str, type]]:
    """The classes of all suites, by name."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if words and not any(word.split(".")[0] == path.stem for word in words):
            continue
        module = importlib.import_module(f"benchmarks.{path.stem}")
        for name, own in vars(module).items():
            if isinstance(own, type) and own.__module__ == module.__name__:
                full = f"{path.stem}.{name}"
                if any(n.startswith(METHODS) for n in dir(own)) and (
                    not words or any(word in (full, path.stem) for word in words)
                ):
                    yield full, own


def combinations(suite: type) -> list[tuple[Any, ...]]:
    """Every kind of input, in the smallest size: words are tried all, numbers only first."""
    params = getattr(suite, "params", ())
    if not params:
        return [()]
    several = all(isinstance(values, list | tuple) for values in params)
    axes = [
        list(values) if any(isinstance(v, str) for v in values) else [values[0]]
        for values in (params if several else (params,))
    ]
    return list(itertools.product(*axes))


def run(suite: type) -> None:
    """One suite: its cache, and setup and every method for each kind of input."""
    made = suite()
    cache = (made.setup_cache(),) if hasattr(made, "setup_cache") else ()
    for values in combinations(suite):
        for name in (n for n in dir(suite) if n.startswith(METHODS)):
            one = suite()
            try:
                if hasattr(one, "setup"):
                    one.setup(*cache, *values)
                result = getattr(one, name)(*cache, *values)
                if name.startswith("timeraw_"):
                    subprocess.run([sys.executable, "-c", result], check=True)
            except NotImplementedError:
                continue
            finally:
                if hasattr(one, "teardown"):
                    one.teardown(*cache, *values)


def main() -> int:
    failed = []
    start = os.getcwd()
    for name, suite in suites(sys.argv[1:]):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="lunarray-suites-") as folder:
            os.chdir(folder)
            try:
                run(suite)
                verdict = "runs"
            except Exception:
                traceback.print_exc()
                failed.append(name)
                verdict = "FAILS"
            finally:
                os.chdir(start)
        print(f"{name}: {verdict} ({time.perf_counter() - begin:.1f} s)", flush=True)
    print(f"{len(failed)} of the suites fail: {', '.join(failed)}" if failed else "all suites run")
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
