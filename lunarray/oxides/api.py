"""Oxide abundances of spectra, tracks and maps: the public verbs."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec, map_pixels, take
from lunarray.engine.models import Device, Model, Spectra
from lunarray.engine.pixels import BATCH_SIZE
from lunarray.engine.registry import find_model
from lunarray.errors import GridError, InputError, require_choice
from lunarray.geo import (
    Box,
    Circle,
    Method,
    Polygon,
    as_regions,
    assign_crs,
    crs_of,
    geobox_of,
    lonlat,
    region_grid,
    reproject,
)
from lunarray.oxides import inversion
from lunarray.oxides.comparison import less, matched
from lunarray.oxides.constants import MOLAR_MASS
from lunarray.oxides.light_input import append_light, find_light, raise_light_flags
from lunarray.oxides.regions import table_variables
from lunarray.oxides.regressor_files import regressor_spec
from lunarray.oxides.weights import DEFAULT_WEIGHTS, read_header
from lunarray.sp import condition, is_native, resample_bands, sp_scale, spectra_of
from lunarray.store.provenance import stamp
from lunarray.typing import T, typed
from lunarray.units import WEIGHT

POLES = ("north", "south")


def oxide_model(
    model: str | os.PathLike[str] | ModelSpec | Model | None = None, *, device: Device = "auto"
) -> ModelSpec:
    """Choose an oxide model.

    Parameters
    ----------
    model : path, str, ModelSpec or Model, optional
        Weights written by :func:`lunarray.oxides.save_oxide_cnn`; by default those that come with lunarray. Or
        a model of one's own, or the name of an installed one, see :func:`invert_oxides`.
    device : {"auto", "cpu", "cuda"}
        Where to run it.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the weights cannot be read, or the model takes no spectra or does not name what it gives.

    Examples
    --------
    >>> import lunarray as la
    >>> la.oxides.oxide_model("oxides-mi").outputs
    ('FeO', 'TiO2', 'Al2O3', 'CaO', 'MgO', 'SiO2', 'novelty')
    """
    spec = find_model(
        model, Spectra, "invert_oxides", save="lunarray.oxides.save_oxide_cnn", device=device
    )
    if not isinstance(spec, ModelSpec):
        path = DEFAULT_WEIGHTS if spec is None else spec
        regressor = regressor_spec(path, device)
        if regressor is None:
            header = read_header(path)
            given = (*header["oxides"], "novelty")
            taken = Spectra(tuple(header["wavelengths"]), light="light" in header)
            spec = ModelSpec.from_file(inversion.LOADER, path, outputs=given, inputs=taken, device=device)  # fmt: skip
        else:
            spec = regressor
    inversion.layout_of(spec)
    return spec


@typed
def invert_oxides(
    obj: xr.Dataset | xr.DataArray,
    model: str | os.PathLike[str] | ModelSpec | Model | None = None,
    *,
    device: Device = "auto",
    batch_size: int = BATCH_SIZE,
    uncertainty: bool = False,
    level: float = 0.9,
    light_uncertainty: float | xr.DataArray | None = None,
) -> xr.Dataset:
    """Invert reflectance spectra to the abundances of six oxides and Mg#.

    Parameters
    ----------
    obj : Dataset or DataArray
        Reflectance at 30°/0°/30° with a dimension `wavelength` (nm) and any others, such as `observation` or `y` and
        `x`; of a Dataset, the variable ``reflectance``. SP spectra as :func:`lunarray.open_sp` gives them, on the
        detectors' own channels, are conditioned first (:func:`lunarray.sp.condition`).
    model : path, str, ModelSpec or Model, optional
        The user's own weights (:func:`lunarray.oxides.save_oxide_cnn`); by default the model that comes with
        lunarray. That one was trained on simulated soils alone: read its card, ``lunarray/oxides/data/default.md``.
        Or a network or regressor of another library (:func:`lunarray.engine.from_torch`, `from_onnx`, `from_sklearn`),
        the name of a model of an installed package (:func:`lunarray.engine.available_models`), or a class of one's own
        (:class:`lunarray.engine.Model`).
    device : {"auto", "cpu", "cuda"}
        Where to run the model; "auto" takes a GPU in each process that sees one.
    batch_size : int
        Spectra that the model gets at once. It bounds memory and changes no result.
    uncertainty : bool
        Say how far off each abundance may be, by the model's calibration. An ensemble runs all its members then.
    level : float
        Share of true values that the intervals are to hold.
    light_uncertainty : float or DataArray, optional
        The standard deviation of the logarithm of a gain of the light, 0 where it is known, 1 and more where brightness
        says nothing. By default the variable ``light_uncertainty`` beside the spectra, or what
        :func:`lunarray.sp.light_uncertainty` makes of their angles; 0.5 where there are none.

    Returns
    -------
    Dataset
        On the dimensions of `obj` without `wavelength`; lazy where `obj` is. float32 unless said otherwise:

        - ``FeO``, ``TiO2``, ``Al2O3``, ``CaO``, ``MgO``, ``SiO2`` in wt%, as the model gives them: neither clipped nor
          normalised;
        - ``Mg_number``: Mg#, 100 · MgO / (MgO + FeO) in moles, %;
        - ``novelty``: how unlike its training the spectrum is, brightness as far as the light is known; above 1 it is
          further out than all but a thousandth of that;
        - ``quality``: flags (uint8, CF flag_masks): not_inverted (NaN in a band), novel_spectrum (novelty above 1),
          sum_out_of_range (oxides sum to less than 95 or more than 105 wt%), negative_abundance (below -0.5 wt%),
          light_unknown (above 0.15, and the model does not take it), and those of ``light_quality`` beside the spectra;
        - with `uncertainty`, for each oxide ``FeO_std``, the standard deviation of its error, and ``FeO_lower`` and
          ``FeO_upper``, an interval, in wt%: conformal, or of normal errors where another's model gives deviations.

        A model of other or fewer oxides gives these, by their names; Mg# where MgO and FeO are among them, novelty
        where it knows it; the sum is looked at where all six are.

    Raises
    ------
    InputError, BandMismatchError
        If there is no reflectance, or the wavelengths are not those of the model.
    ModelError
        If the model cannot be read, or `uncertainty` is asked for and it has no calibration.

    Notes
    -----
    The standard deviation is the root mean square error of left-out predictions of about that abundance, widened where
    the ensemble of folds is at odds (:class:`lunarray.oxides.uncertainty.Calibration`), or what the model says itself.
    Intervals are split conformal ones with that as the scale [2]_: over spectra, and light, like those of the
    calibration they hold the *reference's* abundance with probability `level`; for the default model simulated soils'.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1: network (section 2.4), Mg# (section 3.4).
    .. [2] Lei et al. (2018), Distribution-free predictive inference for regression, JASA 113, 1094, section 5.2.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> maps = spectra.lunar.invert_oxides()
    >>> maps["FeO"][[40, 120]].values.round(1)
    array([ 5.4, 16.8], dtype=float32)
    """
    spec = oxide_model(model, device=device)
    if uncertainty:
        spec, calibration = inversion.with_uncertainty(spec)
    layout = inversion.layout_of(spec)
    lit = _lit(obj)
    reflectance: xr.DataArray = spectra_of(lit, "invert_oxides")
    reflectance = inversion.pick_bands(reflectance, spec)
    inversion.check_bands(reflectance, spec)
    axis = reflectance.get_axis_num("wavelength")
    light = find_light(lit, reflectance, light_uncertainty)
    spectra, unknown = reflectance.data, inversion.QUALITY_FLAGS["light_unknown"]
    if inversion.takes_light(spec):
        spectra, unknown = append_light(spectra, light, axis), 0
    data = map_pixels(spec, spectra, axis=axis, batch_size=batch_size)
    result = _oxide_maps(data, axis, reflectance, spec, layout)
    result = raise_light_flags(result, lit, reflectance, light, unknown)
    if uncertainty:
        result = result.assign(_intervals(result, data, axis, layout, calibration, level))
    result = _keep_crs(result, reflectance)
    result.attrs = dict(obj.attrs)
    return stamp(
        result, "invert_oxides", source=obj.attrs.get("source"),
        model=os.path.basename(spec.weights), model_sha256=spec.sha256,
    )  # fmt: skip


def _oxide_maps(
    data: Any, axis: int, reflectance: xr.DataArray, spec: ModelSpec, layout: inversion.Layout
) -> xr.Dataset:
    """Oxides, Mg#, novelty and quality from the outputs of a model along `axis`."""
    dims = tuple(dim for dim in reflectance.dims if dim != "wavelength")
    coords = {name: c for name, c in reflectance.coords.items() if "wavelength" not in c.dims}
    result = xr.Dataset(coords=coords)
    for name, place in zip(layout.names, layout.places, strict=True):
        attrs = {
            "long_name": inversion.LONG_NAMES.get(name, name),
            "units": inversion.units_of(spec, name),
        }
        result[name] = (dims, take(data, place, axis), attrs)
    if layout.novelty is not None or isinstance(spec.outputs, int):
        # A model whose outputs are counted has novelty as its seventh, or does not know it.
        if layout.novelty is None:
            novelty = xr.full_like(result[layout.names[0]], np.nan).data
        else:
            novelty = take(data, layout.novelty, axis)
        text = "distance of the spectrum from those of the training, 1 at their edge"
        result["novelty"] = (dims, novelty, {"long_name": text, "units": "1"})
    if {"MgO", "FeO"} <= set(layout.names):
        result["Mg_number"] = mg_number(result)
    flags = inversion.quality(data, axis, layout)
    result["quality"] = (dims, flags, inversion.QUALITY_ATTRS)
    return result


