"""The opener of raster files: what is missing in each kind, what may not be opened, what fails while computing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from contextlib import contextmanager

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine

import lunarray as la
from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError, ProductFormatError

SOUTH = geo.moon_crs("south").to_wkt()
TRANSFORM = Affine(2.0, 0, 90_000, 0, -2.0, -180_000)
pytestmark = pytest.mark.filterwarnings("ignore:.*no geotransform.*")


def _write(path, data, *, crs=SOUTH, transform=TRANSFORM, driver="GTiff", mask=None, **profile):
    data = data[None] if data.ndim == 2 else data
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask == "inside"),
        rasterio.open(
            path, "w", driver=driver, count=len(data), height=data.shape[1], width=data.shape[2], dtype=data.dtype,
            crs=crs, transform=transform, **profile,
        ) as raster,
    ):  # fmt: skip
        raster.write(data)
        if mask is not None:
            valid = np.full(data.shape[1:], 255, np.uint8)
            valid[:, :3] = 0
            raster.write_mask(valid)
    return path


@pytest.fixture
def data(rng):
    return rng.integers(1, 250, (20, 30)).astype(np.uint8)


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_masks_of_files(tmp_path, data, where):
    path = _write(tmp_path / "a.tif", data, mask=where)
    assert (tmp_path / "a.tif.msk").exists() == (where == "beside")
    expected = np.where(np.arange(30) < 3, np.nan, data.astype("f4"))
    for chunks in (None, "auto", 7):
        np.testing.assert_array_equal(geo.open_raster(path, bands=1, chunks=chunks), expected)
    np.testing.assert_allclose(la.open_nac(path), expected / 255, rtol=1e-6)
    np.testing.assert_array_equal(geo.open_raster(path, masked=False)[0], data)
    assert geo.open_raster(path, masked=False).dtype == np.uint8


def test_null_of_isis_that_no_tag_names(tmp_path):
    codes = np.array([0xFF7FFFFB, 0xFF7FFFFC, 0xFF7FFFFD, 0xFF7FFFFE, 0xFF7FFFFF], np.uint32)
    values = np.append(codes.view(np.float32), np.float32(0.25)).reshape(2, 3)
    path = _write(tmp_path / "a.tif", values)
    expected = np.arange(6).reshape(2, 3) < 5
    np.testing.assert_array_equal(np.isnan(geo.open_raster(path, bands=1)), expected)
    np.testing.assert_array_equal(np.isnan(la.open_nac(path)), expected)
    assert not np.isnan(geo.open_raster(path, special=False)).any()
    # Of whole numbers only the least one, where no tag names another; others are numbers.
    numbers = np.array([[-32768, -32767, 5]], np.int16)
    whole = _write(tmp_path / "b.tif", numbers)
    for opened in (geo.open_raster(whole, bands=1), la.open_nac(whole, chunks=None)):
        np.testing.assert_array_equal(np.isnan(opened), numbers == -32768)
    assert not np.isnan(geo.open_raster(whole, special=False)).any()
    tagged = _write(tmp_path / "c.tif", numbers, nodata=5)
    np.testing.assert_array_equal(np.isnan(geo.open_raster(tagged, bands=1)), numbers == 5)


def test_bands_scales_and_what_is_missing_in_each(tmp_path):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = _write(tmp_path / "map.tif", stored, nodata=5)
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.1, 2.0), (1.0, 0.0)
        raster.descriptions = ("first", "second")
    both = geo.open_raster(path)
    assert both.dims == ("band", "y", "x")
    assert both.dtype == np.float32
    assert both.name == "map"
    expected = np.where(stored == 5, np.nan, stored) * [[[0.1]], [[2.0]]] + [[[1.0]], [[0.0]]]
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    second = geo.open_raster(path, bands=2)
    assert second.dims == ("y", "x")
    assert second.attrs["long_name"] == "second"
    np.testing.assert_allclose(second, expected[1], rtol=1e-6)
    turned = geo.open_raster(path, bands=[2, 1], nodata=7, scale=None)
    np.testing.assert_array_equal(turned[1], np.where(np.isin(stored[0], (5, 7)), np.nan, stored[0]))  # fmt: skip
    assert geo.geobox_of(both).transform == TRANSFORM
    assert both.data.name == geo.open_raster(path).data.name != turned.data.name


def test_wide_numbers_keep_their_digits(tmp_path):
    path = _write(tmp_path / "a.tif", np.array([[16_777_217, 3]], np.int32))
    assert float(geo.open_raster(path, bands=1)[0, 0]) == 16_777_217


def test_a_file_that_opens_others_is_refused(tmp_path, data):
    secret = _write(tmp_path / "secret.tif", data)
    text = (
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    path = tmp_path / "nac.tif"
    path.write_text(text)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), data)  # GDAL itself would
    for reader in (geo.open_raster, la.open_nac, la.open_cube, la.store.open_maps):
        with pytest.raises(ProductFormatError, match="not a raster that GDAL reads here"):
            reader(path)
    with pytest.raises(ProductFormatError, match="not a raster"):
        geo.raster_info(path)


def test_names_of_gdal_for_reading(tmp_path, data):
    _write(tmp_path / "a.tif", data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "a.tif")
    for name in (f"/vsizip/{tmp_path}/a.zip/a.tif", f"zip://{tmp_path}/a.zip!a.tif"):
        np.testing.assert_array_equal(geo.open_raster(name, bands=1), data)
    with pytest.raises(ProductFormatError):
        geo.open_raster("/vsizip/none.zip/a.tif")


def test_what_fails_while_computing_says_which_file(tmp_path, rng):
    path = _write(tmp_path / "a.tif", rng.random((300, 300)).astype("f4"))
    lazy = geo.open_raster(path, chunks=100)
    cut = path.read_bytes()[:200_000]
    path.write_bytes(cut)
    with pytest.raises(ProductFormatError, match=r"a\.tif: damaged, or no longer what was opened"):
        lazy.compute()
    path.unlink()
    with pytest.raises(ProductFormatError, match=r"a\.tif: damaged"):
        lazy.compute()


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
        {"driver": "COG"},
    ],
)
def test_truncated_files_are_called_so(tmp_path, rng, profile):
    """When they are opened, and while computing where they are cut off meanwhile."""
    path = _write(tmp_path / "a.tif", rng.random((300, 300)).astype("f4"), **profile)
    lazy = geo.open_raster(path, chunks=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ProductFormatError, match=r"a\.tif: damaged.*truncated: \d+ bytes"):
        lazy.compute(scheduler="sync")
    for reading in (geo.open_raster, la.open_nac, geo.raster_info):
        with pytest.raises(
            ProductFormatError, match=r"a\.tif: truncated: \d+ bytes.*Fetch it again"
        ):
            reading(path)


#: A web server of a folder that knows ranges of bytes, and writes down how many it sent. In a process of its own: GDAL
#: holds Python's lock while it opens a file.
_SERVER = """
import http.server, pathlib

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = pathlib.Path(self.path.lstrip("/"))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)
            with open("sent.txt", "a") as log:
                print(len(part), file=log)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def _served(folder):
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def test_images_on_the_web_are_read_where_they_are_needed(tmp_path, rng):
    values = rng.integers(0, 65535, (1024, 1024)).astype(np.uint16)
    values[:, :40] = 0
    _write(
        tmp_path / "image.tif",
        values,
        driver="COG",
        blocksize=128,
        compress="none",
        nodata=0,
        overviews="none",
    )
    whole = (tmp_path / "image.tif").stat().st_size
    with _served(tmp_path) as address:
        for name in (f"{address}/image.tif", f"/vsicurl/{address}/image.tif"):
            image = la.open_nac(name, chunks=256)
            assert image.chunks == ((256,) * 4, (256,) * 4)
            np.testing.assert_allclose(
                image[300:420, 300:420], values[300:420, 300:420] / 65535, rtol=1e-5
            )
            assert np.isnan(image[300:310, :50].values).mean() == 0.8
        sent = sum(map(int, (tmp_path / "sent.txt").read_text().split()))
        assert 0 < sent < whole / 2
        with pytest.raises(ProductFormatError, match=r"none\.tif"):
            la.open_nac(f"{address}/none.tif")


