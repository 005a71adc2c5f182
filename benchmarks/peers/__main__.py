"""``python -m benchmarks.peers <topic>``: measure lunarray and its peers at the same work."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import benchmarks.peers as package
from benchmarks.peers import _harness
from benchmarks.peers._before import before


def topics() -> dict[str, str]:
    """Name and first docstring line of every topic."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            text = importlib.import_module(f"{package.__name__}.{module.name}").__doc__ or ""
            found[module.name] = text.strip().split("\n")[0]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run one topic; its report is the last line on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("topic", nargs="?", help="what to compare; see --list")
    parser.add_argument("--list", action="store_true", help="list the topics and leave")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="least time of a contender in a round (default 1)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small problem and one short round: does it all run?"
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="another checkout, such as a worktree of the commit before: its ours in the same rounds",
    )
    parser.add_argument("--alone", action="store_true", help="without the peers")
    given = parser.parse_args(arguments)
    known = topics()
    if given.list:
        for name, text in known.items():
            print(f"{name:12s} {text}")
        return 0
    if given.topic not in known:
        parser.error(f"unknown topic {given.topic!r}; there are: {', '.join(known)}")
    if given.rounds < 1:
        parser.error("at least one round is needed")
    module = importlib.import_module(f"{package.__name__}.{given.topic}")
    with tempfile.TemporaryDirectory(prefix="lunarray-peers-") as folder:
        options = _harness.Options(
            rounds=1 if given.quick else given.rounds,
            seconds=0.2 if given.quick else given.seconds,
            quick=given.quick,
            folder=Path(folder),
        )
        comparison = module.prepare(options)
        if given.alone:
            comparison = replace(comparison, peers={})
        with ExitStack() as stack:
            if given.before:
                units = comparison.ours.units
                other = stack.enter_context(before(given.before, given.topic, options, units))
                comparison = replace(comparison, peers={"before": other, **comparison.peers})
            report = _harness.measure(given.topic, comparison, options)
    _harness.emit(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
