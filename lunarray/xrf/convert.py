"""Oxides to elements and back, so that maps of either can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.constants import ELEMENTS
from lunarray.xrf.frames import require_variables

__all__ = ["OXIDE_OF", "element_fraction", "elements_to_oxides", "oxides_to_elements"]

#: Atomic weights (IUPAC 2021, abridged), g/mol.
_ATOMIC = {
    "Fe": 55.845, "Ti": 47.867, "Ca": 40.078, "Si": 28.085, "Al": 26.982, "Mg": 24.305, "Na": 22.990, "O": 15.999,
}  # fmt: skip

#: The oxide of each element, as rocks are reported: its name, and the numbers of atoms of the element and of oxygen.
OXIDE_OF = {
    "Fe": ("FeO", 1, 1),
    "Ti": ("TiO2", 1, 2),
    "Ca": ("CaO", 1, 1),
    "Si": ("SiO2", 1, 2),
    "Al": ("Al2O3", 2, 3),
    "Mg": ("MgO", 1, 1),
    "Na": ("Na2O", 2, 1),
}

_OF_FIT = ("elements_to_oxides", "Give what fit_elements gives")


def element_fraction(oxide: str) -> float:
    """Weight fraction of the element that is not oxygen in an oxide.

    `oxide`: such as ``Al2O3``.
    """
    for element, (name, n, oxygen) in OXIDE_OF.items():
        if name == oxide:
            own = n * _ATOMIC[element]
            return own / (own + oxygen * _ATOMIC["O"])
    raise InputError(
        f"no oxide {oxide!r}", remedy=f"Give one of {', '.join(v[0] for v in OXIDE_OF.values())}"
    )


@typed
def oxides_to_elements(ds: xr.Dataset, *, elements: tuple[str, ...] | None = None) -> xr.Dataset:
    """Convert abundances of oxides to those of elements.

    Parameters
    ----------
    ds : Dataset
        Oxides as variables (``FeO``, ``Al2O3``, ...), wt%, such as :func:`lunarray.oxides.invert_oxides` gives. Errors,
        ``FeO_std``, are converted too.
    elements : tuple of str, optional
        Which elements; by default those whose oxides are there, and oxygen, as the sum of what all those oxides hold.

    Returns
    -------
    Dataset
        ``abundance`` (..., element), wt%, and ``abundance_std`` where there are errors; lazy where `ds` is. Oxygen's
        error takes the errors of the oxides as independent.

    Raises
    ------
    InputError
        If none of the oxides is there, or one that `elements` asks for is not.

    Examples
    --------
    >>> import lunarray as la
    >>> maps = la.sample("sp_orbit").lunar.condition().lunar.invert_oxides()
    >>> maps.lunar.oxides_to_elements()["abundance"].dims
    ('observation', 'element')
    """
    require_variables(
        ds, (), "oxides_to_elements", "Give a Dataset with oxides as variables, in wt%"
    )
    present = [e for e in ELEMENTS if e in OXIDE_OF and OXIDE_OF[e][0] in ds]
    wanted = elements or (*present, *(("O",) if present else ()))
    lacking = [e for e in wanted if e != "O" and e not in present]
    if not wanted or not present or lacking:
        raise InputError(
            f"no {', '.join(OXIDE_OF[e][0] if e in OXIDE_OF else e for e in lacking)}"
            if lacking
            else "no oxides",
            where="oxides_to_elements",
            remedy="Give a Dataset with oxides as variables, in wt%",
        )
    own: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    oxygen: Any = 0.0
    oxygen_variance: Any = 0.0
    whole = all(f"{OXIDE_OF[e][0]}_std" in ds for e in present)
    for element in present:
        oxide = OXIDE_OF[element][0]
        fraction = element_fraction(oxide)
        own[element] = ds[oxide] * fraction
        oxygen = oxygen + ds[oxide] * (1 - fraction)
        if f"{oxide}_std" in ds:
            errors[element] = ds[f"{oxide}_std"] * fraction
            oxygen_variance = oxygen_variance + (ds[f"{oxide}_std"] * (1 - fraction)) ** 2
    own["O"] = oxygen
    if whole:
        errors["O"] = np.sqrt(oxygen_variance)
    result = {"abundance": _stack([own[e] for e in wanted], wanted, "abundance of the element")}
    if errors:
        blank = xr.full_like(own[wanted[0]], np.nan)
        columns = [errors.get(e, blank) for e in wanted]
        result["abundance_std"] = _stack(columns, wanted, "error of the abundance")
    return stamp(xr.Dataset(result, attrs=ds.attrs), "oxides_to_elements")


def _stack(columns: list[xr.DataArray], elements: Any, name: str) -> xr.DataArray:
    index = xr.Variable("element", np.array(elements, object), {"long_name": "element"})
    array = xr.concat(columns, index, coords="minimal", compat="override")
    # Maps keep their last two axes, as cubes do; elsewhere the element comes last, as in tracks.
    array = (
        array
        if array.dims[-2:] in (("y", "x"), ("lat", "lon"))
        else array.transpose(..., "element")
    )
    return array.assign_attrs(units=WEIGHT, long_name=name)


@typed
def elements_to_oxides(ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Convert abundances of elements to those of oxides.

    Parameters
    ----------
    ds : Dataset or DataArray
        ``abundance`` (..., element), wt%, such as :func:`lunarray.xrf.fit_elements` gives; of a Dataset
        ``abundance_std`` is converted too. Oxygen is left aside: the oxides bring their own.

    Returns
    -------
    Dataset
        ``FeO``, ``TiO2``, ... in wt%, and ``FeO_std``, ...; lazy where `ds` is. All iron is taken as FeO.

    Raises
    ------
    InputError
        If there is no abundance along ``element``.

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> fit = windows.lunar.fit_elements(sun, response)
    >>> sorted(fit.lunar.elements_to_oxides().data_vars)[:2]
    ['Al2O3', 'Al2O3_std']
    """
    arrays: dict[str, Any] = {"": ds}
    if not isinstance(ds, xr.DataArray):
        require_variables(ds, ("abundance",), *_OF_FIT)
        arrays = {"": ds["abundance"], "_std": ds.get("abundance_std")}
    if "element" not in arrays[""].dims:
        where, remedy = _OF_FIT
        raise InputError("no abundance along 'element'", where=where, remedy=remedy)
    variables = {}
    for suffix, array in arrays.items():
        if array is None:
            continue
        for element in array["element"].values.tolist():
            if element in OXIDE_OF:
                oxide = OXIDE_OF[element][0]
                one = array.sel(element=element, drop=True) / element_fraction(oxide)
                what = "error of the abundance" if suffix else "abundance"
                variables[f"{oxide}{suffix}"] = one.astype(array.dtype).assign_attrs(
                    units=WEIGHT, long_name=f"{what} of {oxide}"
                )
    return stamp(xr.Dataset(variables, attrs=ds.attrs), "elements_to_oxides")
