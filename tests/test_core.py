"""The core alone: in an interpreter to which every package of the extras is closed, what a laptop needs works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lunarray.errors import EXTRAS

pytestmark = pytest.mark.core

CLOSED = f"""
import sys

class Closed:
    "Finds none of the extras' packages, installed or not, as if they were not."
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Closed())
from pathlib import Path
import numpy as np
import xarray as xr
import lunarray as la
"""


def run(code: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED + code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_simulate_condition_invert_store_and_draw(tmp_path):
    code = """
folder = Path(sys.argv[1])
scene = la.simulate.polar_scene("north", resolution=20000, latitude=84)
stored = scene.lunar.to_zarr(folder / "scene.zarr", progress=False)
maps = stored.lunar.condition().lunar.invert_oxides().lunar.to_zarr(folder / "maps.zarr", progress=False)
la.plot.maps(maps[["FeO", "MgO"]], path=folder / "oxides.png")
maps.lunar.to_cog(folder / "cog")
error = (maps["FeO"] - stored["FeO_true"]).compute()
print(float(abs(error).median()))
"""
    (error,) = run(code, tmp_path)
    assert float(error) < 2
    assert (tmp_path / "oxides.png").stat().st_size > 10_000
    assert list((tmp_path / "cog").glob("*.tif"))


def test_fit_elements():
    code = """
highland = {"O": 45.0, "Na": 0.3, "Mg": 3.0, "Al": 14.0, "Si": 21.0, "Ca": 11.0, "Ti": 0.2, "Fe": 5.5}
response, sun = la.simulate.class_response(), la.simulate.thermal_spectrum(1.5, 1e-5)
frames = la.simulate.class_counts(highland, la.simulate.class_orbit(frames=2), sun, response, noise=False)
fit = frames.lunar.fit_elements(sun, response)
print(*(float(fit["abundance"].sel(element=e).mean()) for e in ("Mg", "Al", "Si")))
"""
    (line,) = run(code)
    assert [float(v) for v in line.split()] == pytest.approx([3, 14, 21], rel=0.15)


def test_map_fractures_by_the_embedded_model_with_pictures(tmp_path):
    code = """
settings = la.simulate.NacSettings(fractures=20, melt=0.9, craters=600)
scene = la.simulate.nac_scene((512, 512), settings=settings, seed=77_001, incidence=60, azimuth=200).dataset
found = la.fractures.map_fractures(scene["image"])
lines = la.fractures.vectorize(found)
la.plot.detections(scene["image"], lines, path=Path(sys.argv[1]) / "fractures.png")
print(int((found["mask"] > 0).sum()), len(lines))
"""
    (line,) = run(code, tmp_path)
    assert all(int(count) > 0 for count in line.split())
    assert (tmp_path / "fractures.png").stat().st_size > 10_000


@pytest.mark.realdata
def test_open_real_files(real_data):
    code = """
data = Path(sys.argv[1])
sp = la.open_sp(str(data / "sp" / "*.spc"))
spectra = la.open_class(data / "class" / "l1")
image = la.open_nac(data / "nac" / "M143947267L.cal.echo.crop.cub")[:300, :300]
print(sp.sizes["observation"], spectra.sizes["time"], float(image.isnull().mean()))
print(int(np.isfinite(sp.isel(observation=slice(0, 40)).lunar.condition().lunar.invert_oxides()["FeO"]).sum()))
print(int(la.fractures.map_fractures(image)["mask"].sum()))
"""
    sizes, inverted, fractures = run(code, real_data)
    observations, frames, missing = sizes.split()
    assert int(observations) > 50
    assert int(frames) == len(list((Path(real_data) / "class" / "l1").glob("*.fits")))
    assert float(missing) == 0
    assert int(inverted) > 0
    assert int(fractures) >= 0


NEEDING = {
    "la.oxides.OxideCNN": ("torch", "torch"),
    "la.oxides.load_oxide_cnn()": ("torch", "torch"),
    "la.fractures.train": ("torch", "torch"),
    "la.fractures.deeplabv3()": ("torch", "torch"),
    "import lunarray.superres.training": ("torch", "torch"),
    "baselines.boosted_trees(np.ones((9, 2)), np.ones((9, 1)), np.ones((3, 2)))": ("sklearn", "learn"),
    "footprints.check_footprints_path('a.parquet')": ("pyarrow", "parquet"),
    "la.cluster('slurm', workers=1, memory_limit='1GB').__enter__()": ("dask_jobqueue", "hpc"),
}  # fmt: skip


def test_what_needs_an_extra_names_it():
    code = f"""
from lunarray.superres import baselines
from lunarray.xrf import footprints

for code in {list(NEEDING)}:
    try:
        exec(code)
        print()
    except la.errors.MissingDependencyError as error:
        print(error)
"""
    for line, (package, extra) in zip(run(code), NEEDING.values(), strict=True):
        assert f"needs {package}, which is not installed" in line
        assert line.endswith(f"Install it with: pip install 'lunarray[{extra}]'.")
