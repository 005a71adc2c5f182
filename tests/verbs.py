"""The table of verbs: an input, and a call, for each public function that takes an object of xarray."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import xarray as xr
from harness import Verb

from lunarray import export, fractures, geo, oxides, plot, simulate, sp, store, superres, view, xrf
from lunarray import maps as maps_room
from lunarray.xrf.plasma import PlasmaTable

WAVES = np.linspace(520.0, 1560.0, 24)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([20261121, seed])


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lunarray-verbs-") as name:
        yield Path(name)


@functools.cache
def kept() -> Path:
    """A folder for what is made once."""
    path = tempfile.TemporaryDirectory(prefix="lunarray-verbs-")
    kept.folder = path
    return Path(path.name)


def through(
    write: Callable[[Any, Path], Any], read: Callable[[Path], Any], name: str
) -> Callable[..., Any]:
    """A verb that writes a file, by what is read from it."""

    def call(obj):
        with folder() as place:
            write(obj, place / name)
            found = read(place / name)
            return found.load() if hasattr(found, "load") else found

    return call


def read_all(write: Callable[[Path], list[Path]]) -> list[Any]:
    """The files that a verb wrote: rasters and vectors by what is in them, others by their bytes."""
    import rasterio

    found: list[Any] = []
    with folder() as place:
        for path in write(place):
            if path.suffix == ".tif":
                with rasterio.open(path) as raster:
                    found += [
                        raster.read(),
                        dict(raster.tags()),
                        raster.crs.to_wkt(),
                        tuple(raster.transform),
                    ]
            else:
                found.append(
                    geopandas.read_file(path) if path.suffix == ".gpkg" else path.read_bytes()
                )
    return found


def explored(ds: xr.Dataset) -> list[Any]:
    """What an interactive map shows of a Dataset: a picture, and what is at a place."""
    from lunarray.view.grids import GRIDS
    from lunarray.view.layers import at
    from lunarray.view.tiles import values_on

    with view.explore(ds) as viewer:
        first = viewer.layers[0]
        box = GRIDS["south"].tile(3, 3, 4)
        return [values_on(first.pyramid(), box), at(first.source, 20.0, -86.0), first.limits()]


# ------------------------------------------------------------------ inputs


@functools.cache
def native() -> xr.Dataset:
    """Spectra of SP with its three detectors, their quality, light and places."""
    n = 14
    bands = np.asarray(sp.WAVELENGTHS_160)
    nm = np.concatenate([
        bands[:73], 950.6 + 6.0 * np.arange(11), 883.5 + 8.0 * np.arange(9), bands[73:],
        [1652.1, 1660.1, 1668.3, 1676.0], 1702.1 + 7.8 * np.arange(112),
    ]).astype("f4")  # fmt: skip
    detector = np.repeat(["VIS", "NIR1", "NIR2"], [84, 100, 112])
    spectra = (0.05 + 9e-5 * (nm - 500)) * rng(1).uniform(0.5, 1.5, (n, 1))
    spectra[:, 84:] *= 1.01
    spectra *= 1 + 0.01 * rng(2).standard_normal(spectra.shape)
    spectra[3] = np.nan
    qa = np.full(spectra.shape, 288, "u2")
    qa[:, 74:93] = 16672
    along = ("observation",)
    return xr.Dataset(
        {
            "reflectance": ((*along, "wavelength"), spectra.astype("f4"), {"units": "1"}),
            "qa": ((*along, "wavelength"), qa),
        },
        {
            "observation": np.arange(n) * 10,
            "wavelength": nm,
            "detector": ("wavelength", detector),
            "incidence": (along, np.linspace(10, 85, n)),
            "emission": (along, np.zeros(n)),
            "phase": (along, np.linspace(10, 85, n)),
            "lat": (along, np.linspace(60, 89, n)),
            "lon": (along, np.linspace(-170, 170, n)),
            "orbit": (along, np.repeat([7, 8], n // 2)),
        },
        {"history": "made", "source": "noise"},
    )


@functools.cache
def normal_albedo() -> xr.DataArray:
    """A map of the albedo of the whole Moon, with a gap."""
    box = geo.lunar_grid("geographic", 5.0)
    values = rng(50).uniform(0.15, 0.35, box.shape)
    values[3:5, 30:40] = np.nan
    array = xr.DataArray(values, geo.grid_coords(box), geo.grid_dims(box), "albedo")
    return geo.assign_crs(array, box)


@functools.cache
def heights() -> xr.DataArray:
    """Relief of the whole Moon."""
    box = geo.lunar_grid("geographic", 1.0)
    values = rng(51).normal(0.0, 500.0, box.shape)
    array = xr.DataArray(values, geo.grid_coords(box), geo.grid_dims(box), "height")
    return geo.assign_crs(array, box)


def solar_flux() -> xr.DataArray:
    nm = np.linspace(500.0, 2600.0, 50)
    return xr.DataArray(2000.0 * np.exp(-nm / 900.0), {"wavelength": nm}, ("wavelength",))


@functools.cache
def tracks() -> xr.Dataset:
    """The same after its detectors are joined."""
    return sp.join_detectors(native())


@functools.cache
def cube() -> xr.Dataset:
    """A cube around the south pole."""
    box = geo.polar_grid("south", 20_000.0, 86.0)
    ny, nx = box.shape
    level, slope = rng(3).uniform(0.05, 0.15, (2, ny, nx))
    data = level * (1 + slope * (WAVES - 500)[:, None, None] / 100)
    data = (data * rng(4).normal(1, 0.01, data.shape)).astype(np.float32)
    data[5, 2, 3] = np.nan
    data[:, 7, :4] = np.nan
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data, {"units": "1"})},
        {"wavelength": ("wavelength", WAVES, {"units": "nm"}), **geo.grid_coords(box)},
        {"history": "made", "source": "noise"},
    )
    return geo.assign_crs(ds, "south")


@functools.cache
def maps() -> xr.Dataset:
    """Oxides around the south pole."""
    return xr.Dataset(_oxides(cube(), 5), attrs=cube().attrs).assign_coords(
        cube().drop_vars("wavelength").coords
    )


def _oxides(like: xr.Dataset, seed: int) -> dict[str, Any]:
    dims = geo.spatial_dims(like)
    shape = tuple(like.sizes[d] for d in dims)
    return {
        name: (dims, rng(seed + i).normal(10, 2, shape).astype(np.float32), {"units": "wt%"})
        for i, name in enumerate((*oxides.OXIDES, "Mg_number"))
    }


@functools.cache
def globe() -> xr.Dataset:
    """Oxides of the whole Moon, in degrees."""
    box = geo.lunar_grid("geographic", 10.0)
    ds = geo.assign_crs(xr.Dataset(coords=geo.grid_coords(box)), box)
    return ds.assign(_oxides(ds, 20))[["FeO", "MgO"]].assign_attrs(source="noise")


@functools.cache
def cells() -> xr.Dataset:
    """A table of cells: eight of one size in each of two bands, and a cap."""
    low, west = (a.ravel() for a in np.meshgrid([-30.0, 30.0], np.arange(-180.0, 180.0, 45.0)))
    lat = np.append(np.stack([low, low + 60.0], 1), [[-90.0, -30.0]], axis=0)
    lon = np.append(np.stack([west, west + 45.0], 1), [[-180.0, 180.0]], axis=0)
    return xr.Dataset(
        {
            "FeO": ("cell", rng(40).uniform(4, 20, len(lat)), {"units": "wt%"}),
            "Th": ("cell", rng(41).uniform(0, 8, len(lat)), {"units": "ug g-1"}),
        },
        {"lat_bounds": (("cell", "bound"), lat), "lon_bounds": (("cell", "bound"), lon)},
        {"source": "noise"},
    )


@functools.cache
def oxide_network() -> Path:
    import torch

    from lunarray.oxides.novelty import fit_novelty

    torch.manual_seed(7)
    net = oxides.OxideCNN(n=4, bands=WAVES.size)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    net.set_standardisation(
        torch.full((24,), 0.1),
        torch.linspace(0.02, 0.05, 24),
        torch.tensor([8.0, 1.0, 24.0, 14.0, 7.0, 45.0]),
        torch.tensor([2.0, 0.5, 3.0, 1.0, 1.5, 0.5]),
    )
    level = rng(8).uniform(0.05, 0.15, (500, 1))
    pixels = (level * rng(9).normal(1, 0.02, (500, 24))).astype(np.float32)
    path = kept() / "oxides.safetensors"
    oxides.save_oxide_cnn(
        path, net.eval(), wavelengths=WAVES, oxides=oxides.OXIDES, novelty=fit_novelty(pixels)
    )
    return path


@functools.cache
def samples() -> xr.Dataset:
    """Pairs of spectra and oxides."""
    n = 24
    spectra = rng(30).uniform(0.05, 0.2, (n, WAVES.size)).astype("f4")
    abundance = rng(31).uniform(5, 20, (6, n)).astype("f4")
    return xr.Dataset(
        {
            "reflectance": (("sample", "wavelength"), spectra),
            **{
                o: ("sample", a, {"units": "wt%"})
                for o, a in zip(oxides.OXIDES, abundance, strict=True)
            },
            "status": ("sample", np.zeros(n, "u1")),
        },
        {
            "wavelength": WAVES,
            "sample": np.arange(n),
            "lat": ("sample", np.linspace(-60, 60, n)),
            "lon": ("sample", np.linspace(-170, 170, n)),
        },
    )


@functools.cache
def response() -> xrf.Response:
    return simulate.class_response(1024)


@functools.cache
def sun() -> xr.Dataset:
    return simulate.thermal_spectrum(1.2, 1e-5)


@functools.cache
def background() -> xr.Dataset:
    counts = np.round(4000 * np.exp(-np.arange(1024) / 400))
    return xr.Dataset({"counts": ("channel", counts), "exposure": 40_000.0, "n_detectors": 16.0})


@functools.cache
def orbit() -> xr.Dataset:
    return simulate.class_orbit(frames=7)


@functools.cache
def frames() -> xr.Dataset:
    """Frames of CLASS over highlands."""
    return simulate.class_counts(
        xrf.HIGHLAND, orbit(), sun(), response(), background=background(), seed=4
    )


@functools.cache
def plasma() -> Any:
    edges = 0.5 + 0.02 * np.arange(551)
    energy = (edges[1:] + edges[:-1]) / 2
    kt = np.geomspace(0.2, 4.0, 12)
    spectra = np.zeros((12, 2, 550))
    spectra[:, 0] = 1e8 * energy**-1.4 * np.exp(-energy / kt[:, None]) * 0.02
    line = np.exp(-0.5 * ((energy - 1.86) / 0.03) ** 2)
    spectra[:, 1] = 1e6 * np.exp(-1.86 / kt[:, None]) * line
    return PlasmaTable(kt, ("continuum", "Si"), edges, spectra, "test", "test")


@functools.cache
def xsm_response() -> xrf.Response:
    return simulate.class_response(1024, energies=1200, max_area=0.01)


@functools.cache
def xsm() -> xr.Dataset:
    """A spectrum of the Sun, counted for 100 s."""
    middle = (xsm_response().channel_lo + xsm_response().channel_hi) / 2
    counts = rng(72).poisson(2e4 * np.exp(-middle / 1.0)).astype("f8")
    return xr.Dataset(
        {
            "counts": ("channel", counts), "stat_error": ("channel", np.sqrt(counts)),
            "sys_error": ("channel", np.zeros(counts.size)), "exposure": 100.0,
        }
    )  # fmt: skip


@functools.cache
def night() -> xr.Dataset:
    dark = simulate.class_orbit(frames=7, subsolar_longitude=180.0)
    return simulate.class_counts(
        xrf.HIGHLAND, dark, sun(), response(), background=background(), seed=5
    )


@functools.cache
def elements() -> xr.Dataset:
    """Elements of ten footprints."""
    return xrf.fit_elements(frames(), sun(), response(), background())


@functools.cache
def image() -> xr.DataArray:
    """A piece of a NAC mosaic with nothing in one corner."""
    data = rng(40).normal(0.05, 0.01, (150, 170)).astype(np.float32)
    data[:40, :30] = np.nan
    return _mosaic(data, "image")


def _mosaic(data: np.ndarray, name: str) -> xr.DataArray:
    rows, columns = data.shape
    array = xr.DataArray(
        data, dims=("y", "x"), name=name, attrs={"source": "noise"},
        coords={"y": -180_000 - 1.5 * np.arange(rows), "x": 90_000 + 1.5 * np.arange(columns)},
    )  # fmt: skip
    return geo.assign_crs(array, "south")


@functools.cache
def mask() -> xr.DataArray:
    """Fractures, and where nothing is known."""
    data = np.zeros((150, 170), np.uint8)
    for row, column in ((30, 10), (60, 50), (100, 90)):
        for n in range(60):
            data[row + n // 2 : row + n // 2 + 4, column + n] = 1
    data[:40, :30] = 255
    return _mosaic(data, "mask")


@functools.cache
def lines() -> Any:
    return fractures.vectorize(mask(), min_area=0)


@functools.cache
def fracture_network() -> Path:
    import torch

    torch.manual_seed(0)
    network = fractures.light(4)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6)
                module.bias.normal_(0, 0.3)
        network.head.weight *= 4
    path = kept() / "fractures.safetensors"
    return fractures.save_model(path, network.eval().requires_grad_(False), overlap=32)


@functools.cache
def bank() -> Path:
    """A small bank of two regions beside each other."""
    import superres_cases as cases

    path = kept() / "gib.zarr"
    grid = superres.GIBGrid((1, 2), (10, 12), (-180.0, -30.0, 180.0, 30.0))
    made, _ = cases.bank(path, rng(50), grid, 60)
    superres.populate(path, made, progress=False)
    return path


@functools.cache
def networks() -> Path:
    """The networks of the bank's regions."""
    import superres_cases as cases

    folder = kept() / "models"
    superres.train_gib(bank(), folder, cases.TINY)
    return folder


