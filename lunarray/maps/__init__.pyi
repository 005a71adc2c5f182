from .api import cells_at as cells_at
from .api import rasterize_cells as rasterize_cells
from .prospector import open_lunar_prospector as open_lunar_prospector
from .rasters import open_map as open_map
