"""A month of CLASS frames to maps: time, memory, and whether a run that is killed ends as one that is not.

    python -m benchmarks.xrf_month FOLDER [--days 30]

Writes simulated frames under FOLDER/pradan, 120 of a flare and 250 of the night a day, many a flare over midnight;
maps them by `lunarray map-elements` in one go, and again in a process that is killed after a third of the days and then
gone on with, and compares the two. Ground is highlands with a mare of which everything is known.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import lunarray as la
from lunarray import simulate, xrf
from lunarray.xrf.constants import ELEMENTS
from lunarray.xrf.response_files import write_response

SHOWN = ("Mg", "Al", "Si", "Ca", "Ti", "Fe")
FLARE, NIGHT = 120, 250


def ground(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Highlands with a round mare of 15 degrees, wt% (..., element)."""
    share = 1.0 / (1.0 + np.exp((np.hypot(lon - 5.0, lat - 8.0) - 15.0) / 1.5))
    highland, mare = (np.array([found[e] for e in ELEMENTS]) for found in (xrf.HIGHLAND, xrf.MARE))
    return highland + share[..., None] * (mare - highland)


def make(folder: Path, days: int) -> None:
    """Frames of so many days, and the response that they are made with."""
    response = simulate.class_response(1024, fwhm=0.142)
    write_response(response, folder / "class.rmf", folder / "class.arf", overwrite=True)
    # A flare with lines, as the Sun has them: without, what is believed to be scattered light is taken from silicon.
    sun = xrf.window_suns(simulate.class_orbit(frames=1)).isel(time=0)
    back = xr.Dataset(
        {"counts": ("channel", 8.0 * np.exp(-np.arange(1024) / 400)), "exposure": 80.0, "n_detectors": 16.0}
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for day in range(days):
        date = np.datetime64("2024-01-01") + day
        # Any time of the day; each third one passes midnight.
        at = "23:52:00" if day % 3 == 0 else f"{rng.integers(14, 20):02d}:00:00"
        for k, (when, number, subsolar) in enumerate(
            (("08:00:00", NIGHT, 180.0), (at, FLARE, 0.0))
        ):
            orbit = simulate.class_orbit(
                f"{date}T{when}", number, first_latitude=-18.0, node_longitude=4.0 * (day - days / 2),
                subsolar_longitude=subsolar,
            )  # fmt: skip
            peak = orbit["time"].values[int(rng.integers(20, 50))]
            flare = rng.uniform(0.3, 2.0) * simulate.flare_profile(orbit["time"], peak)
            made = simulate.class_counts(
                ground, orbit, sun, response, flare=flare, background=back, seed=2 * day + k, samples=2
            )  # fmt: skip
            simulate.write_class_frames(made, folder / "pradan")


def command(folder: Path, output: str) -> list[str]:
    given = ("--rmf", folder / "class.rmf", "--arf", folder / "class.arf", "--resolution", "0.5")
    words = ("map-elements", folder / "pradan", "-o", folder / output, *given)
    return [sys.executable, "-m", "lunarray", *map(str, words)]


def measured(words: list[str]) -> str:
    """Run a command; its wall and CPU seconds, and the most memory that it took."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{time.perf_counter() - begin:.0f} s, CPU {cpu:.0f} s, at most {after.ru_maxrss / 2**10:.0f} MB"


def killed(folder: Path, output: str, days: int) -> str:
    """Run it, kill it when a third of the days is done, and run it again."""
    from lunarray.store import open_zarr

    with subprocess.Popen(command(folder, output)) as process:
        done = 0
        while done < days // 3 and process.poll() is None:
            time.sleep(1.0)
            for place in folder.glob(f"{output}/.elements-days.zarr*"):
                # It is being written, and may make no sense for a moment.
                with warnings.catch_warnings(), suppress(Exception):
                    warnings.simplefilter("ignore")
                    done = open_zarr(place, incomplete=True).sizes["day"]
        process.send_signal(signal.SIGKILL)
    return f"killed when {done} days were done; then {measured(command(folder, output))}"


def same(folder: Path, outputs: Any) -> None:
    """Whether stores hold the same, and how far what was found is from the truth."""
    ds, other = (la.open_zarr(folder / name / "elements.zarr").load() for name in outputs)
    xr.testing.assert_equal(ds, other)
    maps = [la.open_zarr(folder / name / "maps.zarr").load() for name in outputs]
    xr.testing.assert_equal(*maps)
    crossing = ds["start"].values.astype("M8[D]") != ds["end"].values.astype("M8[D]")
    again = np.unique(ds["start"].values).size
    print(
        f"stores and maps are equal: {ds.sizes['time']:,} windows, {crossing.sum()} over midnight; {again:,} starts"
    )
    good = (ds["quality"].values & 511) == 0
    truth = ground(ds["lon"].values, ds["lat"].values)
    for element in SHOWN:
        own = ds.sel(element=element)
        apart = (own["abundance"].values - truth[:, ELEMENTS.index(element)])[good]
        z = apart / own["abundance_std"].values[good]
        spread = f"rms {np.sqrt(np.mean(apart**2)):.2f}, rms z {np.sqrt(np.nanmean(z**2)):.2f}"
        print(f"  {element}: mean {apart.mean():+.2f} wt%, {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    folder, days = given.folder, given.days
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    if not (folder / "class.arf").exists():
        make(folder, days)
    number = sum(1 for _ in folder.glob("pradan/**/*.fits"))
    print(
        f"{number:,} frames of {days} days, made in {time.process_time() - begin:.0f} s of CPU",
        flush=True,
    )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    print(f"in one go: {measured(command(folder, 'whole'))}", flush=True)
    print(f"stopped:   {killed(folder, 'stopped', days)}", flush=True)
    same(folder, ("whole", "stopped"))


if __name__ == "__main__":
    main()