@functools.cache
def gib() -> xr.Dataset:
    return superres.open_gib(bank()).load()


@functools.cache
def element_maps() -> xr.Dataset:
    return superres.superresolve(gib(), networks(), max_distance=None)


@functools.cache
def footprints() -> xr.Dataset:
    lat, lon = rng(60).uniform(-8, 40, 20), rng(61).uniform(-18, 55, 20)
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), np.stack([lat, lat + 6, lat + 6, lat], 1)),
            "corner_lon": (("footprint", "corner"), np.stack([lon, lon, lon + 2, lon + 2], 1)),
            "abundance": (("footprint", "element"), rng(62).uniform(2, 15, (20, 2))),
            "abundance_std": (("footprint", "element"), rng(63).uniform(1, 2, (20, 2))),
        },
        {"element": ["Mg", "Fe"], "footprint": np.arange(20)},
    )


def repeated(first: xr.Dataset) -> xr.Dataset:
    """Footprints that a second track sees again, a little to the east."""
    again = first.assign(corner_lon=first["corner_lon"] + 0.2, abundance=first["abundance"] + 0.5)
    both = xr.concat([first, again], "footprint")
    track = np.repeat([0, 1], first.sizes["footprint"])
    return both.assign_coords(
        footprint=np.arange(both.sizes["footprint"]), track=("footprint", track)
    )


