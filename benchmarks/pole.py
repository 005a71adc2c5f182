"""Ten million footprints of one pole as files: store, grid at 500 m, invert; minutes, and peak memory.

    python -m benchmarks.pole --footprints 10_000_000 --work FOLDER      # the whole
    python -m benchmarks.pole --footprints 100_000 --work FOLDER         # a try

The files are products of version 03, a label beside each, as the archive has them: strips of 2000 footprints along
orbits over the north pole. They are written in batches, taken in by ``sp_to_zarr`` and deleted, so that 13 GB of
files, which no step needs twice, never lie on the disk together. REF1, REF2, RAD and RAW of a product are one and the
same array, and its QA another: what is read is as much as of real products; what is simulated is less.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Footprints of a product; of a batch of products.
STRIP, BATCH = 2000, 1_000_000
#: Columns of the ancillary table that lunarray reads: name and bytes.
_COLUMNS = (
    ("SPACECRAFT_CLOCK_COUNT", 8), ("SPACECRAFT_ALTITUDE", 4), ("CENTER_LATITUDE", 8),
    ("CENTER_LONGITUDE", 8), ("EMISSION_ANGLE", 4), ("INCIDENCE_ANGLE", 4),
    ("SOLAR_AZIMUTH_ANGLE", 4), ("PHASE_ANGLE", 4),
)  # fmt: skip
_BANDS = 296


def wavelengths() -> np.ndarray:
    """Channels of VIS, NIR1 and NIR2, one after the other, nm."""
    from lunarray.sp import WAVELENGTHS_160

    return np.concatenate([
        WAVELENGTHS_160[:73], 950.6 + 6.0 * np.arange(11), 883.5 + 8.0 * np.arange(9),
        WAVELENGTHS_160[73:], [1652.1, 1660.1, 1668.3, 1676.0], 1702.1 + 7.8 * np.arange(112),
    ])  # fmt: skip


def palette(count: int = 512) -> np.ndarray:
    """Spectra of some simulated soils on the channels, as stored (1e-4), SP's scale and errors in them."""
    from lunarray import simulate

    nm = wavelengths()
    order = np.unique(np.clip(nm, 500, 1800).round(1))
    soils = simulate.soils(count, 7, order)
    seen = simulate.add_sp_errors(soils.reflectance, 8, smooth=False).values
    column = np.searchsorted(order, np.clip(nm, 500, 1800).round(1))
    return np.clip(seen[:, column] * 1e4, 1, 65535).astype(">u2")


