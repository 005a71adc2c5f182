"""The report of a run that wrote a store: what was done, what failed, how fast, with how much memory."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lunarray.engine.execution import Outcome
from lunarray.engine.files import local_path
from lunarray.engine.tables import html_table
from lunarray.errors import InputError, store_errors

_last: RunReport | None = None


@dataclass
class RunReport:
    """What happened in one call that wrote to a store.

    Parameters
    ----------
    store : str
        Path.
    status : str
        "complete", "complete with gaps" (regions left NaN) or "stopped".
    started, ended : str
        UTC.
    seconds : float
    lunarray_version : str
    error : str or None
        What stopped it.
    scheduler : dict
        Kind, workers, threads, resource labels.
    regions : dict
        ``total``, ``there_before``, ``written``, ``failed`` (missing in whole or in part).
    pixels : int
        Of the regions written, along the axes that are cut.
    pixels_per_s : float
    bytes_written : int
        Before compression.
    retries, lost_workers : int
    failures : list of dict
        For each region that failed: ``variables``, ``index``, ``extent`` (pixels along each axis), ``stage``,
        ``error``, ``message``, ``attempts``, ``where``.
    stages : dict
        Seconds, summed over threads: "model", "write" and others that kernels name; "read and rearrange" is the rest.
    tasks : dict
        For each kind of Dask task: count, seconds of computing and of moving data.
    busy : float or None
        Share of the threads' time spent on tasks.
    memory : dict
        ``peak`` (bytes, the largest process) and ``processes``: for each, its peak and its resident memory at the ends
        of its regions (first, last, largest).
    events : list of dict
        Retries, smaller batches and the like.
    manifest : dict
        Digests of input, models and parameters.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("sp_orbit").lunar.condition().lunar.to_zarr("spectra.zarr")
    >>> report = la.engine.last_report()
    >>> report.error is None
    True
    """

    store: str
    status: str
    started: str
    ended: str
    seconds: float
    lunarray_version: str
    error: str | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    pixels: int = 0
    pixels_per_s: float = 0.0
    bytes_written: int = 0
    retries: int = 0
    lost_workers: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    busy: float | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)

    def account(self, outcome: Outcome) -> None:
        """Add up what the processes told."""
        self.scheduler = outcome.scheduler
        self.retries, self.lost_workers = outcome.retries, outcome.lost_workers
        self.tasks = outcome.tasks
        stages: dict[str, dict[str, float]] = {}
        processes: dict[str, dict[str, Any]] = {}
        for record in outcome.records:
            for name, (count, seconds) in record["stages"].items():
                entry = stages.setdefault(name, {"count": 0, "seconds": 0.0})
                entry["count"] += count
                entry["seconds"] += seconds
            self.events += record["events"]
            if record["dropped"]:
                self.events.append(
                    {"event": "dropped", "message": f"{record['dropped']} more", "process": record["process"]}
                )  # fmt: skip
            seen = processes.setdefault(
                record["process"], {"peak": 0, "first": record["rss"], "largest": 0, "regions": 0}
            )
            seen["peak"] = max(seen["peak"], record["peak"])
            seen["largest"] = max(seen["largest"], record["rss"])
            seen["last"] = record["rss"]
            seen["regions"] += "region" in record
        self.events.sort(key=lambda event: event.get("time", 0))
        self.memory = {
            "peak": max((p["peak"] for p in processes.values()), default=0),
            "processes": processes,
        }
        computing = sum(task["compute"] for task in self.tasks.values())
        known = sum(stage["seconds"] for stage in stages.values())
        if computing:
            stages["read and rearrange"] = {
                "count": sum(task["count"] for task in self.tasks.values()),
                "seconds": max(0.0, computing - known),
            }
        self.stages = stages
        threads = self.scheduler.get("threads")
        self.busy = computing / (threads * self.seconds) if threads and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the report, and give the files.

        `path`: ``*.json``, ``*.html``, or a folder for ``report.json`` and ``report.html``. StoreError if it cannot be
        written.
        """
        files = report_files(path)
        remedy = "Choose another place for the report; the store is not concerned"
        with store_errors("the run report cannot be written", path, remedy):
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                plain = file.suffix == ".json"
                text = json.dumps(self.to_dict(), indent=1, default=str) if plain else self.html()
                partial = file.with_name(f".{file.name}.{os.getpid()}")
                partial.write_text(text, encoding="utf-8")
                os.replace(partial, file)
        return files

    def html(self) -> str:
        """Give the report as one page that needs nothing else."""
        parts = [
            "<!DOCTYPE html><html lang='en'><meta charset='utf-8'>",
            f"<title>{html.escape(Path(self.store).name)}: {html.escape(self.status)}</title>",
            "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}"
            "table{border-collapse:collapse;margin:0 0 2em}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;"
            "text-align:left;vertical-align:top}td.n{text-align:right}</style>",
            f"<h1>{html.escape(Path(self.store).name)}</h1>",
            html_table((), self._rows()),
        ]
        for title, head, body in self._tables():
            parts += [f"<h2>{title}</h2>", html_table(head, body)]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        """What a notebook shows: the upper part, and the first failures."""
        found = html_table((), self._rows(), caption=f"Run: {Path(self.store).name}")
        if self.failures:
            title, head, body = next(self._tables())
            found += html_table(head, body, caption=title, most=10)
        return found

    def _rows(self) -> list[tuple[str, str]]:
        regions = self.regions
        return [
            ("Store", self.store),
            ("Status", self.status + (f": {self.error}" if self.error else "")),
            ("Started, ended", f"{self.started}, {self.ended} ({self.seconds:.1f} s)"),
            (
                "Regions",
                f"{regions.get('written', 0)} written, {regions.get('there_before', 0)} there before, "
                f"{regions.get('failed', 0)} failed, of {regions.get('total', 0)}",
            ),
            ("Pixels", f"{self.pixels:,} ({self.pixels_per_s:,.0f} a second)"),
            ("Written", f"{self.bytes_written / 1e6:,.1f} MB before compression"),
            ("Retries", f"{self.retries}; workers that left: {self.lost_workers}"),
            ("Peak memory", f"{self.memory.get('peak', 0) / 2**20:,.0f} MiB in one process"),
            ("Busy", "unknown" if self.busy is None else f"{100 * self.busy:.0f} % of the threads' time"),
            ("Scheduler", ", ".join(f"{k}: {v}" for k, v in self.scheduler.items() if v not in (None, {}))),
            ("Input", self.manifest.get("input", "")),
            *(("Model", f"{m['loader']}, sha256 {m['sha256']}") for m in self.manifest.get("models", [])),
            ("lunarray", self.lunarray_version),
        ]  # fmt: skip

    def _tables(self) -> Iterator[tuple[str, tuple[str, ...], list[Any]]]:
        """Title, heads of the columns, and rows."""
        if self.failures:
            head = ("region", "pixels", "stage", "error", "attempts", "variables")
            yield (
                f"Failures ({len(self.failures)})",
                head,
                [
                    (
                        ", ".join(map(str, f["index"])),
                        ", ".join(f"{k} {a}–{b}" for k, (a, b) in f["extent"].items()),
                        f["stage"],
                        f"{f['error']}: {f['message']}",
                        f["attempts"],
                        ", ".join(f["variables"]),
                    )
                    for f in self.failures
                ],
            )
        stages = [(n, s["count"], f"{s['seconds']:.2f}") for n, s in self.stages.items()]
        yield "Stages", ("stage", "times", "seconds"), stages
        tasks = [
            (n, int(t["count"]), f"{t['compute']:.2f}", f"{t['transfer']:.2f}")
            for n, t in self.tasks.items()
        ]
        yield "Tasks", ("kind", "tasks", "computing (s)", "moving data (s)"), tasks
        columns = ("peak", "first", "last", "largest")
        processes = [
            (name, p["regions"], *(f"{p[k] / 2**20:.0f}" for k in columns))
            for name, p in self.memory.get("processes", {}).items()
        ]
        head = ("process", "regions", "peak", "after the first region", "after the last", "largest")
        yield "Memory (MiB)", head, processes
        if self.events:
            events = [(e["event"], e.get("process", ""), e["message"]) for e in self.events]
            yield f"Events ({len(events)})", ("event", "process", "message"), events
        if steps := self.manifest.get("parameters"):
            values = [(s["step"], ", ".join(s["values"])) for s in steps]
            yield "Parameters", ("step", "values"), values


