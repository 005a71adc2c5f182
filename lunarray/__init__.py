"""lunarray: array-native tools for lunar science data.

Importing the package registers the ``.lunar`` accessor on :class:`xarray.Dataset` and :class:`xarray.DataArray`.
Readers and rooms load when they are first used, so the import costs little more than that of xarray itself.

>>> import lunarray as la
>>> sp = la.open_sp("SP_2C_*.spc")
>>> maps = sp.lunar.grid("north", resolution=500).lunar.invert_oxides()
>>> maps.lunar.to_zarr("north_oxides.zarr")
"""

from __future__ import annotations

import lazy_loader

# Registers `.lunar`: a test sees to it that this import stays.
from lunarray import accessor as accessor

# Names and where they are: in the stub beside this file. What holds a name loads when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