def _intervals(
    maps: xr.Dataset,
    data: Any,
    axis: int,
    layout: inversion.Layout,
    calibration: inversion.Calibrated,
    level: float,
) -> dict[str, Any]:
    """Standard deviation and interval of each oxide by name."""
    error = inversion.errors_of(data, axis, layout, calibration)
    halves = inversion.halves_of(data, error, axis, layout, calibration, level)
    result = {}
    for index, oxide in enumerate(layout.names):
        sigma = take(error, index, axis)
        half = take(halves, index, axis)
        values = maps[oxide].data
        for name, array, text in (
            ("std", sigma, "standard deviation of the error of {}"),
            ("lower", values - half, f"lower end of the {100 * level:g} % interval of {{}}"),
            ("upper", values + half, f"upper end of the {100 * level:g} % interval of {{}}"),
        ):
            attrs = {"long_name": text.format(oxide), "units": maps[oxide].attrs["units"]}
            result[f"{oxide}_{name}"] = (maps[oxide].dims, array, attrs)
    return result


@typed
def mg_number(ds: xr.Dataset) -> xr.DataArray:
    """Compute Mg#, the share of magnesium in magnesium plus iron, by moles.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 3.4.

    Parameters
    ----------
    ds : Dataset
        With `MgO` and `FeO` in wt%.

    Returns
    -------
    DataArray
        100 · MgO / (MgO + FeO) in moles, %, float32; NaN where the two add up to nothing or less.

    Raises
    ------
    InputError
        If an oxide is missing.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> maps = spectra.lunar.invert_oxides()
    >>> la.oxides.mg_number(maps)[[40, 120]].values.round(0)
    array([69., 51.], dtype=float32)
    """
    missing = [oxide for oxide in ("MgO", "FeO") if oxide not in ds]
    if missing:
        raise InputError(
            f"no variable {' and '.join(missing)}",
            where="mg_number",
            remedy="Give the result of invert_oxides",
        )
    magnesium = ds["MgO"] / np.float32(MOLAR_MASS["MgO"])
    both = magnesium + ds["FeO"] / np.float32(MOLAR_MASS["FeO"])
    result = (100 * magnesium / both.where(both > 0)).rename("Mg_number")
    result.attrs = {"long_name": "Mg#", "units": "%", "comment": "100 MgO / (MgO + FeO), molar"}
    return result


