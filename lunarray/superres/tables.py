"""Tables of footprints with abundances, in the forms in which they are public."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from lunarray.errors import LunarrayWarning, ProductFormatError, require_choice
from lunarray.readers import reads
from lunarray.superres.footprints import as_footprints
from lunarray.typing import typed
from lunarray.xrf import ELEMENTS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_table", "read_class_tracks"]

_UNCERTAINTIES = {"total": "TOT", "fit": "FIT", "systematic": "SYS"}
#: Names of the columns of corners: V0_LATITUDE and lat0, each number from 0 to 3.
_CORNERS = {axis: re.compile(rf"v(\d)_{axis}\w*|{axis}\w*?_?(\d)", re.I) for axis in ("lat", "lon")}
_ELEMENTS = {name.lower(): name for name in ELEMENTS}
_ABUNDANCE = re.compile(rf"({'|'.join(_ELEMENTS)})(?:_wt)?", re.I)


@typed
@reads
def read_class_tracks(
    path: str | os.PathLike[str],
    *,
    uncertainty: Literal["total", "fit", "systematic"] = "total",
    errors: Literal["raise", "skip"] = "raise",
) -> xr.Dataset:
    """Read a table of footprints with abundances, as CLASS level 2 and those who use it give them.

    Parameters
    ----------
    path : path
        Text with commas. Corners are ``V0_LATITUDE`` … ``V3_LONGITUDE`` or ``lat0`` … ``lon3`` (degrees); abundances
        ``MG_WT`` or ``Mg``, of some or all of Fe, Ti, Ca, Si, Al, Mg, Na and O (wt%); their errors, where there are
        some, ``MG_FIT_UNC``, ``MG_SYS_UNC``, ``MG_TOT_UNC``. Other columns are left alone.
    uncertainty : {"total", "fit", "systematic"}
        Which becomes ``abundance_std``. Overlapping tracks are averaged as if it were independent, which the
        systematic part is not; the total one weighs tracks rather than claims their mean's accuracy.
    errors : {"raise", "skip"}
        What is done about rows that are no footprint (corners that coincide, missing or negative numbers). "skip"
        warns, and leaves them out.

    Returns
    -------
    Dataset
        In memory, dims (footprint, corner, element): ``corner_lat``, ``corner_lon`` (degrees), ``abundance``,
        ``abundance_std`` (wt%, NaN where it is not known), float64; coordinate ``row`` (footprint), the row of the
        file, from 0. ``attrs["skipped_rows"]`` says how many were left out.

    Raises
    ------
    ProductFormatError
        If the file is not such a table.
    InputError
        If a row is no footprint.

    Notes
    -----
    Rows whose corners are all 0 are blanks, and rows that are equal in all of these columns are one: they are left out,
    with a warning. A fit error of 0 is that of a fit that found none: it is not known.

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["tracks"].files
    >>> la.superres.read_class_tracks(files[0]).sizes["footprint"]
    133
    """
    path = Path(path)
    require_choice("uncertainty", uncertainty, _UNCERTAINTIES)
    frame = _frame(path)
    corners, abundances = table_columns(list(frame.columns))
    missing = [
        f"V{k}_{a.upper()}ITUDE" for a, own in corners.items() for k in range(4) if k not in own
    ]
    missing = [name.replace("LONITUDE", "LONGITUDE") for name in missing]
    if missing or not abundances:
        raise ProductFormatError(
            f"no columns {', '.join(missing or ['MG_WT, AL_WT, …'])}",
            where=path,
            remedy="Give a table of corners (V0_LATITUDE …, or lat0 …) and abundances (MG_WT, or Mg …)",
        )
    kind = _UNCERTAINTIES[uncertainty]
    sigmas = {e: f"{e}_{kind}_UNC".upper() for e in abundances}
    by_name = {name.upper(): name for name in frame.columns}
    stated = [e for e, name in sigmas.items() if name in by_name]
    if not stated and any(name.endswith("_UNC") for name in by_name):
        raise ProductFormatError(
            f"no columns {', '.join(sigmas.values())}",
            where=path,
            remedy="Choose another uncertainty",
        )
    lat, lon = (_numbers(frame, [own[k] for k in range(4)]) for own in corners.values())
    values = _numbers(frame, list(abundances.values()))
    std = np.full(values.shape, np.nan)
    for column, element in enumerate(abundances):
        if element in stated:
            std[:, column] = _numbers(frame, [by_name[sigmas[element]]])[:, 0]
    keep = _kept(np.concatenate([lat, lon], axis=1), np.concatenate([values, std], axis=1), path)
    ds = xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), lat[keep]),
            "corner_lon": (("footprint", "corner"), lon[keep]),
            "abundance": (("footprint", "element"), values[keep]),
            "abundance_std": (("footprint", "element"), std[keep]),
        },
        {"element": list(abundances), "row": ("footprint", np.flatnonzero(keep))},
        {"source": path.name},
    )
    if not keep.all():
        ds.attrs["skipped_rows"] = int((~keep).sum())
    return as_footprints(ds, errors=errors)


def is_table(header: str) -> bool:
    """Whether the first line of a file names the columns of such a table."""
    corners, abundances = table_columns([name.strip() for name in header.split(",")])
    return bool(abundances) and all(set(own) >= set(range(4)) for own in corners.values())


def table_columns(names: list[str]) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """Columns of corners, by axis and number, and of abundances by element, in their order."""
    corners: dict[str, dict[int, str]] = {axis: {} for axis in _CORNERS}
    abundances: dict[str, str] = {}
    for name in names:
        for axis, pattern in _CORNERS.items():
            found = pattern.fullmatch(name)
            if found:
                corners[axis].setdefault(int(found[1] or found[2]), name)
        found = _ABUNDANCE.fullmatch(name)
        if found:
            abundances.setdefault(_ELEMENTS[found[1].lower()], name)
    return corners, abundances


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(path, skipinitialspace=True)
    except OSError as error:
        raise ProductFormatError(
            f"the table cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error  # fmt: skip
    except ValueError as error:
        raise ProductFormatError(
            "no table with commas", where=path, remedy="Give a table of footprints as .csv"
        ) from error
    frame.columns = [str(c).strip() for c in frame.columns]
    return frame


def _numbers(frame: pd.DataFrame, columns: list[str]) -> np.ndarray:
    import pandas as pd

    return frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def _kept(corners: np.ndarray, values: np.ndarray, path: Path) -> np.ndarray:
    """Rows that are not blank and not there already; warns of the others."""
    import pandas as pd

    blank = (corners == 0).all(axis=1)
    whole = pd.DataFrame(np.concatenate([corners, values], axis=1))
    repeated = whole.duplicated().to_numpy() & ~blank
    parts = [
        f"{int(mask.sum())} × {text} (the first is row {int(np.argmax(mask))})"
        for mask, text in ((blank, "corners that are all 0"), (repeated, "the same as another row"))
        if mask.any()
    ]
    if parts:
        message = f"{path}: {int((blank | repeated).sum())} of {len(blank)} rows left out: {', '.join(parts)}"
        warnings.warn(LunarrayWarning(message), stacklevel=2)
    return ~(blank | repeated)
