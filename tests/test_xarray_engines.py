"""Readers as engines of xarray, where lunarray is only installed; and a reader of another package."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from test_sp_io import write_product
from test_xrf_io import write_class

import lunarray as la
from lunarray.errors import InputError, LunarrayWarning, ProductFormatError
from lunarray.readers import Reader, backend

OUTSIDE = Path(__file__).parent / "outside" / "iirs"


def write_nac(folder: Path) -> Path:
    path = folder / "M143947267LE.tif"
    pixels = np.random.default_rng(5).random((64, 48), "f4")
    with rasterio.open(
        path, "w", driver="GTiff", width=48, height=64, count=1, dtype="float32", crs="IAU_2015:30110",
        transform=rasterio.Affine(2.0, 0, 0, 0, -2.0, 0),
    ) as raster:  # fmt: skip
        raster.write(pixels, 1)
    return path


def write_store(folder: Path) -> Path:
    values = np.random.default_rng(6).random((4, 6, 5), "f4")
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), values, {"units": "1"})},
        {"wavelength": [500.0, 600, 700, 800], "y": np.arange(6.0), "x": np.arange(5.0)},
    )
    la.store.to_zarr(ds.chunk(y=3), folder / "cube.zarr", progress=False)
    return folder / "cube.zarr"


WRITERS = {
    "kaguya-sp": lambda folder: write_product(folder, "SP_2C_03_1", seed=3, attached=False),
    "ch2-class": lambda folder: write_class(folder),
    "lroc-nac": write_nac,
    "lunarray": write_store,
}
OPENERS = {
    "kaguya-sp": la.open_sp,
    "ch2-class": la.open_class,
    "lroc-nac": la.open_nac,
    "lunarray": la.open_zarr,
}
each = pytest.mark.parametrize("name", WRITERS)


def as_dataset(obj):
    return obj.to_dataset() if isinstance(obj, xr.DataArray) else obj


# ------------------------------------------------------------------ our engines


@each
def test_engine_gives_what_the_reader_gives(engines, tmp_path, name):
    path = WRITERS[name](tmp_path)
    own = as_dataset(OPENERS[name](path)).load()
    plain = xr.open_dataset(path, engine=name)
    assert set(plain.variables) == set(own.variables)
    for variable in plain.data_vars.values():
        assert not variable.variable._in_memory  # read when needed, not before
        assert not dask.is_dask_collection(variable)
    xr.testing.assert_equal(plain.load(), own)
    for variable in own.variables:
        assert plain[variable].variable.identical(own[variable].variable)
        kind = plain[variable].dtype.kind if own[variable].dtype == object else None
        assert kind == "U" or plain[variable].dtype == own[variable].dtype


@each
def test_chunks(engines, tmp_path, name):
    path = WRITERS[name](tmp_path)
    own = as_dataset(OPENERS[name](path))
    lazy = xr.open_dataset(path, engine=name, chunks={})
    for variable in lazy.data_vars:
        assert lazy[variable].chunks == own[variable].chunks
    xr.testing.assert_equal(lazy.load(), own.load())
    dims = list(own.sizes)[:1]
    smaller = xr.open_dataset(path, engine=name).chunk(dict.fromkeys(dims, 2))
    xr.testing.assert_equal(smaller.compute(scheduler="threads"), own)


@each
def test_any_part_can_be_read(engines, tmp_path, name):
    path = WRITERS[name](tmp_path)
    own = as_dataset(OPENERS[name](path)).load()
    for pick in (
        {dim: slice(None, None, -2) for dim in own.sizes},
        dict.fromkeys(own.sizes, 0),
        {dim: [0] for dim in own.sizes},
        {dim: xr.DataArray([0, 0], dims="point") for dim in own.sizes},
    ):
        part = xr.open_dataset(path, engine=name).isel(pick)
        xr.testing.assert_equal(part.load(), own.isel(pick))


@each
def test_it_pickles_and_keeps_no_file_open(engines, tmp_path, name):
    path = WRITERS[name](tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    ds = xr.open_dataset(path, engine=name)
    copy = pickle.loads(pickle.dumps(ds))
    xr.testing.assert_equal(copy.load(), ds.load())
    assert set(os.listdir("/proc/self/fd")) <= before
    ds.close()
    with xr.open_dataset(path, engine=name) as again:
        assert again.sizes == ds.sizes


@each
def test_without_an_engine_where_nobody_else_opens_it(engines, tmp_path, name):
    path = WRITERS[name](tmp_path)
    if name == "lroc-nac":  # a GeoTIFF is rasterio's, whatever it is called
        assert not engines[name].guess_can_open(path)
        return
    found = [engine for engine, b in engines.items() if b.guess_can_open(str(path))]
    assert found[0] == name
    xr.testing.assert_equal(xr.open_dataset(path).load(), xr.open_dataset(path, engine=name).load())


def test_files_of_others_are_left_to_them(engines, tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    ds = xr.Dataset({"a": ("x", np.arange(3.0))})
    ds.to_netcdf(tmp_path / "a.nc")
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False)
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")
    table = fits.BinTableHDU.from_columns([fits.Column("COUNTS", "1E", array=np.ones(4))])
    table.header["INSTRUME"] = "EPN"
    table.name = "SPECTRUM"
    table.writeto(tmp_path / "spectrum.fits")
    write_nac(tmp_path)
    (tmp_path / "label.lbl").write_text("PDS_VERSION_ID = PDS3\nINSTRUMENT_ID = LOLA\nEND\n")
    (tmp_path / "a.spc").write_bytes(b"\x00" * 512)  # of a spectrometer of chemists
    ours = [name for name in engines if type(engines[name]).__module__ == backend.__module__]
    assert set(WRITERS) <= set(ours)
    for path in sorted(tmp_path.iterdir()):
        assert [n for n in ours if engines[n].guess_can_open(path)] == [], path
    assert not any(engines[n].guess_can_open("https://example.org/a.spc") for n in ours)
    assert not any(engines[n].guess_can_open(object()) for n in ours)
    assert xr.open_dataset(tmp_path / "a.nc").sizes == {"x": 3}
    assert xr.open_dataset(tmp_path / "a.zarr", consolidated=False).sizes == {"x": 3}


def test_chunks_of_any_size_and_no_open_files(engines, tmp_path):
    path = WRITERS["kaguya-sp"](tmp_path)
    ds = xr.open_dataset(path, engine="kaguya-sp", chunks="auto")
    assert ds["reflectance"].chunks is not None
    with path.open("rb") as stream, pytest.raises(InputError, match="Give its path"):
        xr.open_dataset(stream, engine="kaguya-sp")


def test_options_and_variables_to_drop(engines, tmp_path):
    path = WRITERS["kaguya-sp"](tmp_path)
    ds = xr.open_dataset(
        path, engine="kaguya-sp", reflectance="REF2", drop_variables=["radiance", "phase"]
    )
    assert list(ds.data_vars) == ["reflectance", "qa"]
    assert "phase" not in ds.coords
    assert ds["reflectance"].attrs["sp_reflectance"] == "REF2"
    assert "qa" not in xr.open_dataset(path, engine="kaguya-sp", drop_variables="qa")
    with pytest.raises(InputError, match="kaguya-sp: no option band"):
        xr.open_dataset(path, engine="kaguya-sp", band=1)
    with pytest.raises(InputError, match="Give 'none: leave it out'"):
        xr.open_dataset(WRITERS["ch2-class"](tmp_path), engine="ch2-class", product="dark")


def test_many_files_as_one(engines, tmp_path):
    paths = [write_product(tmp_path, f"SP_2C_02_0000{n}", seed=n) for n in range(3)]
    many = xr.open_mfdataset(paths, engine="kaguya-sp", combine="nested", concat_dim="observation")
    xr.testing.assert_equal(many.load(), la.open_sp(paths).load())
    frames = [write_class(tmp_path, n) for n in range(3)]
    many = xr.open_mfdataset(frames, engine="ch2-class")
    xr.testing.assert_equal(many.load(), la.open_class(frames).load())


def test_patterns_and_single_arrays(engines, tmp_path):
    paths = [write_product(tmp_path, f"SP_2C_02_0000{n}", seed=n) for n in range(2)]
    own = la.open_sp(paths).load()
    xr.testing.assert_equal(xr.open_dataset(tmp_path / "*.spc", engine="kaguya-sp").load(), own)
    image = xr.open_dataarray(write_nac(tmp_path), engine="lroc-nac", chunks="auto")
    assert image.chunks
    xr.testing.assert_equal(image.load(), la.open_nac(tmp_path / "M143947267LE.tif").load())


def test_damage_is_told_by_our_errors(engines, tmp_path):
    path = WRITERS["kaguya-sp"](tmp_path)
    ds = xr.open_dataset(path, engine="kaguya-sp")
    os.truncate(path, 100)
    with pytest.raises(ProductFormatError, match="truncated since it was opened"):
        ds["reflectance"].load()
    with pytest.raises(ProductFormatError, match="truncated"):
        xr.open_dataset(path, engine="kaguya-sp")
    with pytest.raises(InputError, match="no such file"):
        xr.open_dataset(tmp_path / "gone.spc", engine="kaguya-sp")


CODE = """
import sys
import xarray as xr
assert "lunarray" not in sys.modules
engine, path, outside = sys.argv[1:]
ds = xr.open_dataset(path, engine=engine)
print(dict(ds.sizes), xr.open_dataset(outside, engine="ch2-iirs").sizes["wavelength"])
heavy = {name.split(".")[0] for name in sys.modules} & {"torch", "numba", "matplotlib"}
print(*sorted(heavy))
"""


def test_in_an_interpreter_that_never_imported_lunarray(installed, tmp_path):
    path, cube = WRITERS["kaguya-sp"](tmp_path), write_iirs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CODE, "kaguya-sp", path, cube],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(installed)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes, heavy = done.stdout.split("\n")[:2]
    assert sizes == "{'observation': 5, 'wavelength': 296} 7"
    assert heavy == ""


# ------------------------------------------------------------------ a reader of another package


def write_iirs(folder: Path, order=("Band", "Line", "Sample"), name="ch2_iir_nci_1.qub") -> Path:
    shape = {"Band": 7, "Line": 5, "Sample": 4}
    values = np.arange(140, dtype="<f4").reshape(7, 5, 4)
    stored = values.transpose([list(shape).index(axis) for axis in order])
    (folder / name).write_bytes(b"\x00" * 16 + stored.tobytes())
    axes = "".join(
        f"<Axis_Array><axis_name>{axis}</axis_name><elements>{shape[axis]}</elements>"
        f"<sequence_number>{n}</sequence_number></Axis_Array>"
        for n, axis in enumerate(order, 1)
    )
    (folder / name).with_suffix(".xml").write_text(
        '<Product_Observational xmlns="http://pds.nasa.gov/pds4/pds/v1">'
        "<logical_identifier>urn:isro:isda:ch2_cho.iir:ch2_iir_nci_1</logical_identifier>"
        '<Array_3D_Spectrum><offset unit="byte">16</offset><Element_Array>'
        f"<data_type>IEEE754LSBSingle</data_type></Element_Array>{axes}"
        "</Array_3D_Spectrum></Product_Observational>"
    )
    return folder / name


def test_the_other_package_is_small():
    """A hundred and twenty lines, and nothing of it is told here."""
    lines = sum(
        len(file.read_text().splitlines())
        for file in (OUTSIDE / "lunarray_iirs.py", OUTSIDE / "pyproject.toml")
    )
    assert lines <= 120
    package = Path(la.__file__).parent
    assert not [f for f in package.rglob("*.py") if "iirs" in f.read_text(encoding="utf-8").lower()]


@pytest.mark.parametrize("order", [("Band", "Line", "Sample"), ("Line", "Band", "Sample")])
def test_reader_of_another_package(engines, tmp_path, order):
    path = write_iirs(tmp_path, order)
    assert la.readers.available()["ch2-iirs"].description.startswith("Chandrayaan-2 IIRS")
    expected = np.arange(140, dtype="f4").reshape(7, 5, 4)
    lazy = la.open(path, lines=2, wavelengths=np.linspace(800, 5000, 7))
    assert lazy["radiance"].chunksizes == {"wavelength": (7,), "y": (2, 2, 1), "x": (4,)}
    np.testing.assert_array_equal(lazy["radiance"], expected)
    for ds in (
        xr.open_dataset(path, engine="ch2-iirs"),
        xr.open_dataset(path, engine="ch2-iirs", chunks={}, lines=3),
        xr.open_dataset(path),
    ):
        np.testing.assert_array_equal(ds["radiance"], expected)
    os.truncate(path, 100)
    with pytest.raises(ProductFormatError, match="truncated: 576 bytes"):
        la.open(path)
    path.with_suffix(".xml").write_text("<ch2_iir pds4>")
    with pytest.raises(ProductFormatError, match="ParseError"):
        xr.open_dataset(path, engine="ch2-iirs")


def test_a_reader_may_give_arrays_in_memory(tmp_path):
    path = tmp_path / "a.num"
    path.write_text("1 2 3")
    reader = Reader(
        "num", "", lambda p: xr.DataArray(np.loadtxt(p), dims="x", name=None), lambda p: True
    )
    ds = xr.open_dataset(path, engine=backend(reader))
    assert ds["data"].values.tolist() == [1, 2, 3]


@pytest.mark.realdata
def test_real_files(engines, real_data):
    for name, file in (
        ("kaguya-sp", "sp/SP_2C_02_02358_S138_E3586.spc"),
        ("kaguya-sp", "sp/SP_2C_03_04184_N187_E0053.lbl"),
        ("ch2-class", "class/issdc_fit/ch2_cla_l1_20210827T210316000_20210827T210332000_1024.fits"),
        ("lroc-nac", "nac/M143947267L.cal.echo.crop.cub"),
        ("ch2-xsm", "xsm/spectrum/ch2_xsm_20210827_l1.pha"),
        ("ch2-xsm-lc", "xsm/lightcurve/ch2_xsm_20210703_v1_level2.lc"),
    ):
        path = real_data / file
        own = as_dataset(la.open(path)).load()
        assert next(n for n, b in engines.items() if b.guess_can_open(path)) == name
        for ds in (xr.open_dataset(path), xr.open_dataset(path, engine=name, chunks={})):
            xr.testing.assert_equal(ds.load(), own)
    with pytest.warns(LunarrayWarning, match="no coordinate reference system"):
        cube = xr.open_dataset(
            real_data / "m3/M3_4030seg_L2_aristcrater.tif", engine="lunarray-cube"
        )
    assert cube["reflectance"].sizes == {"wavelength": 83, "y": 50, "x": 50}
