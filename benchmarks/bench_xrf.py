"""CLASS X-ray spectra: opening, co-adding, the model, the fit; `python -m benchmarks.bench_xrf` measures a whole day.

The day is simulated: 10 800 frames of 8 s, co-added in sliding windows of twelve and fitted, from Zarr to Zarr on two
threads in a fresh process. Printed are its time, its peak memory and the pulls of the elements that the data constrain.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED, THREADS, dask_threads, needs_lunarray, real_data

#: Frames of a day.
DAY = 10_800
#: Temperature (keV) and flux (W/m²) of the flare that the simulated day is under all the time: a C2 flare, so that no
#: daylit window is spared.
FLARE = (0.9, 2e-6)
#: Real frames, each copied so often, to have a folder of many.
COPIES = 20


def inputs(frames: int, *, chunk: int | None = None) -> tuple[Any, Any, Any, Any]:
    """Simulated frames along an orbit over highlands, with the solar spectrum, response and background they were made
    of."""
    import xarray as xr

    from lunarray.simulate.xrf import class_counts, class_orbit, class_response, thermal_spectrum
    from lunarray.xrf import HIGHLAND

    response, solar = class_response(1024), thermal_spectrum(*FLARE)
    rate = 0.1 * np.exp(-np.arange(1024) / 400)
    exposure = 400_000.0
    # The fit gets counts that were drawn, as a measured background is, not the rate itself.
    drawn = np.random.default_rng(SEED).poisson(rate * exposure)
    one = {"exposure": exposure, "n_detectors": 16.0}
    truth = xr.Dataset({"counts": ("channel", rate * exposure), **one})
    background = xr.Dataset({"counts": ("channel", drawn.astype("f8")), **one})
    orbit = class_orbit(frames=frames, first_latitude=-60.0, subsolar_longitude=20.0)
    ds = class_counts(HIGHLAND, orbit, solar, response, background=truth, seed=SEED)
    ds = ds.drop_vars("expected")
    return ds if chunk is None else ds.chunk(time=chunk), solar, response, background


class Model:
    """One evaluation of the model and one fit of a co-added spectrum, one thread."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.xrf.fit import fit_spectrum as fit
            from lunarray.xrf.kernels import intensity_kernel  # noqa: F401
            from lunarray.xrf.model import SpectralModel
            from lunarray.xrf.settings import FitSettings, Geometry, Observation

            frames, solar, response, background = inputs(12)
        counts = frames["counts"].values.sum(axis=0, dtype="f8")
        band = slice(*np.searchsorted(response.channel_energy(), (0.9, 4.2)).tolist())
        sun = tuple(solar[name].values for name in ("energy_lo", "energy_hi", "photon_flux"))
        angle = float(frames["incidence"].mean())
        self.model = SpectralModel(response, sun, Geometry(angle, 0.0, angle), channels=band)
        self.data = Observation(counts, 96.0, background["counts"].values, 400_000.0)
        self.settings, self.fit = FitSettings(statistic="wstat"), fit
        self.weights = fit(self.data, self.model, self.settings).weights
        self.time_evaluation()

    def time_evaluation(self) -> None:
        self.model.counts(self.weights, 1.0, 1.0)

    def time_fit(self) -> None:
        self.fit(self.data, self.model, self.settings)

    def peakmem_fit(self) -> None:
        self.fit(self.data, self.model, self.settings)


class Windows:
    """`coadd` and `fit_elements` of N consecutive frames."""

    timeout = 600
    params = (("memory", "dask"), (200, 1000))
    param_names = ("input", "frames")

    def setup(self, kind: str, frames: int) -> None:
        with needs_lunarray():
            from lunarray.xrf import coadd, fit_elements

            self.coadd, self.fit_elements = coadd, fit_elements
            self.frames, *self.others = inputs(frames, chunk=256 if kind == "dask" else None)
        few = coadd(self.frames.isel(time=slice(24)), window=12)
        fit_elements(few, *self.others).compute()
        self.windows = coadd(self.frames, window=12)
        if kind == "memory":
            self.windows = self.windows.compute()

    def _coadd(self) -> None:
        with dask_threads():
            self.coadd(self.frames, window=12)["counts"].compute()

    def _fit(self) -> None:
        with dask_threads():
            self.fit_elements(self.windows, *self.others).compute()

    def time_coadd(self, kind: str, frames: int) -> None:
        self._coadd()

    def peakmem_coadd(self, kind: str, frames: int) -> None:
        self._coadd()

    def time_fit(self, kind: str, frames: int) -> None:
        self._fit()

    def peakmem_fit(self, kind: str, frames: int) -> None:
        self._fit()