def bank_grid() -> Any:
    """Small regions, for every pixel of them goes through a network."""
    return superres.GIBGrid((2, 2), (4, 5), (-180.0, -42.0, 180.0, 42.0))


@functools.cache
def slim() -> Any:
    """A ResNet50 with narrow bottlenecks."""
    from lunarray.superres.backbone import Backbone, random_digest

    return Backbone("random", random_digest(3, 4), seed=3, width=4, device="cpu")


@functools.cache
def albedo() -> xr.DataArray:
    lat, lon = np.arange(89.0, -90, -4), np.arange(-178.0, 180, 4)
    values = 0.2 + 0.1 * np.cos(np.deg2rad(lon)) * np.cos(np.deg2rad(lat))[:, None]
    values = values + rng(64).normal(0, 0.005, values.shape)
    return xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"), "albedo")


@functools.cache
def photometry() -> xr.Dataset:
    """Of Hapke's model, by wavelength."""
    nm = np.linspace(500.0, 1700.0, 20)
    values = {"b0": 1.5, "h": 0.06, "c": 0.5, "g": 0.4}
    return xr.Dataset(
        {name: ("wavelength", np.full(20, v)) for name, v in values.items()}, {"wavelength": nm}
    )


@functools.cache
def truth_scene() -> xr.Dataset:
    return simulate.polar_scene("south", 40_000.0, 86.0, seed=1).compute()