def report_files(path: str | os.PathLike[str]) -> list[Path]:
    """Tell where the report goes, `path` being as in :meth:`RunReport.save`; InputError if a file of another kind."""
    path = local_path(path)
    if path.suffix in (".json", ".html"):
        return [path]
    if path.suffix and not path.is_dir():
        raise InputError(
            f"a run report cannot be written as {path.suffix}",
            where=path,
            remedy="Name a .json or .html file, or a folder for both",
        )
    return [path / "report.json", path / "report.html"]


def last_report() -> RunReport | None:
    """Give the report of the last call in this process that wrote a store, whether it succeeded or not.

    Returns
    -------
    RunReport or None
        None before the first.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("sp_orbit").lunar.condition().lunar.to_zarr("spectra.zarr")
    >>> la.engine.last_report().status
    'complete'
    """
    return _last


def remember(report: RunReport) -> None:
    """Keep a report for :func:`last_report`."""
    global _last
    _last = report


def failure_rows(
    failures: list[dict[str, Any]], places: Mapping[Any, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Say of each failure of an Outcome which region it was.

    `places`: from key to ``variables``, ``index`` and ``extent``.
    """
    return [
        {**places[f["key"]], **{k: v for k, v in f.items() if k != "key"}}
        for f in sorted(failures, key=lambda f: str(f["key"]))
    ]