def strip(number: int, rows: int, colours: np.ndarray) -> tuple[np.ndarray, bytes, bytes]:
    """One product: its ancillary table, reflectance and quality."""
    rng = np.random.default_rng((11, number))
    table = np.zeros(rows, [(name, f">f{size}") for name, size in _COLUMNS])
    along = np.linspace(0, 1, rows)
    table["SPACECRAFT_CLOCK_COUNT"] = 9e8 + 3600.0 * number + 0.09 * np.arange(rows)
    # From 65° up to the pole or past it, and the longitudes of orbits that precess.
    nearest = 90 - rng.uniform(0, 3)
    table["CENTER_LATITUDE"] = 65 + (nearest - 65) * along
    table["CENTER_LONGITUDE"] = (number * 137.508 + 4 * along) % 360
    table["INCIDENCE_ANGLE"] = table["CENTER_LATITUDE"] * 0.9 + rng.uniform(-2, 2)
    table["PHASE_ANGLE"] = table["INCIDENCE_ANGLE"]
    table["SPACECRAFT_ALTITUDE"] = 100
    which = (number + (np.arange(rows) // 50)) % len(colours)
    noise = rng.normal(1, 0.004, (rows, 1)).astype(np.float32)
    spectra = (colours[which].astype(np.float32) * noise).astype(">u2")
    quality = np.full((rows, _BANDS), 0x120, ">u2")
    return table, spectra.tobytes(), quality.tobytes()


def write(folder: Path, number: int, rows: int, colours: np.ndarray) -> None:
    """Write one product of a strip, and its label."""
    write_product(folder, f"SP_2C_03_{number:06d}", number, *strip(number, rows, colours))


def write_product(
    folder: Path, name: str, orbit: int, table: np.ndarray, spectra: bytes, quality: bytes
) -> None:
    """Write a product of version 03 and its label; all its spectra are one and the same array."""
    rows = len(table)
    wave = np.round(wavelengths() * 10).astype(">u2").tobytes()
    parts = {"ANCILLARY_AND_SUPPLEMENT_DATA": table.tobytes(), "SP_SPECTRUM_WAV": wave}
    parts |= {"SP_SPECTRUM_REF1": spectra, "SP_SPECTRUM_QA": quality}
    places, offset = {}, 0
    for key, data in parts.items():
        places[key] = offset + 1
        offset += len(data)
    for other in ("REF2", "RAD", "RAW"):
        places[f"SP_SPECTRUM_{other}"] = places["SP_SPECTRUM_REF1"]
    lines = ['PDS_VERSION_ID = "PDS3"']
    lines += [f'^{key} = ("{name}.spc", {at} <BYTES>)' for key, at in places.items()]
    lines += [
        'MISSION_NAME = "SELENE"', 'INSTRUMENT_ID = "SP"', 'TARGET_NAME = "MOON"',
        'PROCESS_VERSION_ID = "L2C"', f'PRODUCT_ID = "{name}"', "PRODUCT_VERSION_ID = 03",
        f"REVOLUTION_NUMBER = {orbit}", "START_TIME = 2008-09-16T04:37:49.995417",
        'OBSERVATION_MODE_ID = "OBS-NORMAL"', 'CALIBRATION_MODE_ID = "NONE"',
        "VIS_BAND_NUMBER = 84", "N1_BAND_NUMBER = 100", "N2_BAND_NUMBER = 112",
        "OBJECT = ANCILLARY_AND_SUPPLEMENT_DATA", f"ROWS = {rows}",
        f"ROW_BYTES = {table.dtype.itemsize}",
    ]  # fmt: skip
    position = 1
    for column, size in _COLUMNS:
        lines += ["OBJECT = COLUMN", f'NAME = "{column}"', "DATA_TYPE = IEEE_REAL"]
        lines += [f"START_BYTE = {position}", f"BYTES = {size}", "END_OBJECT = COLUMN"]
        position += size
    lines += ["END_OBJECT = ANCILLARY_AND_SUPPLEMENT_DATA"]
    scales = {"WAV": "0.1", "REF1": "0.0001", "REF2": "0.0001", "RAD": "0.01", "QA": "1.0"}
    for kind in ("WAV", "RAW", "REF1", "REF2", "RAD", "QA"):
        lines += [
            f"OBJECT = SP_SPECTRUM_{kind}", f"LINES = {1 if kind == 'WAV' else rows}",
            f"LINE_SAMPLES = {_BANDS}", "SAMPLE_TYPE = MSB_UNSIGNED_INTEGER", "SAMPLE_BITS = 16",
            f"SCALING_FACTOR = {scales.get(kind, '1.0')}", "OFFSET = 0.0",
            f"END_OBJECT = SP_SPECTRUM_{kind}",
        ]  # fmt: skip
    (folder / f"{name}.lbl").write_text("\r\n".join([*lines, "END", ""]), newline="")
    (folder / f"{name}.spc").write_bytes(b"".join(parts.values()))


class Steps:
    """What each step took, and the most memory that the process has held until then."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.rows: list[tuple[str, float, float]] = []

    def done(self, name: str) -> None:
        now = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.rows.append((name, now - self.begun, peak))
        print(f"{name:<28} {now - self.begun:9.1f} s   peak {peak:5.2f} GiB", flush=True)
        self.begun = time.perf_counter()


def run(footprints: int, work: Path, resolution: float, variables: tuple[str, ...]) -> Steps:
    """Simulate, store, grid, invert."""
    import lunarray as la

    work.mkdir(parents=True, exist_ok=True)
    steps, colours = Steps(), palette()
    steps.done("simulating soils")
    store, written, stored = work / "sp.zarr", 0.0, 0.0
    strips = -(-footprints // STRIP)
    for first in range(0, strips, BATCH // STRIP):
        folder = work / f"files-{first}"
        folder.mkdir()
        begun = time.perf_counter()
        for number in range(first, min(first + BATCH // STRIP, strips)):
            write(folder, number, min(STRIP, footprints - number * STRIP), colours)
        written += time.perf_counter() - begun
        begun = time.perf_counter()
        la.sp.sp_to_zarr(folder, store, variables=variables, progress=False)
        stored += time.perf_counter() - begun
        shutil.rmtree(folder)
    steps.done("writing files, storing")
    print(f"  of which files {written:.1f} s, store {stored:.1f} s")
    ds = la.open_zarr(store)
    steps.done("opening the store")
    cube = la.sp.condition(ds).lunar.grid("north", resolution=resolution, latitude=65.0)
    cube = cube.lunar.to_zarr(work / "cube.zarr", progress=False)
    steps.done(f"conditioning, grid {resolution:g} m")
    maps = cube.lunar.invert_oxides(uncertainty=True)
    maps = maps.lunar.to_zarr(work / "oxides.zarr", progress=False)
    steps.done("inverting")
    known = int(np.isfinite(maps.FeO).sum())
    size = " × ".join(map(str, maps.FeO.shape))
    print(f"{ds.sizes['observation']:,} footprints; {size} pixels, {known:,} of them with oxides")
    return steps


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--footprints", type=int, default=100_000)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything; new")
    parser.add_argument("--resolution", type=float, default=500.0, help="m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--all", action="store_true", help="keep radiance beside reflectance and quality"
    )
    given: Any = parser.parse_args(argv)
    import dask

    keep = ("reflectance", "radiance", "qa") if given.all else ("reflectance", "qa")
    with dask.config.set(scheduler="threads", num_workers=given.threads):
        run(given.footprints, given.work, given.resolution, keep)


if __name__ == "__main__":
    main()