@functools.cache
def soils() -> xr.DataArray:
    return simulate.soils(12, 5).reflectance


@functools.cache
def composition() -> xr.DataArray:
    lat, lon = np.arange(-20.0, 21, 2), np.arange(-5.0, 6)
    weights = np.array([xrf.HIGHLAND[e] for e in xrf.ELEMENTS])[:, None, None]
    return xr.DataArray(
        weights * rng(70).uniform(0.9, 1.1, (8, lat.size, lon.size)),
        {"element": list(xrf.ELEMENTS), "lat": lat, "lon": lon},
        ("element", "lat", "lon"),
    )


@functools.cache
def light() -> xr.Dataset:
    return xrf.flag_frames(frames())


@functools.cache
def statistics() -> xr.Dataset:
    return geo.region_statistics(maps(), regions())


@functools.cache
def curves() -> xr.Dataset:
    values = {n: (("epoch", "split"), rng(80).uniform(0, 1, (12, 2))) for n in ("loss", "F1")}
    return xr.Dataset(values, {"epoch": np.arange(1, 13), "split": ["training", "validation"]})


@functools.cache
def spectra_drawn() -> xr.Dataset:
    return xrf.spectrum_components(frames(), elements(), sun(), response(), background(), index=2)


@functools.cache
def density() -> xr.DataArray:
    return fractures.density(lines(), 60.0, like=mask())


@functools.cache
def triptych() -> xr.Dataset:
    return oxides.region_maps(maps(), globe(), regions()[0])


def regions() -> list[Any]:
    return [geo.Circle(lon, -88, 40e3, f"r{lon}") for lon in (0, 90, 180)]


# ------------------------------------------------------------------ the table

SPECTRA = {"along": ("observation",), "across": ("wavelength",)}
PIXELS = {"along": ("y", "x"), "across": ("wavelength",)}
MAP = {"along": ("y", "x")}
GLOBE = {"along": ("lat", "lon")}
TIMES = {"along": ("time",)}
PLACES = {"along": ("footprint",)}
#: Sums over chunks are added in another order.
SUMS = 1e-12

COMPUTES = "reads the whole to know its size"
TRAINS = "trains"

