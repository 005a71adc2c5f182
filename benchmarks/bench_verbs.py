"""Verbs of sp, oxides, xrf and store that no other suite times by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import SEED, cube, dask_threads, needs_lunarray, tracks


class Spectra:
    """Each step of `condition`, and photometry, on 10 000 observations in four blocks."""

    timeout = 300
    params = (
        (
            "mask_quality",
            "join_detectors",
            "despike",
            "smooth",
            "resample_bands",
            "normalize_photometry",
        ),
    )
    param_names = ("verb",)

    def setup(self, verb: str) -> None:
        with needs_lunarray():
            from lunarray import sp
        native = tracks(10_000)
        if verb in ("mask_quality", "join_detectors"):
            self.source = native
        else:
            self.source = sp.join_detectors(native).compute()
        self.arguments: tuple[Any, ...] = ()
        if verb == "resample_bands":
            self.arguments = (sp.WAVELENGTHS_150,)
        if verb == "normalize_photometry":
            self.source, self.arguments = self._photometry(sp)
        self.source = self.source.chunk(observation=2_500)
        self.verb = getattr(sp, verb)
        self._run()

    @staticmethod
    def _photometry(sp: Any) -> tuple[Any, tuple[Any, ...]]:
        import xarray as xr

        rng = np.random.default_rng(SEED)
        spectra = sp.condition(tracks(10_000)).compute()
        angles = {
            name: ("observation", rng.uniform(10, 60, 10_000).astype(np.float32), {"units": "deg"})
            for name in ("incidence", "emission", "phase")
        }
        bands = spectra["wavelength"]
        parameters = xr.Dataset(
            {n: ("wavelength", np.full(bands.size, v)) for n, v in PHOTOMETRY.items()},
            coords={"wavelength": bands},
        )
        return spectra.assign_coords(angles), (parameters,)

    def _run(self) -> None:
        with dask_threads():
            self.verb(self.source, *self.arguments)["reflectance"].compute()

    def time_verb(self, verb: str) -> None:
        self._run()

    def peakmem_verb(self, verb: str) -> None:
        self._run()


#: Of the SP photometric model: some highlands, the same at each wavelength.
PHOTOMETRY = {"b0": 1.6, "h": 0.08, "c": 0.35, "g": 0.4}


class BandRatio:
    """`feo_lucey2000` on a map of 512 x 512 pixels."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.oxides import feo_lucey2000
        self.verb, self.source = feo_lucey2000, cube(512, 512, chunk=256)
        self._run()

    def _run(self) -> None:
        with dask_threads():
            self.verb(self.source).compute()

    def time_feo_lucey2000(self) -> None:
        self._run()

    def peakmem_feo_lucey2000(self) -> None:
        self._run()


class Frames:
    """`flag_frames` and `night_background` of 2000 CLASS frames in blocks."""

    timeout = 300
    params = (("flag_frames", "night_background"),)
    param_names = ("verb",)

    def setup(self, verb: str) -> None:
        with needs_lunarray():
            from lunarray import xrf
        from benchmarks.bench_xrf import inputs

        frames = inputs(2000, chunk=256)[0]
        if verb == "night_background":
            # As seen from the night side, of which there is none in that orbit.
            frames["incidence"] = frames["incidence"] * 0 + 120
        self.verb, self.source = getattr(xrf, verb), frames
        self._run()

    def _run(self) -> None:
        with dask_threads():
            self.verb(self.source).compute()

    def time_verb(self, verb: str) -> None:
        self._run()

    def peakmem_verb(self, verb: str) -> None:
        self._run()


class Elements:
    """What is made of fitted elements: maps, vectors, oxides."""

    timeout = 300
    params = (("grid_footprints", "write_footprints", "elements_to_oxides", "oxides_to_elements"),)
    param_names = ("verb",)

    def setup(self, verb: str) -> None:
        with needs_lunarray():
            from lunarray import xrf
        ds = self._fitted(xrf)
        calls: dict[str, Callable[[], Any]] = {
            "grid_footprints": lambda: xrf.grid_footprints(ds, "geographic", 0.5).compute(),
            "write_footprints": lambda: xrf.write_footprints(ds, "fp.parquet", overwrite=True),
            "elements_to_oxides": lambda: xrf.elements_to_oxides(ds).compute(),
            "oxides_to_elements": lambda: xrf.oxides_to_elements(self.oxides).compute(),
        }
        self.oxides = xrf.elements_to_oxides(ds)
        self.call = calls[verb]
        self.call()

    @staticmethod
    def _fitted(xrf: Any) -> Any:
        import xarray as xr

        rng, n = np.random.default_rng(SEED), 2_000
        lon, lat = rng.uniform(-170, 170, n), rng.uniform(-60, 60, n)
        half = 0.2
        corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        elements = np.array(["Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O"])
        values = rng.uniform(1, 20, (n, elements.size)).astype(np.float32)
        dims = ("time", "element")
        return xr.Dataset(
            {
                "abundance": (dims, values, {"units": "wt%"}),
                "abundance_std": (dims, values / 10, {"units": "wt%"}),
            },
            coords={
                "time": np.datetime64("2021-07-01", "ns") + np.arange(n) * np.timedelta64(96, "s"),
                "element": elements,
                "corner_lon": (("time", "corner"), lon[:, None] + corners[:, 0]),
                "corner_lat": (("time", "corner"), lat[:, None] + corners[:, 1]),
            },
        )

    def time_verb(self, verb: str) -> None:
        self.call()

    def peakmem_verb(self, verb: str) -> None:
        self.call()


class GeoTiff:
    """`to_cog` of eight maps of 1024 x 1024 pixels."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.export import to_cog
            from lunarray.geo import assign_crs
        import xarray as xr

        plain = cube(8, 8).isel(wavelength=0, drop=True)
        axis = 500.0 * np.arange(1024)
        data = np.random.default_rng(SEED).random((1024, 1024), dtype=np.float32)
        maps = xr.Dataset(
            {f"map{i}": (("y", "x"), data + i) for i in range(8)},
            coords={"y": ("y", axis[::-1], plain.y.attrs), "x": ("x", axis, plain.x.attrs)},
        )
        self.to_cog, self.maps = to_cog, assign_crs(maps, "north").chunk(y=256, x=256)

    def _run(self) -> None:
        with dask_threads():
            self.to_cog(self.maps, "cog")
        shutil.rmtree("cog")

    def time_to_cog(self) -> None:
        self._run()

    def peakmem_to_cog(self) -> None:
        self._run()
