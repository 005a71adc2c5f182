"""Seeded damage of everything that is read: a result that computes, or an error of ours, soon and in little memory.

Three hundred mutations of each kind of file; ``LUNARRAY_FUZZ=10000`` makes them ten thousand, ``LUNARRAY_FUZZ_SEED``
begins with another one.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
import xarray as xr
from test_maps_m3 import GLOBAL, write_observation
from test_maps_prospector import write_table
from test_maps_rasters import write_lola
from test_sp_io import write_product
from test_xrf_io import write_class
from test_xrf_response import gaussian_response, write_arf, write_rmf

import lunarray as la
from lunarray import geo, maps, oxides, sp, store, superres, xrf
from lunarray.errors import LunarrayError
from lunarray.xrf.atomic import _text_nodes
from lunarray.xrf.goes import open_goes_xrs
from lunarray.xrf.response_files import read_arf
from lunarray.xrf.table_models import read_table_model, write_table_model
from lunarray.xrf.xsm import read_gti, read_light_curve, read_xsm_spectrum

fits = pytest.importorskip("astropy.io.fits")
rasterio = pytest.importorskip("rasterio")

NUMBER = int(os.environ.get("LUNARRAY_FUZZ", "300"))
FIRST = int(os.environ.get("LUNARRAY_FUZZ_SEED", "0"))
MOON = "IAU_2015:30110"


# ---- what is damaged
def write_pha(folder: Path) -> Path:
    columns = [
        fits.Column("CHANNEL", "1J", array=np.arange(32)),
        fits.Column("COUNTS", "1E", array=np.arange(32.0)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    cards = {"INSTRUME": "CH2_XSM", "EXPOSURE": 8.0, "TSTART": 1.0, "TSTOP": 9.0, "MJDREFI": 57754}
    table.header.update(cards)
    table.writeto(folder / "a.pha")
    return folder / "a.pha"


def write_lc(folder: Path) -> Path:
    columns = [
        fits.Column("TIME", "1D", array=np.arange(20.0)),
        fits.Column("RATE", "1E", array=np.arange(20.0)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="RATE")
    table.header.update({"INSTRUME": "CH2_XSM", "MJDREFI": 57754, "TIMEDEL": 1.0})
    table.writeto(folder / "a.lc")
    return folder / "a.lc"


def write_gti(folder: Path) -> Path:
    columns = [
        fits.Column("START", "D", array=[100.0, 0.0, 50.0]),
        fits.Column("STOP", "D", array=[120.5, 50.0, 60.0]),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="GTI")
    table.header.update({"MJDREF": 57754.0})
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / "a.gti")
    return folder / "a.gti"


def write_response(folder: Path) -> Path:
    response, dense = gaussian_response()
    write_rmf(folder / "a.rmf", response, dense, first=1, vector=True)
    write_arf(folder / "a.arf", response.energy_lo, response.energy_hi, response.area)
    return folder


def write_model(folder: Path) -> Path:
    flux = np.random.default_rng(1).random((3, 2, 16))
    lo = 0.5 + 0.1 * np.arange(16)
    ds = xr.Dataset(
        {"flux": (("kT", "Si", "energy"), flux)},
        {"kT": [0.2, 0.5, 1.0], "Si": [0.0, 1.0], "energy_lo": ("energy", lo), "energy_hi": ("energy", lo + 0.1)},
        {"model_name": "plasma"},
    )  # fmt: skip
    return write_table_model(ds, folder / "t.fits")


def write_goes(folder: Path) -> Path:
    time = np.datetime64("2021-08-27", "ns") + np.arange(40) * np.timedelta64(1, "s")
    data = {f"xrs{b}_flux": ("time", np.full(40, 1e-6, "f4"), {"units": "W/m2"}) for b in "ab"}
    flags = {f"xrs{b}_flags": ("time", np.zeros(40, "i2")) for b in "ab"}
    ds = xr.Dataset({**data, **flags}, {"time": time})
    ds.to_netcdf(folder / "sci_xrsf-l2-flx1s_a.nc", engine="h5netcdf")
    return folder / "sci_xrsf-l2-flx1s_a.nc"


def write_flares(folder: Path) -> Path:
    rows = [
        f"202108{d:02d},1,0410,0415,0418,GOES16,long,{c}1.{d},{c}1.{d}"
        for d, c in enumerate("ABCMXBCM", 1)
    ]
    head = (
        "date,event_no,start_time,max_time,end_time,goes_sat,goes_channel,goes_class_ind,goes_class"
    )
    (folder / "f.csv").write_text("\n".join([head, *rows]))
    return folder / "f.csv"


def write_solar(folder: Path) -> Path:
    path = folder / "sun_20210827.txt"
    path.write_text("".join(f"{0.5 + 0.01 * i:.4f} 0.005 {1e3 / (i + 1):.6e}\n" for i in range(60)))
    return path


def write_cross_sections(folder: Path) -> Path:
    rows = "".join(f"{0.1 * i:.4E} " + "1.0E+02 " * 7 + "\n" for i in range(1, 30))
    (folder / "ffast_14_si.txt").write_text(f"Silicon, Z = 14\n E f1 f2\n{rows}")
    return folder / "ffast_14_si.txt"


def write_tracks(folder: Path) -> Path:
    corners = [f"V{i}_{axis}" for i in range(4) for axis in ("LATITUDE", "LONGITUDE")]
    kinds = ("WT", "FIT_UNC", "SYS_UNC", "TOT_UNC")
    names = [f"{e}_{u}" for e in ("MG", "AL", "SI", "FE") for u in kinds]
    rows = ["0,0,0,1,1,1,1,0," + ",".join([f"{5 + k / 10}"] * 16) for k in range(8)]
    (folder / "t.csv").write_text("\n".join([",".join([*corners, *names]), *rows]))
    return folder / "t.csv"


def write_photometry(folder: Path) -> Path:
    rows = [f"{i} {500 + 8 * i} " + "0.5 0.01 " * 4 + "0.1" for i in range(20)]
    (folder / "High_albedo_sel.txt").write_text("# channel wavelength b0\n" + "\n".join(rows))
    return folder / "High_albedo_sel.txt"


def write_raster(path: Path, bands: int = 1, driver: str = "GTiff", **options: Any) -> Path:
    data = np.arange(320 * bands, dtype=options.pop("dtype", "u2")).reshape(bands, 16, 20)
    place = {"crs": MOON, "transform": rasterio.Affine(2.0, 0, 0, 0, -2.0, 0)}
    with rasterio.open(
        path, "w", driver=driver, width=20, height=16, count=bands, dtype=data.dtype,
        **({} if driver in ("PNG", "JPEG") else place), **options,
    ) as raster:  # fmt: skip
        if bands > 1:
            for band in range(1, bands + 1):
                raster.update_tags(band, wavelength=700 + 100 * band)
        else:
            raster.update_tags(PRODUCT_TYPE="CDR")
        raster.write(data)
    for extra in path.parent.glob("*.aux.xml"):
        extra.unlink()
    return path


def write_map_csv(folder: Path) -> Path:
    with gzip.open(folder / "iron_Map.csv.gz", "wt") as stream:
        np.savetxt(stream, np.arange(36 * 72).reshape(36, 72), delimiter=",", fmt="%d")
    return folder / "iron_Map.csv.gz"


def write_map_tif(folder: Path) -> Path:
    with rasterio.open(
        folder / "whole.tif", "w", driver="GTiff", width=72, height=36, count=1, dtype="int16", crs="IAU_2015:30100",
        transform=rasterio.Affine(5, 0, -180, 0, -5, 90), compress="lzw",
    ) as raster:  # fmt: skip
        raster.write(np.arange(36 * 72, dtype="i2").reshape(1, 36, 72))
    return folder / "whole.tif"


def write_map_pds(folder: Path) -> Path:
    write_lola(folder, np.arange(36 * 72).reshape(36, 72).astype(np.int16))
    return folder


def write_m3(folder: Path) -> Path:
    write_observation(folder)
    return folder


def write_prospector(folder: Path) -> Path:
    write_table(folder / "elements.tab")
    return folder / "elements.tab"


def write_store(folder: Path) -> Path:
    values = np.random.default_rng(6).random((4, 6, 5), "f4")
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), values, {"units": "1"})},
        {"wavelength": [500.0, 600, 700, 800], "y": np.arange(6.0), "x": np.arange(5.0)},
    )
    store.to_zarr(ds.chunk(y=3), folder / "cube.zarr", progress=False)
    return folder / "cube.zarr"


def write_foreign(folder: Path) -> Path:
    ds = xr.Dataset({"a": (("y", "x"), np.arange(30.0).reshape(6, 5), {"units": "m"})})
    ds.assign_coords(y=np.arange(6.0)).to_zarr(folder / "other.zarr")
    return folder / "other.zarr"


def write_netcdf(folder: Path) -> Path:
    ds = xr.Dataset({"a": (("y", "x"), np.arange(30.0).reshape(6, 5), {"units": "m"})})
    ds.assign_coords(y=np.arange(6.0)).to_netcdf(folder / "a.nc", engine="h5netcdf")
    return folder / "a.nc"


def write_bank(folder: Path) -> Path:
    import verbs

    shutil.copytree(verbs.bank(), folder / "gib.zarr")
    return folder / "gib.zarr"


def write_lines(folder: Path, name: str) -> Path:
    import geopandas
    import shapely

    lines = [shapely.LineString([(i, 0), (i + 1, 2), (i, 3)]) for i in range(5)]
    frame = geopandas.GeoDataFrame({"kind": list("abcde")}, geometry=lines, crs="IAU_2015:30100")
    frame.to_file(folder / name)
    return folder / name if name.endswith((".gpkg", ".geojson")) else folder


def write_fracture_network(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    from lunarray import fractures

    torch.manual_seed(1)
    return fractures.save_model(folder / "m.safetensors", fractures.light(4))


def write_checkpoint(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(
        {"state_dict": {"a.weight": torch.ones(4, 3), "a.bias": torch.ones(4)}}, folder / "m.pth"
    )
    return folder / "m.pth"


def write_oxide_network(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    model = oxides.OxideCNN(4, 12, 2)
    path = folder / "m.safetensors"
    oxides.save_oxide_cnn(
        path, model, wavelengths=np.linspace(500, 1600, 12), oxides=("FeO", "TiO2")
    )
    return path


def write_region_network(folder: Path) -> Path:
    pytest.importorskip("torch")
    import verbs

    source = sorted(verbs.networks().glob("region_*.safetensors"))[0]
    shutil.copy(source, folder)
    return folder / source.name


def load_fracture_network(path: Path) -> Any:
    from lunarray import fractures

    return fractures.load_model(path)


def load_region_network(path: Path) -> Any:
    from lunarray.superres.trained import load_region_model

    return load_region_model(path)


@dataclass(frozen=True)
class Target:
    """What is written, and what reads it.

    `known`: also by :func:`lunarray.open`, without a name of the reader; `name`: of the file of a folder that it is
    given; `files`: those that are damaged; `parts`: among how many targets of one reader its mutations are divided;
    `sealed`: what is damaged need not open; `whole`: what is not damaged does.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    known: bool = True
    name: str = ""
    files: Callable[[str], bool] = lambda name: True
    parts: int = 1
    sealed: bool = False
    whole: bool = True