VERBS = [
    # sp
    Verb("sp.mask_quality", native, **SPECTRA),
    Verb("sp.join_detectors", native, **SPECTRA),
    Verb("sp.despike", tracks, **SPECTRA),
    Verb("sp.smooth", tracks, **SPECTRA),
    Verb("sp.resample_bands", tracks, **SPECTRA),
    Verb("sp.condition", native, **SPECTRA),
    Verb(
        "sp.normalize_photometry",
        tracks,
        lambda ds: sp.normalize_photometry(ds, photometry(), (10.0, 0.0, 10.0)),
        **SPECTRA,
    ),
    Verb("sp.grid", tracks, lambda ds: sp.grid(ds, "north", resolution=100_000.0), **SPECTRA),
    Verb("sp.light_uncertainty", native, **SPECTRA),
    Verb(
        "sp.correct_topography",
        tracks,
        lambda ds: sp.correct_topography(ds, heights(), photometry(), subsolar=(20.0, 1.0)),
        **SPECTRA,
    ),
    Verb(
        "sp.radiance_factor",
        native,
        lambda ds: sp.radiance_factor(ds.rename(reflectance="radiance"), solar_flux()),
        **SPECTRA,
    ),
    Verb(
        "sp.scale_to_albedo", native, lambda ds: sp.scale_to_albedo(ds, normal_albedo()), **SPECTRA
    ),
    Verb("sp.is_native", native, **SPECTRA, lazy=False),
    # oxides
    Verb(
        "oxides.invert_oxides", cube, lambda ds: oxides.invert_oxides(ds, oxide_network()), **PIXELS
    ),
    Verb(
        "oxides.feo_lucey2000",
        cube,
        lambda ds: oxides.feo_lucey2000(ds, scale="laboratory"),
        **PIXELS,
    ),
    Verb("oxides.mg_number", maps, **MAP),
    Verb("oxides.difference", lambda: (maps(), globe()), **MAP),
    Verb("oxides.polar_cap", cube, lambda ds: oxides.polar_cap(ds, 87.0), **PIXELS),
    Verb("oxides.metrics", lambda: (maps(), maps() * 1.1), **MAP, rtol=SUMS),
    Verb(
        "oxides.atlas",
        cube,
        lambda ds: oxides.atlas(south=ds, model=oxide_network(), latitude=87.0),
        **PIXELS,
        steps=("where", "persist+transpose"),
    ),
    Verb(
        "oxides.region_maps",
        lambda: (maps(), globe()),
        lambda a, b: oxides.region_maps(a, b, regions()[0]),
        along=("y", "x", "lat", "lon"),
    ),
    Verb("oxides.region_table", statistics, along=("region",), lazy=False),
    Verb(
        "oxides.build_samples",
        lambda: (cube(), globe()),
        lambda a, b: oxides.build_samples(
            a,
            b,
            lon=(-170, 170, 40),
            lat=(87, 89, 1),
            spectra_window=1,
            reference_window=1,
            oxides=["FeO", "MgO"],
        ),
        along=("y", "x", "lat", "lon"),
        across=("wavelength",),
    ),
    Verb(
        "oxides.select_samples",
        samples,
        along=("sample",),
        across=("wavelength",),
        lazy=False,
        why=COMPUTES,
    ),
    Verb("oxides.band_correlation", samples, along=("sample",), across=("wavelength",), rtol=1e-6),
    Verb(
        "oxides.train",
        samples,
        lambda ds: oxides.train(ds, oxides.TrainSettings(n=2, epochs=1)).loss,
        along=("sample",),
        lazy=False,
        why=TRAINS,
        steps=("mask",),
    ),
    Verb(
        "oxides.compare_methods",
        samples,
        lambda ds: oxides.compare_methods(
            ds, oxides.TrainSettings(n=2, epochs=1), methods=("mean", "pls"), folds=2
        ),
        along=("sample",),
        lazy=False,
        why=TRAINS,
        steps=(),
    ),
    Verb(
        "oxides.search",
        samples,
        lambda ds: oxides.search(
            ds, oxides.TrainSettings(epochs=1), n=(2,), learning_rate=(1e-2,), folds=2
        ),
        along=("sample",),
        lazy=False,
        why=TRAINS,
        steps=(),
    ),
    # geo
    Verb("geo.assign_crs", cube, lambda ds: geo.assign_crs(ds, "south"), **PIXELS),
    Verb(
        "geo.reproject",
        globe,
        lambda ds: geo.reproject(ds, geo.polar_grid("south", 40_000.0, 80.0)),
        **GLOBE,
    ),
    Verb(
        "geo.assign_grid",
        maps,
        lambda ds: geo.assign_grid(ds, geo.geobox_of(maps())),
        **MAP,
        steps=("where", "persist"),
    ),
    Verb("geo.crs_of", cube, **PIXELS, lazy=False),
    Verb("geo.geobox_of", cube, **PIXELS, lazy=False),
    Verb("geo.spatial_dims", cube, **PIXELS, lazy=False),
    Verb(
        "geo.region_statistics",
        maps,
        lambda ds: geo.region_statistics(ds[["FeO"]], regions()),
        **MAP,
        rtol=SUMS,
    ),
    # xrf
    Verb("xrf.flag_frames", frames, **TIMES),
    Verb("xrf.night_background", night, **TIMES, rtol=SUMS),
    Verb("xrf.coadd", frames, lambda ds: xrf.coadd(ds, window=4), **TIMES),
    Verb(
        "xrf.fit_elements",
        frames,
        lambda ds: xrf.fit_elements(ds, sun(), response(), background()),
        **TIMES,
    ),
    Verb(
        "xrf.grid_footprints",
        elements,
        lambda ds: xrf.grid_footprints(ds, "geographic", 0.5, ratios=("Mg/Si", "Al/Si")),
        **TIMES,
    ),
    Verb(
        "xrf.calibrate_response",
        frames,
        lambda ds: xrf.calibrate_response(ds, response(), min_counts=100),
        **TIMES,
        rtol=1e-5,
    ),
    Verb("xrf.elements_to_oxides", elements, **TIMES),
    Verb("xrf.oxides_to_elements", maps, **MAP),
    Verb(
        "xrf.spectrum_components",
        lambda: (frames(), elements()),
        lambda a, b: xrf.spectrum_components(a, b, sun(), response(), background(), index=2),
        **TIMES,
        lazy=False,
        why="one spectrum, for a picture",
        steps=(),
    ),
    Verb(
        "xrf.fit_solar",
        xsm,
        lambda ds: xrf.fit_solar(ds, xsm_response(), plasma=plasma()),
        along=("channel",),
        lazy=False,
        why="one spectrum of the Sun",
        steps=(),
    ),
    Verb(
        "xrf.window_suns",
        frames,
        lambda ds: xrf.window_suns(ds, plasma=plasma()),
        along=("time",),
        lazy=False,
        why="a Sun is fitted, not computed by blocks",
        steps=(),
    ),
    Verb(
        "xrf.write_footprints",
        elements,
        through(xrf.write_footprints, geopandas.read_file, "f.gpkg"),
        **TIMES,
        lazy=False,
    ),
    # fractures
    Verb(
        "fractures.map_fractures",
        lambda: image()[:100, :110],
        lambda da: fractures.map_fractures(da, fracture_network(), tile=64),
        **MAP,
    ),
    Verb(
        "fractures.vectorize",
        mask,
        lambda da: fractures.vectorize(da, min_area=0),
        **MAP,
        lazy=False,
    ),
    Verb("fractures.classical_fractures", image, **MAP),
    Verb("fractures.mapped_area", mask, **MAP, lazy=False, rtol=SUMS),
    Verb(
        "fractures.mosaic",
        image,
        lambda da: fractures.mosaic([da, da + np.float32(1)], resolution=2.0, chunks=50),
        **MAP,
        why="made block by block, of images or of files",
    ),
    Verb(
        "fractures.segmentation_metrics",
        lambda: (mask(), mask()[::-1].assign_coords(mask().coords)),
        **MAP,
        lazy=False,
    ),
    Verb(
        "fractures.tiles",
        lambda: (image(), mask()),
        lambda a, b: [np.asarray(x) for x in next(iter(fractures.tiles(a, b, size=64)))],
        **MAP,
        lazy=False,
    ),
    # superres
    Verb(
        "superres.superresolve",
        gib,
        lambda ds: superres.superresolve(ds, networks(), max_distance=None),
        **GLOBE,
        steps=("where", "persist+double"),
    ),
    Verb(
        "superres.as_footprints",
        footprints,
        **PLACES,
        lazy=False,
        why="its footprints are looked at one by one",
    ),
    Verb(
        "superres.repeatability",
        lambda: repeated(footprints()),
        superres.repeatability,
        **PLACES,
        lazy=False,
        why="it looks for pairs among all footprints",
    ),
    Verb(
        "superres.read_region",
        gib,
        lambda ds: superres.read_region(ds, (0, 1), 2),
        **GLOBE,
        steps=("where", "persist+double"),
    ),
    Verb(
        "superres.surface_features",
        albedo,
        lambda da: superres.surface_features(
            da,
            bank_grid(),
            (0, 0),
            slim(),
            select=range(0, 64, 32),
            context=0,
            value_range=(0.1, 0.3),
        ),
        **GLOBE,
        steps=("where+transpose",),
    ),
    Verb(
        "superres.write_element_maps",
        element_maps,
        lambda ds: read_all(lambda place: superres.write_element_maps(ds, place)),
        **GLOBE,
        lazy=False,
    ),
    Verb(
        "superres.write_element_vectors",
        footprints,
        through(superres.write_element_vectors, geopandas.read_file, "v.gpkg"),
        **PLACES,
        lazy=False,
    ),
    # maps
    Verb("maps.rasterize_cells", cells, along=("cell",)),
    Verb(
        "maps.compare_elements",
        element_maps,
        lambda ds: maps_room.compare_elements(ds, {"twice": 2 * ds.abundance}),
        **GLOBE,
        rtol=SUMS,
    ),
    Verb(
        "maps.cells_at",
        cells,
        lambda ds: maps_room.cells_at(ds, [10.0, 190.0, -20.0], [0.0, 40.0, 90.0]),
        along=("cell",),
    ),
    # simulate
    Verb(
        "simulate.add_sp_errors",
        soils,
        lambda da: simulate.add_sp_errors(da, 6),
        along=("sample",),
        lazy=False,
    ),
    Verb(
        "simulate.class_counts",
        composition,
        lambda da: simulate.class_counts(da, orbit(), sun(), response(), seed=3),
        **GLOBE,
        lazy=False,
    ),
    Verb(
        "simulate.write_class_frames",
        frames,
        through(
            simulate.write_class_frames, lambda path: xrf.open_class(path).drop_vars("file"), ""
        ),
        **TIMES,
        lazy=False,
    ),
    Verb("simulate.mistaken_sun", sun, along=("energy",), lazy=False, why="one Sun", steps=()),
    Verb("simulate.truth_maps", truth_scene, **MAP),
    # store and export
    Verb("store.stamp", maps, lambda ds: store.stamp(ds, "made"), **MAP),
    Verb(
        "store.to_zarr",
        cube,
        through(store.to_zarr, store.open_zarr, "a.zarr"),
        **PIXELS,
        lazy=False,
    ),
    Verb(
        "export.to_cog",
        maps,
        lambda ds: read_all(lambda place: export.to_cog(ds[["FeO", "MgO"]], place / "m.tif")),
        **MAP,
        lazy=False,
    ),
    Verb(
        "export.to_netcdf",
        maps,
        through(export.to_netcdf, functools.partial(xr.open_dataset, engine="h5netcdf"), "m.nc"),
        **MAP,
        lazy=False,
    ),
    Verb(
        "export.stac_item",
        maps,
        lambda ds: [json.dumps(export.stac_item(ds, "m.zarr", time="2009-06-10"), sort_keys=True)],
        **MAP,
        lazy=False,
    ),
    Verb(
        "export.to_pds4",
        maps,
        lambda ds: read_all(lambda place: export.to_pds4(ds[["FeO", "MgO"]], place / "p")),
        **MAP,
        lazy=False,
    ),
    Verb(
        "export.to_vector",
        maps,
        lambda ds: read_all(
            lambda place: export.to_vector(ds.FeO, place / "v.gpkg", levels=[9, 10, 11])
        ),
        **MAP,
        lazy=False,
    ),
    # plot
    *(
        Verb(
            f"plot.{name}",
            make,
            call,
            **dims,
            lazy=False,
            # Pictures read their input first; three kinds of them stand for all.
            steps=("mask",) if name in ("maps", "spectra", "graduated_map") else (),
        )
        for name, make, call, dims in (
            ("maps", maps, lambda ds: plot.maps(ds, variables=["FeO", "MgO"]), MAP),
            ("polar_map", maps, lambda ds: plot.polar_map(south=ds, variable="FeO"), MAP),
            (
                "polar_atlas",
                maps,
                lambda ds: plot.polar_atlas({"south": ds}, variables=["FeO"]),
                MAP,
            ),
            ("difference_map", maps, lambda ds: plot.difference_map(south=ds), MAP),
            (
                "comparison",
                lambda: (maps(), maps() * 1.1),
                lambda a, b: plot.comparison(a, b, variables=["FeO"]),
                MAP,
            ),
            (
                "prediction_scatter",
                lambda: (maps(), maps() * 1.1),
                lambda a, b: plot.prediction_scatter(a, b, variables=["FeO"]),
                MAP,
            ),
            ("region_map", maps, lambda ds: plot.region_map(ds.FeO, regions()), MAP),
            (
                "region_bars",
                statistics,
                lambda ds: plot.region_bars(ds, variables=["FeO"]),
                {"along": ("region",)},
            ),
            ("region_triptychs", triptych, plot.region_triptychs, GLOBE),
            (
                "correlation_curves",
                lambda: oxides.band_correlation(samples()),
                None,
                {"along": ("oxide",)},
            ),
            (
                "sample_map",
                maps,
                lambda ds: plot.sample_map(samples(), ds.FeO),
                MAP,
            ),
            ("spectra", tracks, None, SPECTRA),
            ("heat_map", element_maps, lambda ds: plot.heat_map(ds, "Fe"), GLOBE),
            (
                "element_comparison",
                element_maps,
                lambda ds: plot.element_comparison(ds, {"twice": 2 * ds.abundance}),
                GLOBE,
            ),
            ("graduated_map", footprints, lambda ds: plot.graduated_map(ds, "Mg"), PLACES),
            ("surface_3d", element_maps, lambda ds: plot.surface_3d(ds, "Fe", points=20), GLOBE),
            ("footprints", elements, plot.footprints, TIMES),
            ("light_curve", light, plot.light_curve, TIMES),
            ("xrf_spectrum", spectra_drawn, plot.xrf_spectrum, {"along": ("channel",)}),
            ("detections", image, lambda da: plot.detections(da, lines()), MAP),
            ("agreement", image, lambda da: plot.agreement(da, mask(), mask()), MAP),
            ("fracture_density", density, plot.fracture_density, MAP),
            ("training_curves", curves, plot.training_curves, {"along": ("epoch",)}),
        )
    ),
    # view
    Verb("view.explore", maps, explored, **MAP, lazy=False, steps=("mask",)),
]


