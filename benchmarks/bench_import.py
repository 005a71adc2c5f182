"""What `import lunarray` costs, beside what `import xarray` alone costs."""

from __future__ import annotations


class Import:
    timeout = 120

    def timeraw_import_lunarray(self) -> str:
        return "import lunarray"

    def timeraw_import_xarray(self) -> str:
        return "import xarray"

    def timeraw_import_rooms(self) -> str:
        return "import lunarray.geo, lunarray.sp, lunarray.oxides, lunarray.store, lunarray.engine"
