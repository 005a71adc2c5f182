"""Measuring contenders in interleaved rounds, and reporting them."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

#: Seconds between two contenders, in which thread pools that spin after their work go to sleep.
PAUSE = 0.1
#: Cores that other processes may take during a measurement before it is repeated, and the seconds for repeating it.
QUIET = 0.1
PATIENCE = 15.0


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    #: Rounds in which every contender is measured once.
    rounds: int = 5
    #: Least time for which a contender runs in a round; it is repeated until then.
    seconds: float = 1.0
    #: A smaller problem where the topic has one, to see that everything works.
    quick: bool = False
    #: CPU threads that every contender may use.
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    #: A folder for files, deleted at the end.
    folder: Path = Path(".")


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Parameters
    ----------
    units : float
        The work that one call does, in the numerator of the comparison's unit (say pixels). For a unit of time: 1.
    variants : mapping of str to callable
        Ways of running it (batch sizes, thread layouts); the fastest one in the warm-up takes part. A callable takes no
        argument and returns its output, which is checked.
    check : bool
        Whether the output goes to the comparison's `check`.
    measure : callable, optional
        Takes the least seconds and gives a :class:`Measurement`, where it runs in another process.
    """

    units: float
    variants: Mapping[str, Callable[[], Any]]
    check: bool = True
    measure: Callable[[float], Measurement] | None = None


@dataclass(frozen=True)
class Absent:
    """A peer that cannot run here, and why."""

    reason: str


@dataclass(frozen=True)
class Comparison:
    """What a topic hands to the harness.

    Parameters
    ----------
    unit : str
        "pixels/s", "ms", ...
    ours : Contender
    peers : mapping of str to Contender or Absent
    limit : (name, Contender)
        The bound that the machine sets, measured in the same rounds and in the same unit, e.g. the matrix products of
        its BLAS counted in pixels.
    check : callable
        Takes an output; raises AssertionError with a message where it is wrong, and may return its deviation.
    better : {"higher", "lower"}
        "lower" for a unit of time: then the value is the seconds of a call, times `scale`.
    scale : float
        Factor from seconds to the unit, for a unit of time.
    extras : mapping of str to Contender
        Measured in the same rounds and reported under their own keys beside `peers`, with their ratio to ours.
    finish : callable, optional
        Run last: takes the report, returns further keys for it.
    notes : tuple of str
        Printed below the table.
    """

    unit: str
    ours: Contender
    peers: Mapping[str, Contender | Absent]
    limit: tuple[str, Contender]
    check: Callable[[Any], float | None]
    better: Literal["higher", "lower"] = "higher"
    scale: float = 1.0
    extras: Mapping[str, Contender | Absent] = field(default_factory=dict)
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Entry:
    name: str
    contender: Contender
    variant: str = ""
    run: Callable[[], Any] | None = None
    deviation: float | None = None
    values: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return statistics.median(self.values)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Measurement:
    """Seconds of a call, and the cores that this process and all others had meanwhile."""

    seconds: float
    cores: float
    others: float


def _measure_once(run: Callable[[], Any], least: float) -> Measurement:
    time.sleep(PAUSE)
    everything, own = _busy_seconds(), time.process_time()
    calls, begin = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        passed = time.perf_counter() - begin
        if passed >= least:
            break
    own = time.process_time() - own
    others = max(0.0, _busy_seconds() - everything - own) / passed
    return Measurement(passed / calls, own / passed, others)


def measure_quietly(run: Callable[[], Any], least: float) -> Measurement:
    """Measure again, for a while, where other processes were busy meanwhile; the least disturbed measurement counts."""
    begin = time.perf_counter()
    best = _measure_once(run, least)
    while best.others > QUIET and time.perf_counter() - begin < PATIENCE:
        time.sleep(1)
        best = min(best, _measure_once(run, least), key=lambda measurement: measurement.others)
    return best