@typed
def feo_lucey2000(
    obj: xr.Dataset | xr.DataArray, *, scale: Literal["auto", "sp", "laboratory"] = "auto"
) -> xr.DataArray:
    """Estimate FeO from two bands alone, as a check that needs no training.

    After Lucey, Blewett and Jolliff (2000), Lunar iron and titanium abundance algorithms based on final processing of
    Clementine ultraviolet-visible images, JGR 105 (E8), 20297, eqs. 1 and 2.

    Parameters
    ----------
    obj : Dataset or DataArray
        Reflectance at 30°/0°/30° with a dimension `wavelength` (nm) that spans 750 and 950 nm; of a Dataset, the
        variable ``reflectance``. SP spectra on the detectors' own channels are conditioned first.
    scale : {"auto", "sp", "laboratory"}
        The radiometric scale of the reflectance. SP's is brought to the laboratory's first
        (:func:`lunarray.sp.sp_scale`); "auto" takes for SP's what says so in its attributes `instrument` or `source`.

    Returns
    -------
    DataArray
        FeO in wt%, float32, on the other dimensions; lazy where `obj` is.

    Raises
    ------
    InputError
        If there is no reflectance.
    BandMismatchError
        If 750 or 950 nm lies outside the wavelengths.

    Notes
    -----
    17.427 · θ - 7.565 with θ = -arctan[(R950/R750 - 1.19) / (R750 - 0.08)], calibrated on Clementine reflectance, which
    is scaled to the laboratory's. SP reads soils 40 % darker and redder; without rescaling it the result is no FeO at
    all. The angle is taken in the full circle, so that it stays continuous where R750 falls below the origin of the
    trends, 0.08.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> spectra.lunar.feo_lucey2000()[[40, 120]].values.round(1)
    array([ 6.3, 15.4], dtype=float32)
    """
    reflectance = _conditioned(obj, "feo_lucey2000")
    require_choice("scale", scale, ("auto", "sp", "laboratory"))
    spectra = reflectance
    if scale == "sp" or (scale == "auto" and (_is_sp(obj) or _is_sp(reflectance))):
        spectra = spectra / xr.DataArray(sp_scale(spectra["wavelength"].values), dims="wavelength")
    pair = resample_bands(spectra, [750.0, 950.0])
    r750, r950 = (pair.isel(wavelength=i, drop=True) for i in (0, 1))
    theta = -xr.ufuncs.arctan2(r950 / r750 - 1.19, r750 - 0.08)
    result = (17.427 * theta - 7.565).astype(np.float32).rename("FeO_Lucey2000")
    result.attrs = {"long_name": "FeO by the band ratio of Lucey et al. (2000)", "units": WEIGHT}
    return _keep_crs(result, reflectance)


