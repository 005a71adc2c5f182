"""Make the samples that come with lunarray: small files as the archives have them, of a simulated Moon.

    python -m examples.make_samples [folder]      # lunarray/readers/samples by default

A track of the Spectral Profiler from highlands over a mare, with the elevation model and the laser albedo of the ground
below it; frames of CLASS during a flare; a crop of a NAC image with fractures; tracks of element abundances with the
albedo map that they lie on. The truth is known: what it is stands in each entry of ``lunarray.readers.SAMPLES``. Run it
again and the same bytes come out, with their digests in SHA256SUMS.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401

#: Where the track of SP lies: latitude of its ends, longitude, footprints.
TRACK, LONGITUDE, FOOTPRINTS = (10.0, 16.0), 340.0, 240
#: FeO (wt%) along the track: highlands, mare, highlands.
IRON = ((0.0, 0.3, 0.4, 0.7, 0.8, 1.0), (5.0, 5.0, 16.0, 17.0, 6.0, 5.0))
FRAMES, CLASS_CHANNELS = 12, 2048


def sp_orbit(folder: Path) -> None:
    """A product of SP, and the maps that take the light out of it."""
    from benchmarks.pole import _BANDS, _COLUMNS, wavelengths, write_product
    from lunarray import simulate

    nm = wavelengths()
    order = np.unique(np.clip(nm, 500, 1800).round(1))
    soils = simulate.soils(4000, 5, order)
    along = np.linspace(0, 1, FOOTPRINTS)
    wanted = np.interp(along, *IRON)
    iron = soils["FeO"].values
    rng = np.random.default_rng(3)
    # Of the soils with that iron, few and far between: the ground changes slowly.
    chosen = np.empty(FOOTPRINTS, int)
    for start in range(0, FOOTPRINTS, 12):
        chosen[start : start + 12] = rng.choice(np.argsort(abs(iron - wanted[start + 6]))[:8])
    ground = soils["reflectance"].values[chosen]
    ground = np.apply_along_axis(np.convolve, 0, ground, np.ones(9) / 9, "same")
    edge = np.convolve(np.ones(FOOTPRINTS), np.ones(9) / 9, "same")[:, None]
    seen = (ground / edge)[:, np.searchsorted(order, np.clip(nm, 500, 1800).round(1))]
    seen = seen * rng.normal(1, 0.004, seen.shape)
    table = np.zeros(FOOTPRINTS, [(name, f">f{size}") for name, size in _COLUMNS])
    table["SPACECRAFT_CLOCK_COUNT"] = 9.1e8 + 0.9 * np.arange(FOOTPRINTS)
    table["CENTER_LATITUDE"] = TRACK[0] + (TRACK[1] - TRACK[0]) * along
    table["CENTER_LONGITUDE"] = LONGITUDE + 0.2 * along
    table["INCIDENCE_ANGLE"] = 40 + 5 * along
    table["PHASE_ANGLE"] = table["INCIDENCE_ANGLE"]
    table["SOLAR_AZIMUTH_ANGLE"] = 95
    table["SPACECRAFT_ALTITUDE"] = 100
    quality = np.full((FOOTPRINTS, _BANDS), 0x120, ">u2").tobytes()
    counts = np.clip(seen * 1e4, 1, 65535).astype(">u2").tobytes()
    write_product(folder, "SP_2C_03_SAMPLE", 4242, table, counts, quality)


def class_flare(folder: Path) -> None:
    """Frames of CLASS while a flare lights highlands, as FITS files."""
    from astropy.io import fits

    from lunarray import simulate
    from lunarray.xrf import HIGHLAND

    response = simulate.class_response(CLASS_CHANNELS, fwhm=0.14)
    orbit = simulate.class_orbit("2024-01-23T03:30:00", FRAMES)
    flare = simulate.flare_profile(orbit["time"], orbit["time"].values[3])
    frames = simulate.class_counts(
        HIGHLAND, orbit, simulate.thermal_spectrum(1.1, 3e-5), response, flare=flare, seed=1
    )
    for number in range(FRAMES):
        row = frames.isel(time=number)
        columns = [
            fits.Column("CHANNEL", "1I", array=np.arange(CLASS_CHANNELS)),
            fits.Column("COUNTS", "1E", array=row["counts"].values),
        ]
        spectrum = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
        start, end = (str(row[name].values)[:23] for name in ("start", "end"))
        spectrum.header.update({
            "INSTRUME": "CLASS", "EXPOSURE": 8.0, "DETCHANS": CLASS_CHANNELS, "TLMIN1": 0,
            "STARTIME": start, "ENDTIME": end, "GAIN": 1e3 * float(row["gain"]),
            "SCD_USED": ",".join(map(str, range(16))), "SAT_ALT": float(row["altitude"]),
            "BORE_LAT": float(row["lat"]), "BORE_LON": float(row["lon"]),
            "SOLARANG": float(row["incidence"]), "EMISNANG": 0.0, "PHASEANG": float(row["phase"]),
            "TEMP": -40.0,
        })  # fmt: skip
        for corner in range(4):
            spectrum.header[f"V{corner}_LAT"] = float(row["corner_lat"][corner])
            spectrum.header[f"V{corner}_LON"] = float(row["corner_lon"][corner])
        begin, stop = (
            text.replace("-", "").replace(":", "").replace(".", "") for text in (start, end)
        )
        plain = folder / "frame.fits"
        fits.HDUList([fits.PrimaryHDU(), spectrum]).writeto(plain, overwrite=True)
        packed = gzip.compress(plain.read_bytes(), mtime=0)
        (folder / f"ch2_cla_l1_{begin}_{stop}.fits.gz").write_bytes(packed)
        plain.unlink()


def nac_crop(folder: Path) -> None:
    """A crop of a NAC image of ground with fractures, and the lines that they follow."""
    from lunarray import simulate

    scene = simulate.nac_scene((640, 640), incidence=65.0, azimuth=100.0, seed=40_007)
    grey = scene.dataset["image"]
    low, high = np.nanpercentile(grey, [0.1, 99.9])
    image = (1 + 254 * (grey - low) / (high - low)).clip(1, 255).fillna(0).astype("u1")
    image = image.rio.write_crs(grey.rio.crs)
    image.rio.write_nodata(0).rio.to_raster(
        folder / "nac_crop.tif",
        compress="deflate",
        predictor=2,
        tags={"sun_azimuth": "100"},
    )
    lines = scene.lines[["geometry"]]
    lines.to_file(folder / "nac_crop_lines.geojson", driver="GeoJSON", COORDINATE_PRECISION=1)


def tracks(folder: Path) -> None:
    """Element abundances along tracks, as CLASS' level 2 has them, and the albedo map that they lie on."""
    import pandas as pd

    from lunarray import simulate
    from lunarray.superres import GIBGrid

    grid = GIBGrid((1, 1), (120, 180), (-70.0, 5.0, -40.0, 25.0))
    scene = simulate.track_scene(grid, 2, coverage=0.3, finer=1)
    found = scene.footprints
    columns: dict[str, np.ndarray] = {}
    for corner in range(4):
        for axis, name in (("lat", "LATITUDE"), ("lon", "LONGITUDE")):
            columns[f"V{corner}_{name}"] = found[f"corner_{axis}"].values[:, corner].round(3)
    for element in found["element"].values:
        value = found["abundance"].sel(element=element).values
        error = found["abundance_std"].sel(element=element).values
        columns[f"{element.upper()}_WT"] = value.round(2)
        columns[f"{element.upper()}_TOT_UNC"] = error.round(2)
    pd.DataFrame(columns).to_csv(folder / "class_l2_tracks.csv", index=False, lineterminator="\n")
    albedo = scene.basemap.astype("f4").round(4)
    albedo.rio.to_raster(folder / "albedo.tif", compress="deflate", predictor=3)


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1] / "lunarray" / "readers" / "data"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else here
    out.mkdir(parents=True, exist_ok=True)
    for make in (sp_orbit, class_flare, nac_crop, tracks):
        make(out)
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
    (out / "SHA256SUMS").write_text("\n".join([*sums, ""]), encoding="utf-8", newline="")
    print("\n".join(f"{path.stat().st_size:8d}  {path.name}" for path in files))