def _busy_seconds() -> float:
    """What all processes of the machine together have computed, in core seconds; 0 where the system does not say."""
    try:
        user, nice, system = (int(text) for text in Path("/proc/stat").read_text().split()[1:4])
    except OSError:
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _warm_up(entry: _Entry, check: Callable[[Any], float | None], least: float) -> None:
    """Compile, check and choose; leaves `run` unset where every variant failed."""
    best = float("inf")
    for label, run in entry.contender.variants.items():
        try:
            output = run()
            deviation = check(output) if entry.contender.check else None
        except (
            Exception
        ) as error:  # a peer that breaks or errs here must not take the others with it
            _note(
                f"{entry.name} [{label}]: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            )
            continue
        del output
        if entry.contender.measure is None:
            spent = _measure_once(run, least).seconds
        else:
            spent = entry.contender.measure(least).seconds
        if spent < best:
            best = spent
            entry.variant, entry.run, entry.deviation = label, run, deviation


def measure(topic: str, comparison: Comparison, options: Options) -> dict[str, Any]:
    """Run a comparison and print its table.

    Returns
    -------
    dict
        The report, as the JSON line shows it.
    """
    limit_name, limit = comparison.limit
    candidates = {
        "ours": comparison.ours,
        **comparison.peers,
        f"limit: {limit_name}": limit,
        **comparison.extras,
    }
    entries: dict[str, _Entry] = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, Absent):
            _note(f"{name}: absent: {candidate.reason}")
            continue
        entry = _Entry(name, candidate)
        # Ours and the limit must run: their failures are ours to mend.
        _warm_up(entry, comparison.check, options.seconds / 4)
        if entry.run is None:
            if name == "ours" or candidate is limit:
                raise RuntimeError(f"{name} did not run")
            _note(f"{name}: absent: no variant ran")
            continue
        entries[name] = entry

    order = list(entries.values())
    others: list[float] = []
    for number in range(options.rounds):
        first = number % len(order)
        for entry in order[first:] + order[:first]:
            assert entry.run is not None
            if entry.contender.measure is None:
                measured = measure_quietly(entry.run, options.seconds)
            else:
                measured = entry.contender.measure(options.seconds)
            spent = measured.seconds
            entry.cores.append(measured.cores)
            others.append(measured.others)
            if comparison.better == "higher":
                entry.values.append(entry.contender.units / spent)
            else:
                entry.values.append(spent * comparison.scale / entry.contender.units)

    disturbance = statistics.fmean(others)
    if disturbance > QUIET:
        _note(f"the machine was not quiet: other processes took {disturbance:.1f} cores on average")

    ours = entries["ours"].value

    def figure(name: str) -> dict[str, Any] | None:
        if name not in entries:
            return None
        value = entries[name].value
        ratio = ours / value if comparison.better == "higher" else value / ours
        return {"value": _round(value), "unit": comparison.unit, "ratio": _round(ratio)}

    bound = entries[f"limit: {limit_name}"].value
    fraction = ours / bound if comparison.better == "higher" else bound / ours
    report: dict[str, Any] = {
        "topic": topic,
        "machine": machine(options),
        "ours": {"value": _round(ours), "unit": comparison.unit},
        "peers": {name: figure(name) for name in comparison.peers},
        "limit": {"name": limit_name, "value": _round(bound), "fraction": _round(fraction)},
    }
    report["cores_of_others"] = round(disturbance, 2)
    for name in comparison.extras:
        extra = figure(name)
        if extra is not None:
            # What share of ours it reaches: the reciprocal of what a ratio is for a peer.
            extra = {
                "value": extra["value"],
                "unit": extra["unit"],
                "share_of_ours": _round(1 / extra["ratio"]),
            }
        report[name] = extra
    _print_table(topic, comparison, options, entries, ours)
    if comparison.finish is not None:
        report |= comparison.finish(report)
    return report


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _print_table(
    topic: str, comparison: Comparison, options: Options, entries: dict[str, _Entry], ours: float
) -> None:
    table = Table(title=f"{topic}: {machine(options)}")
    table.add_column("contender")
    for column in (
        f"{comparison.unit} (median)",
        "lowest",
        "highest",
        "ours is better by",
        "cores",
        "deviation",
    ):
        table.add_column(column, justify="right")
    table.add_column("variant")
    for entry in entries.values():
        ratio = ours / entry.value if comparison.better == "higher" else entry.value / ours
        table.add_row(
            entry.name,
            f"{entry.value:,.4g}" if entry.value < 1000 else f"{entry.value:,.0f}",
            f"{min(entry.values):,.4g}"
            if min(entry.values) < 1000
            else f"{min(entry.values):,.0f}",
            f"{max(entry.values):,.4g}"
            if max(entry.values) < 1000
            else f"{max(entry.values):,.0f}",
            "" if entry.name == "ours" else f"{ratio:.2f}×",
            f"{statistics.median(entry.cores):.1f}",
            "" if entry.deviation is None else f"{entry.deviation:.1e}",
            entry.variant,
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(
        f"{options.rounds} interleaved rounds of at least {options.seconds:g} s for each contender."
    )
    for note in comparison.notes:
        console.print(note)


def machine(options: Options) -> str:
    """The processor, what of it was used, and the Python that ran."""
    name = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = next(
            line.split(":", 1)[1].strip()
            for line in text.splitlines()
            if line.startswith("model name")
        )
        vector = next((f for f in ("avx512f", "avx2") if f" {f}" in text), platform.machine())
        name = f"{name}, {vector}"
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {options.threads} cores, {platform.system()}, Python {platform.python_version()}"
    )


def emit(report: dict[str, Any]) -> None:
    """Print the report as the last line of standard output."""
    sys.stdout.flush()
    print(json.dumps(report), flush=True)