def nac(name: str, **options: Any) -> Target:
    return Target(lambda f: write_raster(f / name, **options), la.open_nac, parts=5)


TARGETS = {
    "sp-attached": Target(lambda f: write_product(f, "SP_2C_02_1", rows=3), la.open_sp, parts=2),
    "sp-detached": Target(
        lambda f: write_product(f, "SP_2C_03_1", rows=3, attached=False).parent, la.open_sp, parts=2
    ),
    "sp-photometry": Target(write_photometry, sp.read_photometric_parameters),
    "class": Target(write_class, la.open_class),
    "class-background": Target(write_class, xrf.read_background, known=False),
    "xsm-spectrum": Target(write_pha, read_xsm_spectrum),
    "xsm-light-curve": Target(write_lc, read_light_curve),
    "gti": Target(write_gti, read_gti, known=False),
    "rmf": Target(
        write_response, lambda p: xrf.read_response(p / "a.rmf", p / "a.arf").matrix(), known=False
    ),
    "arf": Target(write_response, lambda p: read_arf(p / "a.arf"), known=False, files=lambda n: n == "a.arf"),
    "table-model": Target(write_model, read_table_model),
    "goes": Target(write_goes, open_goes_xrs),
    "flares": Target(write_flares, xrf.read_goes_flares, known=False),
    "solar": Target(write_solar, xrf.read_solar_model),
    "solar-models": Target(write_solar, xrf.open_solar_models, known=False),
    "cross-sections": Target(
        write_cross_sections, lambda p: _text_nodes("Si", str(p.parent)), known=False
    ),
    "tracks": Target(write_tracks, superres.read_class_tracks),
    "nac-tiff": nac("M143947267LE.tif", compress="deflate", nodata=0),
    "nac-tiles": nac("M143947267LE.tif", compress="lzw", tiled=True, blockxsize=16, blockysize=16),
    "nac-cube": nac("M143947267LE.cub", driver="ISIS3", dtype="int16"),
    "nac-png": nac("crop.png", driver="PNG", dtype="uint16"),
    "nac-jpeg": nac("crop.jpg", driver="JPEG", dtype="uint8"),
    "cube-tiff": Target(lambda f: write_raster(f / "c.tif", 4), sp.open_cube),
    "cube-envi": Target(lambda f: write_raster(f / "c.img", 4, "ENVI", dtype="float32").parent,
                        lambda p: sp.open_cube(p / "c.img", wavelengths=[700, 800, 900, 1000]), known=False, parts=6),
    "raster": Target(lambda f: write_raster(f / "r.tif", 2), geo.open_raster, known=False),
    "maps": Target(lambda f: write_raster(f / "FeO.tif", dtype="float32").parent, store.open_maps, known=False),
    "map-csv": Target(write_map_csv, maps.open_map, parts=3),
    "map-tiff": Target(write_map_tif, maps.open_map, parts=3),
    "map-pds": Target(write_map_pds, lambda p: maps.open_map(p / "LDEM_X.LBL"), name="LDEM_X.LBL", parts=3),
    "m3": Target(
        write_m3, lambda p: maps.open_m3(p / f"{GLOBAL}_V03_L1B.LBL"), name=f"{GLOBAL}_V03_L1B.LBL"
    ),
    "prospector": Target(write_prospector, maps.open_lunar_prospector),
    "store": Target(write_store, la.open_zarr, sealed=True),
    "zarr": Target(write_foreign, la.open),
    "netcdf": Target(write_netcdf, la.open),
    "bank": Target(write_bank, superres.open_gib),
    "gpkg": Target(lambda f: write_lines(f, "a.gpkg"), geo.read_vectors, known=False, parts=3),
    "geojson": Target(lambda f: write_lines(f, "a.geojson"), geo.read_vectors, known=False, parts=3),
    "shp": Target(lambda f: write_lines(f, "a.shp"), lambda p: geo.read_vectors(p / "a.shp"), known=False, parts=3),
    "fracture-network": Target(write_fracture_network, load_fracture_network, known=False, parts=2, sealed=True),
    "checkpoint": Target(write_checkpoint, load_fracture_network, known=False, parts=2, sealed=True, whole=False),
    "oxide-network": Target(write_oxide_network, oxides.load_oxide_cnn, known=False, sealed=True),
    "region-network": Target(write_region_network, load_region_network, known=False, sealed=True),
}  # fmt: skip