class Running:
    """`coadd` by the running check: three Gaussians are fitted to every sum on the way."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.xrf import coadd

            self.coadd = coadd
            self.frames = inputs(300)[0]
        coadd(self.frames.isel(time=slice(24)), "running")

    def time_running(self) -> None:
        self.coadd(self.frames, "running")

    def peakmem_running(self) -> None:
        self.coadd(self.frames, "running")


class Open:
    """`open_class` on a folder of many real frames."""

    timeout = 300

    def setup_cache(self) -> str:
        """Copies of real frames, eight seconds apart."""
        from astropy.io import fits

        folder = Path("class_l1").resolve()
        folder.mkdir(exist_ok=True)
        start, number = np.datetime64("2022-01-01T00:00:00", "ms"), 0
        for frame in sorted((real_data() / "class" / "l1").glob("*.fits")):
            with fits.open(frame) as hdus:
                hdus.verify("silentfix+ignore")
                for _ in range(COPIES):
                    begin = start + 8000 * number
                    hdus[1].header["STARTIME"] = str(begin)
                    hdus[1].header["ENDTIME"] = str(begin + 8000)
                    hdus.writeto(
                        folder / f"ch2_cla_l1_{number:06d}.fits",
                        overwrite=True,
                        output_verify="silentfix+ignore",
                    )
                    number += 1
        if not number:
            raise NotImplementedError("no CLASS frames among the real instrument files")
        return str(folder)

    def setup(self, folder: str) -> None:
        with needs_lunarray():
            import lunarray

            self.open_class = lunarray.open_class
        self.open_class(sorted(Path(folder).iterdir())[:8], errors="skip")

    def _read(self, folder: str) -> None:
        with dask_threads():
            self.open_class(folder, errors="skip")["counts"].compute()

    def time_open(self, folder: str) -> None:
        self.open_class(folder, errors="skip")

    def time_read(self, folder: str) -> None:
        self._read(folder)

    def peakmem_read(self, folder: str) -> None:
        self._read(folder)


# ---------- a whole day
def _run_day(folder: Path, frames: int) -> None:
    """From Zarr to Zarr; the last line printed is the measurement."""
    import lunarray as la
    import lunarray.xrf as xrf

    _, *others = inputs(1)
    with dask_threads():
        begin = time.perf_counter()
        windows = xrf.coadd(xrf.flag_frames(la.open_zarr(folder / "day.zarr")), window=12)
        xrf.fit_elements(windows, *others).lunar.to_zarr(folder / "elements.zarr")
        seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": _peak()}))


def _peak() -> float:
    """Peak memory of this process, MiB. What getrusage says of a new process begins with its parent's memory."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _pulls(found: Any, text: str) -> None:
    """Mean and width of (found - true) / error where the data constrain the element."""
    import lunarray.xrf as xrf
    from lunarray.xrf.settings import ELEMENT_FLAGS, FIT_FLAGS

    quality = found["quality"].values
    fitted = (quality & 511) == 0
    raised = {name: int(((quality & bit) > 0).sum()) for name, bit in FIT_FLAGS.items()}
    print(f"\n{text}: {fitted.size} windows, {int(fitted.sum())} fitted")
    print("flags: " + ", ".join(f"{name} {count}" for name, count in raised.items() if count))
    print("element  true   mean   median error       pull: mean ± its error   width      n")
    for element in xrf.ELEMENTS:
        own = found.sel(element=element)
        error, value = (own[name].values for name in ("abundance_std", "abundance"))
        weak = (own["element_flags"].values & ELEMENT_FLAGS["not_constrained"]) > 0
        use = fitted & ~weak & np.isfinite(error)
        if use.sum() < 20:
            continue
        pull = (value[use] - xrf.HIGHLAND[element]) / error[use]
        print(
            f"{element:7s} {xrf.HIGHLAND[element]:5.1f} {value[use].mean():6.2f}   {np.median(error[use]):12.2f}"
            f"   {pull.mean():+15.3f} ± {pull.std() / np.sqrt(pull.size):.3f}   {pull.std():.3f} {pull.size:6d}"
        )


def main(frames: int = DAY) -> None:
    """Simulate a day, run it, and say how long it took and what was found."""
    with tempfile.TemporaryDirectory(prefix="lunarray-day-") as name:
        folder = Path(name)
        inputs(frames, chunk=1024)[0].lunar.to_zarr(folder / "day.zarr")
        # In a process of its own: its peak memory is not that of the simulation.
        command = [sys.executable, "-m", "benchmarks.bench_xrf", "--run", name, str(frames)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = json.loads(output.strip().splitlines()[-1])
        print(
            f"{frames} frames, {THREADS} threads: {measured['seconds']:.1f} s "
            f"({measured['cpu']:.0f} s of CPU), peak {measured['peak']:.0f} MiB"
        )
        import lunarray as la
        import lunarray.xrf as xrf
        from lunarray.xrf.settings import FitSettings

        # Sliding windows share frames, so that means of their pulls are less certain than their number says.
        sliding = la.open_zarr(folder / "elements.zarr").load()
        _pulls(sliding, "sliding windows")
        _pulls(sliding.isel(time=slice(None, None, 12)), "of them those that share no frame")
        _, *others = inputs(1)
        frames_ = la.open_zarr(folder / "day.zarr")
        windows = xrf.coadd(xrf.flag_frames(frames_), window=12).isel(time=slice(None, None, 12))
        frozen = FitSettings(statistic="wstat", frozen=("O", "Fe", "Ti", "Na"))
        with dask_threads():
            again = xrf.fit_elements(windows, *others, settings=frozen).compute()
        _pulls(again, "the same, Fe, Ti and Na frozen: no prior takes part")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        _run_day(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
