from .api import cells_at as cells_at
from .api import rasterize_cells as rasterize_cells
from .compare import compare_elements as compare_elements
from .m3 import GLOBAL_WAVELENGTHS as GLOBAL_WAVELENGTHS
from .m3 import TARGET_WAVELENGTHS as TARGET_WAVELENGTHS
from .m3 import open_m3 as open_m3
from .prospector import open_lunar_prospector as open_lunar_prospector
from .rasters import open_map as open_map
