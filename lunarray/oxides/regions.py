"""The regions of the study of the poles, and tables of oxides in regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import Box, Circle
from lunarray.oxides.constants import OXIDES

#: Candidate landing regions of Artemis III (Bian et al. 2025, table 4; NASA, 28 October 2024): name, abbreviation,
#: longitude and latitude of the middle in degrees.
ARTEMIS3 = (
    ("Peak Near Cabeus B", "PNCB", -69.014, -83.661),
    ("Haworth", "Haworth", -22.836, -86.753),
    ("Malapert Massif", "Malapert", -0.125, -85.990),
    ("Mons Mouton Plateau", "MMP", 29.926, -84.232),
    ("Mons Mouton", "MM", 31.586, -85.423),
    ("Nobile Rim 1", "NR1", 37.241, -85.431),
    ("Nobile Rim 2", "NR2", 58.654, -83.963),
    ("de Gerlache Rim 2", "DGR2", -65.421, -88.225),
    ("Slater Plain", "SP", 126.134, -87.149),
)

#: NASA's regions are about 15 km wide; their outlines are not in the table.
ARTEMIS3_RADIUS = 7_500.0

#: Regions A (Mare Frigoris) and B (inner rim of the South Pole-Aitken basin) of Bian et al. (2025), section 3.4.
REGIONS = {
    "A": Box(-10.0, 50.0, 10.0, 65.0, "Region A (Mare Frigoris)", "A"),
    "B": Box(-130.0, -65.0, -110.0, -50.0, "Region B (South Pole-Aitken rim)", "B"),
}


def artemis3_regions(radius: float = ARTEMIS3_RADIUS) -> list[Circle]:
    """Give the nine candidate landing regions of Artemis III, as circles.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, table 4.

    Parameters
    ----------
    radius : float, optional
        m; by default half of the 15 km that NASA gives as their width.

    Returns
    -------
    list of Circle
        In the order of table 4, with names and abbreviations.

    Examples
    --------
    >>> import lunarray as la
    >>> [region.abbreviation for region in la.oxides.artemis3_regions()][:3]
    ['PNCB', 'Haworth', 'Malapert']
    """
    return [Circle(lon, lat, radius, name, short) for name, short, lon, lat in ARTEMIS3]


def region_table(
    statistics: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    columns: Sequence[str] = ("mean", "std"),
    pixels: bool = False,
) -> Any:
    """Tabulate statistics of regions: a row for each region, with the mean and standard deviation of each oxide.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, table 5.

    Parameters
    ----------
    statistics : Dataset
        From :func:`lunarray.geo.region_statistics`; computed here where it is lazy.
    variables : sequence of str, optional
        By default the oxides and Mg# that are there, else all.
    columns : sequence of str, optional
        Which statistics.
    pixels : bool, optional
        Say first how many pixels of each region are known, in parts: a mean of three pixels says less than one of 700.

    Returns
    -------
    pandas.DataFrame
        Index: abbreviations of the regions; columns: (variable, statistic); of pixels ("pixels", "count").

    Raises
    ------
    InputError
        Variables or statistics that are not there.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> pole = la.geo.Circle(0.0, 90.0, 60_000, name="pole")
    >>> statistics = la.geo.region_statistics(maps, pole, variables=["FeO", "MgO"])
    >>> la.oxides.region_table(statistics).shape
    (1, 4)
    """
    import pandas as pd

    if not isinstance(statistics, xr.Dataset) or set(statistics.dims) != {"region", "statistic"}:
        raise InputError(
            "these are no statistics of regions",
            where="region_table",
            remedy="Give the result of region_statistics",
        )
    names = list(variables) if variables is not None else table_variables(statistics)
    lacking = [n for n in names if n not in statistics]
    lacking += [c for c in columns if c not in statistics["statistic"].values]
    if lacking:
        raise InputError(
            f"there is no {', '.join(map(str, lacking))}",
            where="region_table",
            remedy=f"Choose among {', '.join(map(str, statistics.data_vars))} and "
            f"{', '.join(map(str, statistics['statistic'].values))}",
        )
    chosen = statistics[names].sel(statistic=list(columns)).compute()
    values = np.stack([chosen[n].values for n in names], axis=1)
    table = pd.DataFrame(
        values.reshape(len(values), -1),
        index=pd.Index(statistics["abbreviation"].values, name="region"),
        columns=pd.MultiIndex.from_product([names, list(columns)], names=["variable", "statistic"]),
    )
    if pixels:
        # Oxides of one map are known together; of others, the fewest.
        counts = [statistics[n].sel(statistic="count").values for n in names]
        table.insert(0, ("pixels", "count"), np.min(counts, axis=0))
    return table


def table_variables(ds: xr.Dataset) -> list[str]:
    """Oxides and Mg# that a Dataset has, in order; all its variables where it has none of them."""
    return [n for n in (*OXIDES, "Mg_number") if n in ds] or [str(n) for n in ds.data_vars]