def test_lazy_in_threads(tmp_path, rng, no_compute):
    values = rng.random((2, 130, 170)).astype("f4")
    path = _write(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    lazy = geo.open_raster(path, chunks=(33, 50))
    assert lazy.chunks[0] == (2,)
    with dask.config.set(scheduler="threads", num_workers=4):
        np.testing.assert_array_equal(lazy, values)


def test_places(tmp_path, data):
    degrees = _write(
        tmp_path / "deg.tif", data, crs="IAU_2015:30100", transform=Affine(0.1, 0, 5, 0, -0.1, 10)
    )
    assert geo.open_raster(degrees, bands=1).dims == ("lat", "lon")
    bare = _write(tmp_path / "bare.tif", data, crs=None)
    assert geo.open_raster(bare).attrs["georeference"] == "none"
    assert geo.crs_code(geo.crs_of(geo.open_raster(bare, crs="south"))) == "IAU_2015:30135"
    mercury = _write(tmp_path / "mercury.tif", data, crs=geo.MERCURY.crs("north").to_wkt())
    assert geo.body_of(geo.crs_of(geo.open_raster(mercury))) == geo.MERCURY
    with pytest.raises(BodyMismatchError, match=r"mercury\.tif.*not of the Moon"):
        geo.open_raster(mercury, body=geo.MOON)
    with pytest.raises(GridError, match="rotated"):
        geo.open_raster(_write(tmp_path / "r.tif", data, transform=TRANSFORM * Affine.rotation(9)))
    with pytest.raises(InputError, match="no such file"):
        geo.open_raster(tmp_path / "none.tif")
    with pytest.raises(InputError, match="bands"):
        geo.open_raster(degrees, bands=[1, 2])


def test_a_map_of_mercury_goes_through_fractures_and_no_other_room(tmp_path, rng):
    path = _write(
        tmp_path / "simbio.tif", rng.random((64, 64)).astype("f4"), crs=geo.MERCURY.crs("north").to_wkt()
    )  # fmt: skip
    image = la.open_nac(path)
    coarse = geo.reproject(image, 6.0)
    assert geo.body_of(geo.crs_of(coarse)) == geo.MERCURY
    laid = la.fractures.mosaic([image], resolution=2.0)
    np.testing.assert_array_equal(laid["image"], image)
    for refused in (geo.lunar_grid, geo.geobox_of):
        with pytest.raises(BodyMismatchError, match="of Mercury"):
            refused(image)