@typed
def atlas(
    north: xr.Dataset | xr.DataArray | None = None,
    south: xr.Dataset | xr.DataArray | None = None,
    model: str | os.PathLike[str] | ModelSpec | Model | None = None,
    *,
    latitude: float = 65.0,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Map the oxides of both polar regions.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, sections 3.2 to 3.4, figures 5, 8, 9 and 14.

    Parameters
    ----------
    north, south : Dataset or DataArray, optional
        Reflectance cubes in polar stereographic projection, IAU_2015:30130 and 30135; one of them may be left out.
    model : path, str, ModelSpec or Model, optional
        Weights that ``lunarray.oxides.train(...).save`` wrote, or another model, as for
        :func:`lunarray.oxides.invert_oxides`; by default those that come with lunarray.
    latitude : float
        Poleward of this (degrees, without sign) is mapped; what is further out is NaN and is not inverted.
    **options
        For :func:`lunarray.oxides.invert_oxides`, such as ``uncertainty=True`` or ``device="cpu"``.

    Returns
    -------
    dict of Dataset
        "north" and "south", as far as given: what :func:`lunarray.oxides.invert_oxides` gives, with Mg#, on the
        smallest square of the cube's own pixels that holds the cap. Lazy where the cube is.

    Raises
    ------
    InputError
        No cube, or a latitude that is none.
    GridError
        A cube that is not on a polar grid, of the pole that it was given for, or nowhere as near to it as `latitude`.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> atlas = la.oxides.atlas(scene, latitude=86)
    >>> list(atlas)
    ['north']
    """
    given: dict[Literal["north", "south"], Any] = {"north": north, "south": south}
    cubes = {pole: cube for pole, cube in given.items() if cube is not None}
    if not cubes:
        raise InputError("there is no cube", where="atlas", remedy="Give the north, the south, or both")  # fmt: skip
    if not 0 <= abs(latitude) < 90:
        raise InputError(
            f"{latitude} degrees", where="latitude", remedy="Give 0 or more and less than 90"
        )
    result: dict[str, xr.Dataset] = {}
    for pole, cube in cubes.items():
        cap = polar_cap(cube, latitude, pole=pole)
        maps = invert_oxides(cap, model, **options)
        maps.attrs["title"] = (
            f"Oxides of the Moon's {pole} polar region, {abs(latitude):g}°-90°{pole[0].upper()}"
        )
        result[pole] = stamp(maps, f"atlas(latitude={latitude:g})")
    return result


def polar_cap(
    obj: T,
    latitude: float = 65.0,
    *,
    pole: Literal["north", "south"] | None = None,
) -> T:
    """Cut a polar map down to what lies poleward of a latitude.

    Parameters
    ----------
    obj : Dataset or DataArray
        In polar stereographic projection, (..., y, x).
    latitude : float
        Degrees, without sign.
    pole : {"north", "south"}, optional
        The pole that it must be of.

    Returns
    -------
    same type as `obj`
        The smallest rectangle of its pixels that holds the cap; in it, floating variables are NaN elsewhere.

    Raises
    ------
    GridError
        If it is not on a polar grid, of another pole, or does not reach `latitude`.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> la.oxides.polar_cap(scene, 87.0).sizes["x"]
    10
    """
    from lunarray.geo import crs_name

    geobox = geobox_of(obj)
    name = crs_name(geobox.crs)
    if name not in POLES or (pole is not None and name != pole):
        raise GridError(
            f"the grid is {f'of the {name} pole' if name in POLES else 'not polar'}",
            where=pole or "cube",
            remedy=f"Give a cube in IAU_2015:{30130 if pole != 'south' else 30135}, "
            f"for instance by .lunar.grid({pole or 'north'!r})",
        )
    sign = 1 if name == "north" else -1
    lat = lonlat(geobox)[1]
    inside = sign * lat >= abs(latitude)
    if not inside.any():
        raise GridError(
            f"it does not reach {abs(latitude):g}°",
            where=pole or name,
            remedy="Give a cube nearer to the pole, or a lower latitude",
        )
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    window = {"y": slice(rows[0], rows[-1] + 1), "x": slice(columns[0], columns[-1] + 1)}
    part = obj.isel(window)
    mask = xr.DataArray(inside[window["y"], window["x"]], dims=("y", "x"))
    lazy = next((v for v in _variables(part) if v.chunks), None)
    if lazy is not None:
        mask = mask.chunk({d: lazy.chunksizes[d] for d in ("y", "x")})

    def cut(array: xr.DataArray) -> xr.DataArray:
        if not {"y", "x"} <= set(array.dims) or array.dtype.kind != "f":
            return array
        kept = array.where(mask).astype(array.dtype)
        kept.attrs = dict(array.attrs)
        return kept.transpose(*array.dims)

    out: Any = part.map(cut, keep_attrs=True) if isinstance(part, xr.Dataset) else cut(part)
    return assign_crs(out, geobox.crs)


def _variables(obj: xr.Dataset | xr.DataArray) -> list[xr.DataArray]:
    arrays = [obj] if isinstance(obj, xr.DataArray) else list(obj.data_vars.values())
    return [a for a in arrays if {"y", "x"} <= set(a.dims)]


def difference(
    result: T,
    reference: xr.Dataset | xr.DataArray,
    *,
    method: Method = "auto",
    variables: list[str] | None = None,
) -> T:
    """Subtract reference maps, on any grid, from a result.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 7.

    Parameters
    ----------
    result : Dataset or DataArray
        Maps; the difference is on their grid.
    reference : Dataset or DataArray
        Maps of the same quantities, by the same names, on any lunar grid. Two DataArrays need no names.
    method : {"auto", "nearest", "bilinear", "average"}
        How the reference is brought onto the result's grid, see :func:`lunarray.geo.reproject`: averaged over the
        pixel where it is finer, interpolated where it is coarser.
    variables : list of str, optional
        By default the oxides and Mg# that both have, else all that both have.

    Returns
    -------
    same type as `result`
        Result less reference, lazy where either is, NaN where either is missing.

    Raises
    ------
    InputError
        No common variable.
    GridError
        A grid that is none.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> truth, maps = la.simulate.truth_maps(scene), scene.lunar.invert_oxides()
    >>> error = la.oxides.difference(maps, truth, variables=["FeO"]).compute()
    >>> round(float(abs(error["FeO"]).median()), 1)
    0.3
    """
    found, there = matched(result, reference, method=method, variables=variables)
    out: Any
    if isinstance(result, xr.DataArray):
        out = less(found, there)
    else:
        out = xr.Dataset({n: less(found[n], there[n]) for n in found.data_vars})
    out.attrs.update({k: v for k, v in result.attrs.items() if k in ("source", "model", "history")})
    return stamp(assign_crs(out, geobox_of(result)), f"difference(method={method!r})")


@typed
def region_maps(
    result: xr.Dataset,
    reference: xr.Dataset,
    region: Box | Circle | Polygon,
    *,
    resolution: float | None = None,
    crs: Any = "geographic",
) -> xr.Dataset:
    """Reference, result and their difference in a region, on one small grid.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 10 to 13.

    Parameters
    ----------
    result, reference : Dataset
        Maps on any lunar grids.
    region : Box, Circle or Polygon
        Where, for instance ``lunarray.oxides.regions.REGIONS["A"]``.
    resolution : float, optional
        Pixel in the units of `crs`; by default about that of the result.
    crs : str or CRS
        "geographic" draws a box as a rectangle.

    Returns
    -------
    Dataset
        For each oxide and Mg# that both have: (panel, lat, lon) or (panel, y, x) with `panel` "reference", "result",
        "difference"; lazy where the maps are.

    Raises
    ------
    InputError
        No common variable, or no region.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> truth, maps = la.simulate.truth_maps(scene), scene.lunar.invert_oxides()
    >>> box = la.geo.Box(-30.0, 86.0, 30.0, 88.0, name="a box")
    >>> pair = la.oxides.region_maps(maps, truth, box, resolution=1.0)
    >>> dict(pair.sizes)
    {'panel': 3, 'lat': 2, 'lon': 60}
    """
    from lunarray.geo import RADIUS, moon_crs, pixel_size

    region = as_regions(region)[0]
    names = [n for n in table_variables(result) if n in reference]
    if not names:
        raise InputError(
            "no variable is in both", where="region_maps", remedy="Give maps of the same oxides"
        )
    if resolution is None:
        metres = pixel_size(geobox_of(result))
        resolution = metres
        if moon_crs(crs).is_geographic:
            # A degree holds whole pixels, so that none overhangs a border.
            resolution = 1 / max(1, round(1 / float(np.rad2deg(metres / RADIUS))))
    grid = region_grid(region, resolution, crs)
    found = reproject(result[names], grid, method="auto")
    there = reproject(reference[names], grid, method="auto")
    out = {}
    for name in names:
        panels = [there[name], found[name], less(found[name], there[name])]
        out[name] = xr.concat(
            panels, dim="panel", coords="minimal", compat="override", join="override", combine_attrs="override"
        )  # fmt: skip
        out[name].attrs = dict(found[name].attrs)
    ds = xr.Dataset(out).assign_coords(panel=["reference", "result", "difference"])
    ds.attrs["region"] = region.name
    return assign_crs(ds, grid)


def _conditioned(obj: xr.Dataset | xr.DataArray, step: str) -> xr.DataArray:
    """Take the reflectance, after conditioning where it is on the detectors' own channels."""
    return spectra_of(_lit(obj), step)


def _lit(obj: Any) -> Any:
    """Spectra, conditioned where they are on the detectors' own channels, with what is known of their light."""
    if isinstance(obj, xr.Dataset) and is_native(obj):
        return condition(obj)
    return condition(obj) if isinstance(obj, xr.DataArray) and is_native(obj) else obj


def _is_sp(obj: xr.Dataset | xr.DataArray) -> bool:
    return any("Spectral Profiler" in str(obj.attrs.get(key)) for key in ("instrument", "source"))


def _keep_crs(result: T, source: xr.DataArray) -> T:
    crs = crs_of(source)
    return result if crs is None else assign_crs(result, crs)
