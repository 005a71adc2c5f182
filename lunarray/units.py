"""Units of abundances: as programs read them, and as people do."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["WEIGHT", "unit_label"]

#: Percent by weight, in the words of UDUNITS and of pint, which know no "wt%".
WEIGHT = "percent"
#: Names of what is given in percent by weight: elements, oxides and what belongs to them.
_ABUNDANCE = re.compile(r"(?:[A-Z][a-z]?\d*)+(?:_[a-z]+|, error)?|.*abundance.*")


def unit_label(array: Any, default: str = "1") -> str:
    """The units of a DataArray as a picture or a table shows them: abundances in wt%."""
    units = str(array.attrs.get("units", default))
    about = (str(array.name), str(array.attrs.get("long_name", "")))
    if units == WEIGHT and any(_ABUNDANCE.fullmatch(text) for text in about):
        return "wt%"
    return units
