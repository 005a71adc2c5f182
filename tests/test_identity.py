"""What a result depends on: changes of it are seen, and nothing else is taken for a change."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr

import lunarray
from lunarray import engine, errors, geo, versions
from lunarray.store import describe, to_zarr

SEEDS = int(os.environ.get("LUNARRAY_CHANGES", "30"))


def load_gain(path, device):
    gain = np.float32(Path(path).read_text())
    return lambda pixels: gain * pixels[:, :1]


def cube(seed=0) -> xr.Dataset:
    values = np.random.default_rng(seed).random((4, 32, 32), dtype=np.float32)
    data = da.from_array(values, chunks=(-1, 16, 16))
    coords = {"wavelength": np.arange(4) * 10.0, "y": np.arange(32.0), "x": np.arange(32.0)}
    return xr.Dataset({"spectra": (("wavelength", "y", "x"), data)}, coords)


def write_raster(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).random((32, 32), dtype=np.float32)
    transform = rasterio.Affine(500, 0, 0, 0, -500, 0)
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": 32, "width": 32}
    with rasterio.open(path, "w", **profile, transform=transform, crs="IAU_2015:30130") as file:
        file.write(values, 1)


@dataclass
class World:
    """What the result is made from, and where."""

    folder: Path
    cube: Any
    raster: Any
    weights: Any
    batch: int = 64
    factor: float = 2.0

    def result(self) -> xr.Dataset:
        spec = engine.ModelSpec.from_file(
            f"{__name__}:load_gain", self.weights, outputs=1, device="cpu"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.LunarrayWarning)
            spectra = lunarray.open_zarr(self.cube).spectra.data
        raster = geo.open_raster(self.raster, bands=1, chunks=16).data
        mapped = engine.map_pixels(spec, spectra, batch_size=self.batch)[0]
        return xr.Dataset({"gain": (("y", "x"), mapped + self.factor * raster)})


@pytest.fixture
def world(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    to_zarr(cube(), folder / "cube.zarr")
    write_raster(folder / "raster.tif", 0)
    (folder / "weights.txt").write_text("2")
    return World(folder, folder / "cube.zarr", folder / "raster.tif", folder / "weights.txt")


def keeping_times(file: Path, change: Any) -> None:
    """Change a file and set its time back, as a careless tool does."""
    status = file.stat()
    change(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


# --- changes that make another result -------------------------------------------------------------


def region_of_the_input(world, rng, patch):
    y, x = 16 * rng.integers(2, size=2)
    part = xr.Dataset(
        {"spectra": (("wavelength", "y", "x"), np.full((4, 16, 16), rng.random(), "f4"))}
    )
    region = {"wavelength": slice(None), "y": slice(y, y + 16), "x": slice(x, x + 16)}
    times = {f: f.stat() for f in world.cube.rglob("*")}
    part.to_zarr(world.cube, region=region, consolidated=False)
    for file, status in times.items():
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def input_overwritten(world, rng, patch):
    to_zarr(cube(seed=int(rng.integers(1, 99))), world.cube, overwrite=True)


def raster_of_other_pixels(world, rng, patch):
    keeping_times(world.raster, lambda file: write_raster(file, int(rng.integers(1, 99))))


def one_bit_of_the_raster(world, rng, patch):
    def flip(file):
        data = bytearray(file.read_bytes())
        data[-int(rng.integers(1, 4000))] ^= 1
        file.write_bytes(data)

    keeping_times(world.raster, flip)


def other_weights(world, rng, patch):
    keeping_times(world.weights, lambda file: file.write_text(str(rng.integers(3, 9))))


def other_batch_size(world, rng, patch):
    world.batch = int(rng.integers(1, 64))


def other_factor(world, rng, patch):
    world.factor = float(rng.integers(3, 99))


def numbers_of_a_room_it_uses(world, rng, patch):
    room = str(rng.choice(["engine", "geo"]))
    patch.setitem(versions.NUMERIC_VERSION, room, 2)


def another_cube_at_the_same_place(world, rng, patch):
    shutil.rmtree(world.cube)
    to_zarr(cube(seed=int(rng.integers(1, 99))), world.cube)


# --- changes that make the same -------------------------------------------------------------------


def touched(world, rng, patch):
    when = int(rng.integers(10**9))
    for file in (*world.folder.rglob("*"), world.cube):
        os.utime(file, (when, when))


def moved(world, rng, patch):
    elsewhere = world.folder.with_name(f"elsewhere{rng.integers(99)}")
    world.folder.rename(elsewhere)
    world.cube, world.raster = elsewhere / "cube.zarr", elsewhere / "raster.tif"
    world.weights = elsewhere / "weights.txt"


def copied_under_other_names(world, rng, patch):
    names = [world.folder / f"{rng.integers(10**6)}{s}" for s in (".zarr", ".tif", ".txt")]
    shutil.copytree(world.cube, names[0])
    shutil.copy(world.raster, names[1])
    shutil.copy(world.weights, names[2])
    world.cube, world.raster, world.weights = names


def by_links(world, rng, patch):
    links = [world.folder / f"link{i}" for i in range(3)]
    for link, target in zip(links, (world.cube, world.raster, world.weights), strict=True):
        link.symlink_to(target)
    world.cube, world.raster, world.weights = links


def by_relative_paths(world, rng, patch):
    patch.chdir(world.folder)
    world.cube, world.raster, world.weights = "cube.zarr", "./raster.tif", "weights.txt"


def written_again(world, rng, patch):
    to_zarr(cube(), world.cube, overwrite=True)


def numbers_of_a_room_it_does_not_use(world, rng, patch):
    patch.setitem(versions.NUMERIC_VERSION, str(rng.choice(["xrf", "fractures"])), 2)


def another_folder_of_work(world, rng, patch):
    patch.chdir(world.folder.parent)


OTHER = [
    region_of_the_input, input_overwritten, raster_of_other_pixels, one_bit_of_the_raster, other_weights,
    other_batch_size, other_factor, numbers_of_a_room_it_uses, another_cube_at_the_same_place,
]  # fmt: skip
SAME = [
    touched, moved, copied_under_other_names, by_links, by_relative_paths, written_again,
    numbers_of_a_room_it_does_not_use, another_folder_of_work,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_stale_result_and_no_false_conflict(world, tmp_path, monkeypatch, seed):
    kinds = OTHER + SAME
    change = kinds[seed % len(kinds)]
    out = tmp_path / "out.zarr"
    to_zarr(world.result(), out)
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*")}
    change(world, np.random.default_rng(seed), monkeypatch)
    if change in SAME:
        to_zarr(world.result(), out)
        assert {f: f.stat().st_mtime_ns for f in out.rglob("*")} == before
    else:
        with pytest.raises(errors.StoreConflictError, match="differ"):
            to_zarr(world.result(), out)
        anew = to_zarr(world.result(), out, overwrite=True)
        fresh = to_zarr(world.result(), tmp_path / "fresh.zarr")
        np.testing.assert_array_equal(anew.gain, fresh.gain)


def test_a_corrected_input_is_seen(tmp_path):
    """Another program corrects a part of the input: the corrected values are read, and the result is not kept."""
    source, out = tmp_path / "in.zarr", tmp_path / "out.zarr"
    to_zarr(cube(), source)
    to_zarr(lunarray.open_zarr(source) * 2, out)
    part = xr.Dataset({"spectra": (("wavelength", "y", "x"), np.full((4, 16, 16), -1, "f4"))})
    region = {"wavelength": slice(None), "y": slice(0, 16), "x": slice(0, 16)}
    part.to_zarr(source, region=region, consolidated=False)
    with pytest.warns(errors.LunarrayWarning, match="another program has written 1 object"):
        opened = lunarray.open_zarr(source)
    assert (opened.spectra[:, :16, :16] == -1).all()
    with pytest.raises(errors.StoreConflictError, match="the input differs"):
        to_zarr(opened * 2, out)
    anew = to_zarr(opened * 2, out, overwrite=True)
    assert (anew.spectra[:, :16, :16] == -2).all()


def test_content_id_is_that_of_the_bytes(tmp_path):
    to_zarr(cube(), tmp_path / "a.zarr")
    to_zarr(cube(), tmp_path / "b.zarr", token="another name for it")
    to_zarr(cube(seed=1), tmp_path / "c.zarr")
    a, b, c = (describe(tmp_path / f"{name}.zarr").content_id for name in "abc")
    assert a == b != c
    assert lunarray.open_zarr(tmp_path / "a.zarr").encoding["content_id"] == a
    names = {lunarray.open_zarr(tmp_path / f"{n}.zarr").spectra.data.name for n in "abc"}
    assert len(names) == 2


def test_a_store_that_is_missing_numbers_of_a_room_has_another_identity(monkeypatch):
    from lunarray.engine.graph import rooms_of
    from lunarray.oxides import invert_oxides

    scene = lunarray.simulate.polar_scene("north", latitude=89, resolution=2000).chunk(y=8)
    maps = invert_oxides(scene)
    rooms = rooms_of([v.data for v in maps.data_vars.values()])
    assert {"oxides", "simulate"} & rooms
    assert "xrf" not in rooms