def use(result: Any) -> None:
    """Compute what was opened: all of it, or its first and last parts where it says that it is large."""
    if not isinstance(result, xr.Dataset | xr.DataArray):
        return
    for part in result.data_vars.values() if isinstance(result, xr.Dataset) else [result]:
        if part.chunks is None or part.nbytes < 2**26:
            part.compute(scheduler="synchronous")
            continue
        for end in (slice(None, 8), slice(-8, None)):
            part[dict.fromkeys(part.dims, end)].compute(scheduler="synchronous")


def fuzz(target: Target, folder: Path, number: int = NUMBER, salt: int = 7) -> fuzzing.Report:
    source = target.write(folder)

    def read(seed: int) -> None:
        path = source / target.name if target.name else source
        if seed % 2 and target.known:
            use(la.open(path, errors="skip" if seed % 4 == 3 else "raise"))
        else:
            use(target.read(source))

    # What is whole is read here first, so that libraries take the memory that they keep before it is bounded.
    with contextlib.nullcontext() if target.whole else pytest.raises(LunarrayError):
        use(target.read(source))
    seeds = range(FIRST, FIRST + number)
    return fuzzing.run(source, read, seeds, files=target.files, salt=salt)


@pytest.mark.parametrize("name", TARGETS)
def test_a_result_or_an_error_of_ours(name, tmp_path):
    target = TARGETS[name]
    number = -(-NUMBER // target.parts)
    report = fuzz(target, tmp_path, number)
    told = "\n".join(f"seed {seed}: {what}" for seed, what in report.failures.items())
    assert not report.failures, told
    assert report.opened + report.refused == number
    # Damage that is never met, or never harmless, tests nothing.
    assert report.refused > 0
    assert report.opened > 0 or target.sealed
    assert report.peak < fuzzing.MEMORY


REAL = {
    "sp/*02_02358*.spc": la.open_sp,
    "class/l1/ch2_cla_l1_20190914*.fits": la.open_class,
    "class/response/*.rmf": xrf.read_response,
    "class/response/*.arf": read_arf,
    "xsm/model/ch2_xsm_20211028*.txt": xrf.read_solar_model,
    "nac/*.cub": la.open_nac,
    "spectra/sp_photometry/High*_sel.txt": sp.read_photometric_parameters,
    "maps/lpgrs_high1_elem_abundance_5deg.tab": maps.open_lunar_prospector,
}


@pytest.mark.realdata
@pytest.mark.parametrize("pattern", REAL)
def test_real_files(pattern, tmp_path, real_data):
    """As above, a tenth as often: what instruments wrote is larger, and laid out as nobody here would."""
    source = next(iter(sorted(real_data.glob(pattern))))
    number = -(-NUMBER // 10)
    target = Target(lambda folder: Path(shutil.copy(source, folder)), REAL[pattern], known=False)
    report = fuzz(target, tmp_path, number)
    assert not report.failures
    assert report.opened + report.refused == number
    assert report.peak < fuzzing.MEMORY
