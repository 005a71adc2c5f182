"""The ``.lunar`` accessors as type checkers and editors see them. Written by ``python tests/stubs.py``."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from lunarray.engine import execution
from lunarray.engine.models import Device, Model, ModelSpec
from lunarray.plot.drawing import Output
from lunarray.typing import DataArray, Dataset
from lunarray.view.viewer import Viewer
from lunarray.xrf.api import Engine
from lunarray.xrf.atomic import AtomicTables
from lunarray.xrf.coadd import Strategy
from lunarray.xrf.response import Response
from lunarray.xrf.settings import Conventions, FitSettings

class LunarDatasetAccessor:
    """Verbs of lunar science on a Dataset, as ``ds.lunar.<verb>(...)``."""

    def __init__(self, obj: xr.Dataset) -> None: ...
    def mask_quality(
        self,
        flags: Iterable[str] | int = ...,
        *,
        valid_range: tuple[float, float] = (0.0, 1.0),
        max_incidence: float | None = None,
        max_emission: float | None = None,
    ) -> Dataset:
        """Mask what the quality words, the range of values or the geometry reject."""

    def join_detectors(
        self,
        *,
        method: Literal["ratio", "difference"] | None = "ratio",
        anchor: Literal["VIS", "NIR1"] = "VIS",
        window: tuple[float, float] = (930.0, 965.0),
        nir2: bool = False,
        keep_step: bool = False,
    ) -> Dataset:
        """Join VIS and NIR1 on one rising axis of wavelengths, and remove the step between them."""

    def despike(
        self,
        *,
        window: int = 7,
        threshold: float = 4.0,
        channels: Sequence[float] | Literal["auto"] | None = "auto",
        fill: bool = True,
        max_gap: float = 40.0,
        floor: float = 0.002,
    ) -> Dataset:
        """Remove channels that stick out of their spectrum, and those on a list of bad ones."""

    def smooth(self, window: float = 50.0, order: int = 2) -> Dataset:
        """Smooth spectra by local least-squares polynomials (Savitzky and Golay 1964) in a window of fixed
        width in nm."""

    def resample_bands(
        self, wavelengths: Sequence[float] | np.ndarray = ..., *, max_gap: float = 50.0
    ) -> Dataset:
        """Bring spectra to given wavelengths by linear interpolation."""

    def normalize_photometry(
        self,
        parameters: xr.Dataset,
        geometry: tuple[float, float, float] = (30.0, 0.0, 30.0),
        *,
        observed: tuple[float, float, float] | None = None,
    ) -> Dataset:
        """Normalise reflectance from the geometry of observation to a standard one by the photometric model of
        SP."""

    def light_uncertainty(self, *, slope_rms: float = ...) -> DataArray:
        """Estimate how uncertain the light is under which spectra were taken."""

    def correct_topography(
        self,
        dem: str | os.PathLike[str] | xr.DataArray,
        parameters: xr.Dataset | None = None,
        *,
        undo: bool = False,
        subsolar: tuple[float, float] | None = None,
        footprint: float | None = None,
        reach: float = 170000.0,
        slope_error: float | None = None,
    ) -> Dataset:
        """Normalise reflectance to 30°/0°/30° by the true angles of the ground, and leave out what lies in
        shadow."""

    def scale_to_albedo(
        self,
        albedo: str | os.PathLike[str] | xr.DataArray,
        *,
        wavelength: float = 1064.0,
        width: float = 25.0,
        ratio: float | Sequence[tuple[float, float]] | Literal["sp"] = "sp",
        footprint: float | None = None,
        map_uncertainty: float = ...,
    ) -> Dataset:
        """Scale each spectrum to the normal albedo that a map, such as LOLA's, has at one wavelength."""

    def condition(self, wavelengths: Sequence[float] | np.ndarray = ...) -> Dataset:
        """Condition spectra by the default steps."""

    def grid(
        self,
        grid: Any = "north",
        *,
        resolution: float | None = None,
        latitude: float = 65.0,
        bounds: Sequence[float] | None = None,
        variables: Sequence[str] | str | None = None,
        stats: Sequence[str] = ...,
        fill_radius: float | None = None,
        chunks: int | tuple[int, int] | Mapping[str, int] | None = None,
    ) -> Dataset:
        """Grid tracks onto a lunar map."""

    def invert_oxides(
        self,
        model: str | os.PathLike[str] | ModelSpec | Model | None = None,
        *,
        device: Device = "auto",
        batch_size: int = ...,
        uncertainty: bool = False,
        level: float = 0.9,
        light_uncertainty: float | xr.DataArray | None = None,
    ) -> Dataset:
        """Invert reflectance spectra to the abundances of six oxides and Mg#."""

    def feo_lucey2000(self, *, scale: Literal["auto", "sp", "laboratory"] = "auto") -> DataArray:
        """Estimate FeO from two bands alone, as a check that needs no training."""

    def elements_to_oxides(self) -> Dataset:
        """Convert abundances of elements to those of oxides."""

    def map_fractures(
        self,
        model: str | os.PathLike[str] | ModelSpec | Model | None = None,
        threshold: float = 0.5,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
        scales: Sequence[float] | None = None,
        within: xr.DataArray | None = None,
        sun_azimuth: float | None = None,
        device: Device = "auto",
        threads: int | None = None,
    ) -> Dataset:
        """Detect fractures, or whatever lines the model was trained on, in an image or mosaic."""

    def vectorize(
        self,
        *,
        probability: xr.DataArray | None = None,
        source: xr.DataArray | None = None,
        min_area: float = 150.0,
        seam_distance: int = 3,
        seam_share: float = 0.5,
        within: Any = None,
        within_share: float = 0.5,
        connectivity: Literal[4, 8] = 8,
        centrelines: bool = True,
    ) -> geopandas.GeoDataFrame:
        """Outline and measure every connected feature of a mask."""

    def write_element_maps(
        self,
        folder: str | os.PathLike[str],
        *,
        elements: Sequence[str] | None = None,
        std: bool = True,
        cmap: str = "viridis",
        percentiles: tuple[float, float] = (1.0, 99.0),
    ) -> list[Path]:
        """Write a cloud-optimised GeoTIFF of each element, with a QGIS style beside it."""

    def to_zarr(
        self,
        path: Any,
        *,
        overwrite: bool = False,
        token: str | None = None,
        progress: bool | None = None,
        description: str | None = None,
        errors: execution.Errors | None = None,
        retries: int | None = None,
        report: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Write to a Zarr store, region by region; go on where an interrupted write stopped."""

    def to_cog(
        self,
        path: str | os.PathLike[str],
        *,
        compress: str = "DEFLATE",
        cmap: str | None = "viridis",
    ) -> list[Path]:
        """Write gridded variables as cloud-optimised GeoTIFF, one file a variable, each with a QGIS style."""

    def to_netcdf(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        institution: str | None = None,
        compress: int = 4,
    ) -> Path:
        """Write a netCDF-4 file that follows the CF conventions, 1.8."""

    def to_pds4(
        self,
        path: str | os.PathLike[str],
        *,
        identifier: str = "urn:nasa:pds:lunarray:data",
        title: str | None = None,
        investigation: tuple[str, str] = (
            "lunarray",
            "urn:nasa:pds:context:investigation:other_investigation.lunarray",
        ),
        observing_system: str | None = None,
        time: Any = None,
    ) -> list[Path]:
        """Write maps as products of PDS4: for each variable a raw array (.img) and its label (.xml)."""

    def plot_spectra(
        self,
        *,
        variable: str = "reflectance",
        at: Sequence[tuple[float, float]] | None = None,
        by: str | None = "orbit",
        quantiles: tuple[float, float] = (0.16, 0.84),
        **output: Unpack[Output],
    ) -> Figure:
        """Draw spectra: each one if they are few, their median and a band of quantiles if they are many."""

    def plot_maps(
        self,
        *,
        variables: Sequence[str] | None = None,
        cmap: str = ...,
        percentiles: tuple[float, float] = (1.0, 99.0),
        columns: int = 4,
        max_pixels: int = 500000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw every oxide of a Dataset, one panel each: maps, or profiles and positions of tracks."""

    def plot_polar(
        self,
        south: xr.DataArray | xr.Dataset | None = None,
        *,
        variable: str | None = None,
        cmap: str = ...,
        vmin: float | None = None,
        vmax: float | None = None,
        label: str | None = None,
        latitude: float = 60.0,
        graticule: bool = True,
        scale_bar: bool = True,
        max_pixels: int = 2000000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw maps of the poles side by side on one colour scale."""

    def plot_heat_map(
        self,
        element: str | None = None,
        *,
        base: xr.DataArray | None = None,
        footprints: xr.Dataset | None = None,
        radius: float = 0.0,
        vmin: float | None = None,
        vmax: float | None = None,
        cmap: str = ...,
        max_pixels: int = 500000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw abundances as colours over a base map, with their uncertainty beside them."""

    def plot_surface(
        self,
        element: str | None = None,
        *,
        vmin: float | None = None,
        vmax: float | None = None,
        cmap: str = ...,
        elevation: float = 35.0,
        azimuth: float = -60.0,
        points: int = 200,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw abundances as a surface in three dimensions."""

    def explore(self, *, name: str = "data", height: int = 600) -> Viewer:
        """Look at maps, footprints or tracks on an interactive map, in a notebook."""

    def compare_elements(
        self,
        others: Mapping[str, xr.Dataset | xr.DataArray],
        *,
        grid: Any = None,
        elements: Sequence[str] | None = None,
        name: str = "maps",
    ) -> Dataset:
        """Bring element maps of several sources onto one grid, and compare each with the first."""

    def plot_element_comparison(
        self,
        others: Mapping[str, xr.Dataset | xr.DataArray] | None = None,
        *,
        grid: Any = None,
        elements: Sequence[str] | None = None,
        cmap: str = ...,
        max_pixels: int = 250000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw element maps of several sources side by side, a row for each element, with how well they agree."""

    def radiance_factor(
        self, solar_flux: xr.DataArray, *, distance: float | xr.DataArray = 1.0
    ) -> Dataset:
        """Compute the radiance factor (I/F): pi times the radiance over the flux of the Sun."""

    def flag_frames(
        self,
        *,
        max_incidence: float = 90.0,
        gti: xr.Dataset | Iterable[Any] | None = None,
        flares: pd.DataFrame | None = None,
        flare_classes: Sequence[str] = ("B", "C", "M"),
        flare_margin: float = 0.0,
        particles: bool = True,
        **particle_options: Any,
    ) -> Dataset:
        """Flag the frames that are not to be used, and say why."""

    def night_background(self, *, min_incidence: float = 105.0) -> Dataset:
        """Compute a background from frames of the night side."""

    def coadd(
        self,
        strategy: Strategy = "sliding",
        *,
        window: int = 12,
        min_frames: int | None = None,
        max_gap: float = 4.0,
        chi2_range: tuple[float, float] = (0.8, 2.0),
        min_significance: float = 3.0,
        max_frames: int = 48,
        enough: float = 60.0,
    ) -> Dataset:
        """Add up consecutive CLASS frames to spectra with enough counts."""

    def fit_elements(
        self,
        solar: xr.Dataset,
        response: Response,
        background: xr.Dataset | None = None,
        *,
        band: tuple[float, float] = ...,
        settings: FitSettings | None = None,
        conventions: Conventions | None = None,
        tables: AtomicTables | None = None,
        mare_fraction: Literal["map"] | npt.ArrayLike | xr.DataArray | None = "map",
        calibration: xr.Dataset | Literal["auto", "none"] = "auto",
        min_significance: float = 5.0,
        engine: Engine = "numba",
    ) -> Dataset:
        """Fit the abundances of eight elements to CLASS spectra."""

    def grid_footprints(
        self,
        grid: Any = "geographic",
        resolution: float | None = None,
        *,
        ratios: Sequence[str] = (),
    ) -> Dataset:
        """Map abundances: each pixel has the mean of the footprints that cover its centre, weighted by their
        errors."""

    def write_footprints(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write rows with their footprints to GeoParquet or GeoPackage, with a QGIS style (.qml) beside it."""

    def oxides_to_elements(self, *, elements: tuple[str, ...] | None = None) -> Dataset:
        """Convert abundances of oxides to those of elements."""

    def superresolve(
        self,
        models: str | os.PathLike[str] | ModelSpec | Model | Mapping[tuple[int, int], ModelSpec],
        *,
        margin: int | None = None,
        max_distance: float | None = 150000.0,
        device: Device = "auto",
    ) -> Dataset:
        """Predict the elements of every pixel of a Global Information Bank."""

    def write_element_vectors(
        self,
        path: str | os.PathLike[str],
        *,
        element: str | None = None,
        layer: str | None = None,
        cmap: str = "viridis",
    ) -> list[Path]:
        """Write footprints, or the populated pixels of a Global Information Bank, for QGIS, with a graduated
        style."""

    def cells_at(
        self, lon: Any, lat: Any, *, variables: Sequence[str] | str | None = None
    ) -> Dataset:
        """Look places up in a table of cells: each takes the values of the cell that it lies in."""

    def rasterize_cells(
        self,
        grid: Any = "geographic",
        *,
        resolution: float | None = None,
        variables: Sequence[str] | str | None = None,
        chunks: int | tuple[int, int] | None = None,
    ) -> Dataset:
        """Turn a table of cells into maps: each pixel takes the values of the cell that its centre lies in."""

    def plot_graduated_map(
        self,
        element: str | None = None,
        *,
        base: xr.DataArray | None = None,
        classes: int = 6,
        breaks: Sequence[float] | None = None,
        zoom: bool = True,
        cmap: str = ...,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw footprints over a base map, coloured by classes of an element's abundance."""

class LunarDataArrayAccessor:
    """Verbs of lunar science on a DataArray, as ``da.lunar.<verb>(...)``."""

    def __init__(self, obj: xr.DataArray) -> None: ...
    def mask_quality(
        self,
        flags: Iterable[str] | int = ...,
        *,
        valid_range: tuple[float, float] = (0.0, 1.0),
        max_incidence: float | None = None,
        max_emission: float | None = None,
    ) -> DataArray:
        """Mask what the quality words, the range of values or the geometry reject."""

    def join_detectors(
        self,
        *,
        method: Literal["ratio", "difference"] | None = "ratio",
        anchor: Literal["VIS", "NIR1"] = "VIS",
        window: tuple[float, float] = (930.0, 965.0),
        nir2: bool = False,
        keep_step: bool = False,
    ) -> DataArray:
        """Join VIS and NIR1 on one rising axis of wavelengths, and remove the step between them."""

    def despike(
        self,
        *,
        window: int = 7,
        threshold: float = 4.0,
        channels: Sequence[float] | Literal["auto"] | None = "auto",
        fill: bool = True,
        max_gap: float = 40.0,
        floor: float = 0.002,
    ) -> DataArray:
        """Remove channels that stick out of their spectrum, and those on a list of bad ones."""

    def smooth(self, window: float = 50.0, order: int = 2) -> DataArray:
        """Smooth spectra by local least-squares polynomials (Savitzky and Golay 1964) in a window of fixed
        width in nm."""

    def resample_bands(
        self, wavelengths: Sequence[float] | np.ndarray = ..., *, max_gap: float = 50.0
    ) -> DataArray:
        """Bring spectra to given wavelengths by linear interpolation."""

    def normalize_photometry(
        self,
        parameters: xr.Dataset,
        geometry: tuple[float, float, float] = (30.0, 0.0, 30.0),
        *,
        observed: tuple[float, float, float] | None = None,
    ) -> DataArray:
        """Normalise reflectance from the geometry of observation to a standard one by the photometric model of
        SP."""

    def light_uncertainty(self, *, slope_rms: float = ...) -> DataArray:
        """Estimate how uncertain the light is under which spectra were taken."""

    def correct_topography(
        self,
        dem: str | os.PathLike[str] | xr.DataArray,
        parameters: xr.Dataset | None = None,
        *,
        undo: bool = False,
        subsolar: tuple[float, float] | None = None,
        footprint: float | None = None,
        reach: float = 170000.0,
        slope_error: float | None = None,
    ) -> DataArray:
        """Normalise reflectance to 30°/0°/30° by the true angles of the ground, and leave out what lies in
        shadow."""

    def scale_to_albedo(
        self,
        albedo: str | os.PathLike[str] | xr.DataArray,
        *,
        wavelength: float = 1064.0,
        width: float = 25.0,
        ratio: float | Sequence[tuple[float, float]] | Literal["sp"] = "sp",
        footprint: float | None = None,
        map_uncertainty: float = ...,
    ) -> DataArray:
        """Scale each spectrum to the normal albedo that a map, such as LOLA's, has at one wavelength."""

    def condition(self, wavelengths: Sequence[float] | np.ndarray = ...) -> DataArray:
        """Condition spectra by the default steps."""

    def grid(
        self,
        grid: Any = "north",
        *,
        resolution: float | None = None,
        latitude: float = 65.0,
        bounds: Sequence[float] | None = None,
        variables: Sequence[str] | str | None = None,
        stats: Sequence[str] = ...,
        fill_radius: float | None = None,
        chunks: int | tuple[int, int] | Mapping[str, int] | None = None,
    ) -> Dataset:
        """Grid tracks onto a lunar map."""

    def invert_oxides(
        self,
        model: str | os.PathLike[str] | ModelSpec | Model | None = None,
        *,
        device: Device = "auto",
        batch_size: int = ...,
        uncertainty: bool = False,
        level: float = 0.9,
        light_uncertainty: float | xr.DataArray | None = None,
    ) -> Dataset:
        """Invert reflectance spectra to the abundances of six oxides and Mg#."""

    def feo_lucey2000(self, *, scale: Literal["auto", "sp", "laboratory"] = "auto") -> DataArray:
        """Estimate FeO from two bands alone, as a check that needs no training."""

    def elements_to_oxides(self) -> Dataset:
        """Convert abundances of elements to those of oxides."""

    def map_fractures(
        self,
        model: str | os.PathLike[str] | ModelSpec | Model | None = None,
        threshold: float = 0.5,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
        scales: Sequence[float] | None = None,
        within: xr.DataArray | None = None,
        sun_azimuth: float | None = None,
        device: Device = "auto",
        threads: int | None = None,
    ) -> Dataset:
        """Detect fractures, or whatever lines the model was trained on, in an image or mosaic."""

    def vectorize(
        self,
        *,
        probability: xr.DataArray | None = None,
        source: xr.DataArray | None = None,
        min_area: float = 150.0,
        seam_distance: int = 3,
        seam_share: float = 0.5,
        within: Any = None,
        within_share: float = 0.5,
        connectivity: Literal[4, 8] = 8,
        centrelines: bool = True,
    ) -> geopandas.GeoDataFrame:
        """Outline and measure every connected feature of a mask."""

    def write_element_maps(
        self,
        folder: str | os.PathLike[str],
        *,
        elements: Sequence[str] | None = None,
        std: bool = True,
        cmap: str = "viridis",
        percentiles: tuple[float, float] = (1.0, 99.0),
    ) -> list[Path]:
        """Write a cloud-optimised GeoTIFF of each element, with a QGIS style beside it."""

    def to_zarr(
        self,
        path: Any,
        *,
        overwrite: bool = False,
        token: str | None = None,
        progress: bool | None = None,
        description: str | None = None,
        errors: execution.Errors | None = None,
        retries: int | None = None,
        report: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Write to a Zarr store, region by region; go on where an interrupted write stopped."""

    def to_cog(
        self,
        path: str | os.PathLike[str],
        *,
        compress: str = "DEFLATE",
        cmap: str | None = "viridis",
    ) -> list[Path]:
        """Write gridded variables as cloud-optimised GeoTIFF, one file a variable, each with a QGIS style."""

    def to_netcdf(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        institution: str | None = None,
        compress: int = 4,
    ) -> Path:
        """Write a netCDF-4 file that follows the CF conventions, 1.8."""

    def to_pds4(
        self,
        path: str | os.PathLike[str],
        *,
        identifier: str = "urn:nasa:pds:lunarray:data",
        title: str | None = None,
        investigation: tuple[str, str] = (
            "lunarray",
            "urn:nasa:pds:context:investigation:other_investigation.lunarray",
        ),
        observing_system: str | None = None,
        time: Any = None,
    ) -> list[Path]:
        """Write maps as products of PDS4: for each variable a raw array (.img) and its label (.xml)."""

    def plot_spectra(
        self,
        *,
        variable: str = "reflectance",
        at: Sequence[tuple[float, float]] | None = None,
        by: str | None = "orbit",
        quantiles: tuple[float, float] = (0.16, 0.84),
        **output: Unpack[Output],
    ) -> Figure:
        """Draw spectra: each one if they are few, their median and a band of quantiles if they are many."""

    def plot_maps(
        self,
        *,
        variables: Sequence[str] | None = None,
        cmap: str = ...,
        percentiles: tuple[float, float] = (1.0, 99.0),
        columns: int = 4,
        max_pixels: int = 500000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw every oxide of a Dataset, one panel each: maps, or profiles and positions of tracks."""

    def plot_polar(
        self,
        south: xr.DataArray | xr.Dataset | None = None,
        *,
        variable: str | None = None,
        cmap: str = ...,
        vmin: float | None = None,
        vmax: float | None = None,
        label: str | None = None,
        latitude: float = 60.0,
        graticule: bool = True,
        scale_bar: bool = True,
        max_pixels: int = 2000000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw maps of the poles side by side on one colour scale."""

    def plot_heat_map(
        self,
        element: str | None = None,
        *,
        base: xr.DataArray | None = None,
        footprints: xr.Dataset | None = None,
        radius: float = 0.0,
        vmin: float | None = None,
        vmax: float | None = None,
        cmap: str = ...,
        max_pixels: int = 500000,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw abundances as colours over a base map, with their uncertainty beside them."""

    def plot_surface(
        self,
        element: str | None = None,
        *,
        vmin: float | None = None,
        vmax: float | None = None,
        cmap: str = ...,
        elevation: float = 35.0,
        azimuth: float = -60.0,
        points: int = 200,
        **output: Unpack[Output],
    ) -> Figure:
        """Draw abundances as a surface in three dimensions."""

    def explore(self, *, name: str = "data", height: int = 600) -> Viewer:
        """Look at maps, footprints or tracks on an interactive map, in a notebook."""
