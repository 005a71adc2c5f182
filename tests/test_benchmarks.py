"""The harness of the peer comparisons: what it reports follows from what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def peers(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.peers._harness as harness

    monkeypatch.setattr(harness, "PATIENCE", 0.0)  # whatever else this machine does now
    monkeypatch.setattr(harness, "_busy_seconds", lambda: 0.0)
    monkeypatch.setattr(harness, "time", CLOCK)
    return harness


class Clock:
    """Stands where the harness has the module `time`: passes by being slept at, and by nothing else."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0


CLOCK = Clock()


def sleeper(seconds: float, output: float = 1.0):
    def run() -> float:
        CLOCK.sleep(seconds)
        return output

    return run


def comparison(harness, **changes):
    def check(output):
        assert output == pytest.approx(1), "wrong"
        return abs(output - 1)

    values = {
        "unit": "things/s",
        "ours": harness.Contender(10, {"only": sleeper(0.02)}),
        "peers": {
            "slower": harness.Contender(10, {"worst": sleeper(0.16), "best": sleeper(0.08)}),
            "wrong": harness.Contender(10, {"only": sleeper(0.001, 2.0)}),
            "broken": harness.Contender(10, {"only": lambda: 1 / 0}),
            "absent": harness.Absent("not installed"),
        },
        "limit": ("nap", harness.Contender(10, {"only": sleeper(0.01)}, check=False)),
        "check": check,
    }
    return harness.Comparison(**(values | changes))


def test_ratios_and_absent_peers(peers, capsys):
    options = peers.Options(rounds=3, seconds=0.01)
    report = peers.measure("naps", comparison(peers), options)
    assert list(report)[:5] == ["topic", "machine", "ours", "peers", "limit"]
    assert report["cores_of_others"] == 0
    assert report["ours"]["unit"] == "things/s"
    assert report["ours"]["value"] == pytest.approx(500)
    slower = report["peers"]["slower"]
    assert slower["value"] == pytest.approx(125)
    assert slower["ratio"] == pytest.approx(4)
    assert report["limit"]["fraction"] == pytest.approx(0.5)
    assert (
        report["peers"]["wrong"] is report["peers"]["broken"] is report["peers"]["absent"] is None
    )
    notes = capsys.readouterr()
    assert "wrong [only]: AssertionError" in notes.err
    assert "ZeroDivisionError" in notes.err
    assert "absent: not installed" in notes.err
    assert "best" in notes.out
    assert "worst" not in notes.out


def test_units_of_time_turn_the_ratio_round(peers):
    one = {
        name: peers.Contender(1, {"only": sleeper(s)})
        for name, s in (("ours", 0.02), ("other", 0.08))
    }
    report = peers.measure(
        "naps",
        comparison(
            peers,
            ours=one["ours"],
            peers={"other": one["other"]},
            unit="ms",
            better="lower",
            scale=1e3,
        ),
        peers.Options(rounds=2, seconds=0.01),
    )
    assert report["ours"]["value"] == pytest.approx(20)
    assert report["peers"]["other"]["value"] == pytest.approx(80)
    assert report["peers"]["other"]["ratio"] == pytest.approx(4)