# ------------------------------------------------------------------ verbs after one another


def stored(ds: Any) -> Any:
    """Written and opened again, lazily; the store goes with the session."""
    path = Path(tempfile.mkdtemp(dir=kept())) / "a.zarr"
    store.to_zarr(ds, path)
    return store.open_zarr(path)


#: From an input through verbs, each taking what the one before gives: (name, input, dimensions that are cut, verbs).
CHAINS: tuple[
    tuple[str, Callable[[], Any], dict[str, Any], tuple[tuple[str, Callable[[Any], Any]], ...]], ...
] = (
    (
        "tracks of SP to a map of oxides",
        native,
        {"along": ("observation", "y", "x")},
        (
            ("mask_quality", sp.mask_quality),
            ("join_detectors", sp.join_detectors),
            ("condition", sp.condition),
            ("grid", lambda ds: sp.grid(ds, "north", resolution=200_000.0)),
            ("invert_oxides", lambda ds: oxides.invert_oxides(ds, uncertainty=True)),
            ("to_zarr, open_zarr", stored),
            ("oxides_to_elements", xrf.oxides_to_elements),
        ),
    ),
    (
        "cube to an atlas",
        cube,
        {"along": ("y", "x")},
        (
            ("polar_cap", lambda ds: oxides.polar_cap(ds, 86.5)),
            ("to_zarr, open_zarr", stored),
            ("invert_oxides", lambda ds: oxides.invert_oxides(ds, oxide_network())),
            ("mg_number", lambda ds: ds.assign(Mg_number=oxides.mg_number(ds))),
            (
                "reproject",
                lambda ds: geo.reproject(
                    ds[["FeO", "Mg_number"]], geo.polar_grid("south", 30_000.0, 87.0)
                ),
            ),
            ("difference", lambda ds: oxides.difference(ds[["FeO"]], globe())),
            ("region_statistics", lambda ds: geo.region_statistics(ds, regions())),
        ),
    ),
    (
        "frames of CLASS to a map of elements",
        frames,
        {"along": ("time", "lat", "lon")},
        (
            ("flag_frames", xrf.flag_frames),
            ("coadd", lambda ds: xrf.coadd(ds, window=3)),
            ("fit_elements", lambda ds: xrf.fit_elements(ds, sun(), response(), background())),
            ("to_zarr, open_zarr", stored),
            ("grid_footprints", lambda ds: xrf.grid_footprints(ds, "geographic", 5.0)),
            ("to_zarr, open_zarr again", stored),
            ("elements_to_oxides", xrf.elements_to_oxides),
        ),
    ),
    (
        "NAC images to fractures",
        image,
        {"along": ("y", "x")},
        (
            ("mosaic", lambda da: fractures.mosaic([da, da + np.float32(1)], resolution=2.0)),
            ("to_zarr, open_zarr", stored),
            ("map_fractures", lambda ds: fractures.map_fractures(ds, fracture_network(), tile=64)),
            (
                "reproject",
                lambda ds: geo.reproject(
                    ds, geo.lunar_grid(geo.crs_of(ds), 3.0, (90_000, -180_200, 90_240, -180_000))
                ),
            ),
            ("vectorize", lambda ds: fractures.vectorize(ds, min_area=0)),
        ),
    ),
    (
        "bank to finer maps",
        gib,
        {"along": ("lat", "lon")},
        (
            (
                "superresolve",
                lambda ds: superres.superresolve(ds, networks(), max_distance=None),
            ),
            ("to_zarr, open_zarr", stored),
            ("elements_to_oxides", xrf.elements_to_oxides),
        ),
    ),
)
