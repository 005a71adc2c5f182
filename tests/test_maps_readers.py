"""Public maps through the one door: what they are is seen in them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import rasterio
import test_maps_m3
import test_maps_prospector
import test_maps_rasters
import xarray as xr
from affine import Affine

import lunarray as la
from lunarray.errors import GridError, InputError
from lunarray.readers import backend


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One of each kind, and what is like them and is not."""
    folder = tmp_path_factory.mktemp("maps")
    numbers = np.random.default_rng(2).integers(-9000, 9000, (36, 72)).astype(np.int16)
    test_maps_m3.write_observation(folder)
    test_maps_prospector.write_table(folder / "elements.tab")
    test_maps_rasters.write_lola(folder, numbers, name="LDEM_02")
    with gzip.open(folder / "iron.csv.gz", "wt") as stream:
        np.savetxt(stream, numbers, delimiter=",")
    for name, affine in (
        ("whole.tif", Affine(5, 0, -180, 0, -5, 90)),
        ("part.tif", Affine(1, 0, 0, 0, -1, 18)),
    ):
        with rasterio.open(
            folder / name, "w", driver="GTiff", width=72, height=36, count=1, dtype="int16", crs="IAU_2015:30100",
            transform=affine,
        ) as raster:  # fmt: skip
            raster.write(numbers, 1)
    (folder / "other.tab").write_text("1 2 3\n")
    (folder / "spectra.csv").write_text("wavelength,reflectance\n500,0.1\n")
    return folder


@pytest.mark.parametrize(
    ("name", "reader", "opener"),
    [
        ("M3G20090207T090254_V03_L1B.LBL", "m3", la.maps.open_m3),
        ("M3G20090207T090254_V01_RFL.IMG", "m3", la.maps.open_m3),
        ("elements.tab", "lunar-prospector", la.maps.open_lunar_prospector),
        ("LDEM_02.LBL", "lunar-map", la.maps.open_map),
        ("LDEM_02.IMG", "lunar-map", la.maps.open_map),
        ("iron.csv.gz", "lunar-map", la.maps.open_map),
        ("whole.tif", "lunar-map", la.maps.open_map),
    ],
)
def test_each_is_known_and_opens_as_by_its_own_function(files, name, reader, opener):
    known = la.readers.reader_of(files / name)
    assert known.name == reader
    xr.testing.assert_identical(la.open(files / name).compute(), opener(files / name).compute())
    ds = xr.open_dataset(files / name, engine=backend(known))
    assert isinstance(ds, xr.Dataset)
    assert ds.sizes


def test_what_is_like_them_is_not_taken(files):
    label = (files / "LDEM_02.LBL").read_text()
    frame = files / "M123456789LE.LBL"
    frame.write_text(label.replace("TARGET_NAME", "FRAME_ID = LEFT\nTARGET_NAME"))
    assert not la.readers.available()["lunar-map"].certain(str(frame))
    with pytest.raises(InputError, match="2 readers may be meant: lroc-nac, lunar-map"):
        la.open(files / "part.tif")  # heights, or an image: the file does not say
    for reader, kind in (("lroc-nac", "image"), ("lunar-map", "part")):
        assert la.open(files / "part.tif", reader=reader).name == kind
    for name in ("other.tab", "spectra.csv", "elements.tab"):
        readers = la.readers.available()
        own = [n for n in ("m3", "lunar-prospector", "lunar-map") if readers[n].certain(str(files / name))]  # fmt: skip
        assert own == (["lunar-prospector"] if name == "elements.tab" else [])


@pytest.mark.realdata
def test_real_maps_are_known_by_what_is_in_them(real_data):
    known = {
        "context/LDEM_4.LBL": "lunar-map",
        "context/LDEM_4.IMG": "lunar-map",
        "context/WAC_GLD100*.cub": "lunar-map",
        "context/*.jpg": "lunar-map",
        "maps/Albedo_Map.csv.gz": "lunar-map",
        "maps/lpgrs_high1_elem_abundance_5deg.tab": "lunar-prospector",
        "m3/*.tif": "cube",
        "nac/*.cub": "lroc-nac",
    }
    for pattern, reader in known.items():
        folder, name = pattern.split("/")
        (path,) = (real_data / folder).glob(name)
        assert la.readers.reader_of(path).name == reader
        if path.suffix == ".jpg":
            with pytest.raises(GridError, match="bounds"):
                la.open(path)
            assert la.open(path, bounds=(-180, -90, 180, 90)).sizes["band"] == 3