def test_disturbed_measurements_are_repeated(peers, monkeypatch):
    busy = iter(
        [0.0, 5.0, 5.0, 6.0, 6.0, 6.0]
    )  # before and after three measurements: 5, 1 and no core seconds of others
    monkeypatch.setattr(peers, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(peers, "PATIENCE", 30.0)
    assert peers.measure_quietly(sleeper(0.01), 0.01).others == 0
    assert next(busy, None) is None


def test_our_own_failure_is_an_error(peers):
    bad = comparison(peers, ours=peers.Contender(1, {"only": sleeper(0.001, 3.0)}))
    with pytest.raises(RuntimeError, match="ours did not run"):
        peers.measure("naps", bad, peers.Options(rounds=1, seconds=0.01))


def test_extras_and_finish(peers, capsys):
    extra = peers.Contender(10, {"only": sleeper(0.04)})
    report = peers.measure(
        "naps",
        comparison(
            peers, extras={"pipeline": extra}, finish=lambda r: {"twice": 2 * r["ours"]["value"]}
        ),
        peers.Options(rounds=1, seconds=0.01),
    )
    assert report["pipeline"]["share_of_ours"] == pytest.approx(0.5)
    assert report["twice"] == 2 * report["ours"]["value"]
    capsys.readouterr()
    peers.emit(report)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == report


def test_command_lists_topics_and_refuses_unknown_ones():
    command = [sys.executable, "-m", "benchmarks.peers"]
    listed = subprocess.run(
        [*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()].count("oxides") == 1
    refused = subprocess.run(
        [*command, "cheese"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert refused.returncode != 0
    assert "there are: " in refused.stderr


def test_operations_of_the_papers_network(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.peers.oxides import network_operations

    assert network_operations(32, 150) == 14_083_200


def test_asv_finds_its_suites():
    text = "\n".join(
        line
        for line in (ROOT / "asv.conf.json").read_text().splitlines()
        if not line.strip().startswith("//")
    )
    configuration = json.loads(text)
    assert configuration["project"] == "lunarray"
    assert configuration["branches"] == ["main"]
    suites = sorted((ROOT / configuration["benchmark_dir"]).glob("bench_*.py"))
    assert {path.stem for path in suites} >= {
        "bench_import",
        "bench_oxides",
        "bench_sp",
        "bench_store",
    }
    for path in suites:
        compile(path.read_text(), str(path), "exec")


def test_checks_of_the_gpu_run_without_one(monkeypatch, capsys):
    """The GPU's code on the CPU gives what the CPU's gives, and what was not run is said."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    from benchmarks import gpu

    assert gpu.main(["--quick", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["checks"]) == [check.__name__ for check in gpu.CHECKS]
    assert report["gpu"] == "not run: no GPU"
    for row in report["checks"].values():
        assert row["gpu"] == "not run: no GPU"
        assert row["cpu"] > 0
        assert row["deviation"] == "the same code" or row["deviation"] <= row["tolerance"] / 10
    broken = gpu.Check("nothing", 0.1, lambda: 1, lambda: 2, lambda a, b: abs(a - b), 1, "calls")
    monkeypatch.setattr(gpu, "graphs", lambda place: broken)
    monkeypatch.setattr(gpu, "CHECKS", (gpu.graphs,))
    gpu.graphs.__name__ = "graphs"
    assert gpu.main(["graphs"]) == 1


def test_suites_run_to_their_end(monkeypatch, tmp_path):
    """All of them are run by ``python -m benchmarks.suites``, which takes minutes."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    from benchmarks import suites

    found = dict(suites.suites(["bench_store"]))
    assert {"bench_store.Store", "bench_store.Resume", "bench_store.Lock"} <= set(found)
    suites.run(found["bench_store.Lock"])

    seen = []

    class Suite:
        params = (["a", "b"], [1, 2])

        def setup(self, word, number):
            if word == "a":
                raise NotImplementedError

        def time_it(self, word, number):
            seen.append((word, number))

    suites.run(Suite)
    assert seen == [("b", 1)]


STAND_IN = """
from types import SimpleNamespace

QUIET = 0.1


class Options(SimpleNamespace):
    pass


class _Entry:
    def __init__(self, name, contender):
        self.contender = contender


def _warm_up(entry, check, least):
    entry.variant, entry.run = "as it was", entry.contender


def _measure_quietly(run, least):
    return SimpleNamespace(seconds=run(), cores=1.5, others=0.0)
"""


def test_ours_of_another_checkout_is_measured_in_its_own_process(peers, tmp_path):
    from benchmarks.peers._before import before

    package = tmp_path / "benchmarks/peers"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "_harness.py").write_text(STAND_IN)
    topic = "import types\nprint('chatter')\nprepare = lambda o: types.SimpleNamespace(ours=lambda: 0.04)\n"
    (package / "naps.py").write_text(topic)
    options = peers.Options(rounds=3, seconds=0.01)
    with before(tmp_path, "naps", options, 10) as other:
        report = peers.measure("naps", comparison(peers, peers={"before": other}), options)
    assert report["peers"]["before"]["value"] == pytest.approx(250)
    assert report["peers"]["before"]["ratio"] == pytest.approx(2)
    (package / "naps.py").write_text("raise SystemExit(1)")
    with (
        pytest.raises(RuntimeError, match="did not run"),
        before(tmp_path, "naps", options, 10),
    ):
        pass
