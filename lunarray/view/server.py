"""The web server of the viewer: this machine's only, and of nothing but what it was given.

It is tornado's, which comes with Dask's distributed, and its tiles are made by the resampler of :mod:`lunarray.geo`.
rio-tiler (9.4), on which TiTiler stands, leaves 2 % of a tile at the pole empty, of a map in longitude and latitude
that has no gap, and makes no overviews of Zarr arrays. No address names a file: layers have numbers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any

import tornado.web

from lunarray.errors import InputError, LunarrayError
from lunarray.geo import lunar_grid
from lunarray.view import layers as layers_
from lunarray.view.grids import GRIDS
from lunarray.view.layers import MapLayer
from lunarray.view.tiles import DIVERGING, Scale, described, limits_of, picture, values_on
from lunarray.view.vectors import VectorLayer

if TYPE_CHECKING:
    import numpy as np

    from lunarray.view.sources import Source

Layer = MapLayer | VectorLayer
#: Files of the page.
STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "moon.js": ("moon.js", "text/javascript; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "ol.js": ("ol.js", "text/javascript; charset=utf-8"),
    "ol.css": ("ol.css", "text/css; charset=utf-8"),
}
#: Nothing but what this server has; a style of an element may be set by the page's own script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)


class Content:
    """What a server shows: layers by number, and the answers to what is asked of them."""

    def __init__(self, sources: list[Source], layers: list[Layer], version: str) -> None:
        self.sources, self.layers, self.version = sources, layers, version

    def layer(self, number: int, kind: Any = MapLayer) -> Any:
        """A layer by its number; InputError where there is none of that kind."""
        if not 0 <= number < len(self.layers) or not isinstance(self.layers[number], kind):
            raise InputError(f"no layer {number}", remedy="Give one that the page lists")
        return self.layers[number]

    def described(self) -> dict[str, Any]:
        """Grids, layers and colormaps."""
        return {
            "version": self.version,
            "radius": GRIDS["north"].bounds[2] / 2,
            "grids": [grid.described() for grid in GRIDS.values()],
            "cmaps": described(),
            "diverging": DIVERGING,
            "layers": [layer.described() for layer in self.layers],
        }

    def tile(self, asked: _Asked, box: Any) -> tuple[bytes, bool]:
        """A picture of a map, or of the difference of two, and whether it is all there."""
        scale = Scale(asked.number("low"), asked.number("high"), asked.text("cmap", "viridis"))
        values, whole = self._values(asked, box)
        return picture(values, scale), whole

    def _values(self, asked: _Asked, box: Any) -> tuple[np.ndarray, bool]:
        pyramids = [self._pyramid(asked, "layer", "band")]
        if asked.has("minus"):
            pyramids.append(self._pyramid(asked, "minus", "minus_band"))
        before = [p.unfinished for p in pyramids]
        values = [values_on(p, box) for p in pyramids]
        whole = not any(before) and not any(p.unfinished for p in pyramids)
        return (values[0] - values[1] if len(values) > 1 else values[0]), whole

    def _pyramid(self, asked: _Asked, layer: str, band: str) -> Any:
        found = self.layer(asked.whole(layer))
        number = asked.whole(band, 0)
        if not 0 <= number < max(1, len(found.bands())):
            raise InputError(f"no band {number}", where=band, remedy="Give one that the layer has")
        return found.pyramid(number)

    def limits(self, asked: _Asked) -> dict[str, Any]:
        """Ends of the colours of a map, or of a difference: these lie about 0."""
        layer = self.layer(asked.whole("layer"))
        if not asked.has("minus"):
            pyramid = self._pyramid(asked, "layer", "band")
            low, high = layer.limits(asked.whole("band", 0))
            return {"low": low, "high": high, "whole": not pyramid.unfinished}
        grid = layers_.home(layer.box)
        extent = layers_.extents(layer.box)[grid]
        if extent is None:
            raise InputError("the map lies on none of the grids", remedy="Look at another one")
        left, bottom, right, top = extent
        side = max(right - left, top - bottom) / 256
        box = lunar_grid(GRIDS[grid].system, side, (left, bottom, right, top))
        values, whole = self._values(asked, box)
        low, high = limits_of(values)
        high = max(abs(low), abs(high))
        return {"low": -high, "high": high, "whole": whole}

    def at(self, asked: _Asked) -> dict[str, Any]:
        """What all sources hold at a place."""
        lon, lat = asked.number("lon"), asked.number("lat")
        found = [layers_.at(source, lon, lat) for source in self.sources]
        return {"lon": lon, "lat": lat, "sources": [one for one in found if one is not None]}

    def along(self, asked: _Asked) -> dict[str, Any]:
        """What one observation of a layer holds."""
        layer = self.layer(asked.whole("layer"), VectorLayer)
        found = layers_.along(layer.source, asked.whole("place"))
        return {"sources": [] if found is None else [found]}

    def vectors(self, asked: _Asked) -> dict[str, Any]:
        """GeoJSON of what is in view."""
        layer = self.layer(asked.whole("layer"), VectorLayer)
        try:
            left, bottom, right, top = (float(v) for v in asked.text("view").split(","))
        except ValueError:
            left = bottom = right = top = math.nan
        if not all(map(math.isfinite, (left, bottom, right, top))):
            raise InputError("no view", where="view", remedy="Give left,bottom,right,top")
        return layer.features(
            asked.grid().name, (left, bottom, right, top), asked.number("resolution")
        )

    def progress(self, asked: _Asked) -> dict[str, Any]:
        """How far overviews are, of each map that makes some: a share, or why it cannot."""
        told: dict[str, Any] = {}
        for layer in self.layers:
            if isinstance(layer, MapLayer):
                for pyramid in layer.begun():
                    if pyramid.fault is not None:
                        told[str(layer.number)] = str(pyramid.fault)
                    elif pyramid.unfinished:
                        told[str(layer.number)] = round(pyramid.progress, 3)
        return told


class _Asked:
    """Arguments of a request, of the kinds that they should be; InputError where they are not."""

    def __init__(self, given: dict[str, str]) -> None:
        self._given = given

    def has(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str, default: str | None = None) -> str:
        if name not in self._given and default is not None:
            return default
        if name not in self._given:
            raise InputError(f"no {name}", remedy="Give it in the address")
        return self._given[name]

    def number(self, name: str) -> float:
        try:
            value = float(self.text(name))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{name} is no number", remedy="Give one")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        text = self.text(name, None if default is None else str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise InputError(f"{name} is no whole number", remedy="Give one")
        return int(text)

    def grid(self) -> Any:
        name = self.text("grid")
        if name not in GRIDS:
            raise InputError(f"no grid {name}", remedy=f"Give one of {', '.join(GRIDS)}")
        return GRIDS[name]


class _Handler(tornado.web.RequestHandler):
    """What all answers have in common."""

    def initialize(self, content: Content, pool: ThreadPoolExecutor, hosts: Any) -> None:
        self.content, self.pool, self.hosts = content, pool, hosts
        self.gone = False

    def set_default_headers(self) -> None:
        for name, value in {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Server": "lunarray",
        }.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        # A page of another site may have its own name resolved to this machine: it is not let in under that name.
        if self.hosts is not None and not is_here(self.request.host, self.hosts):
            self.set_status(403)
            self.finish("This server answers under the names of this machine only.\n")

    def on_connection_close(self) -> None:
        self.gone = True

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, LunarrayError):
            status_code = 400
            self.set_status(400)
            told = str(error)
        else:
            told = self._reason
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": told, "status": status_code}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, LunarrayError):
            super().log_exception(typ, value, tb)

    def asked(self, **given: str) -> _Asked:
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        return _Asked({**query, **given})

    async def made(self, make: Callable[..., Any], *args: Any) -> Any:
        """What a function gives, in another thread; what nobody waits for any more is not begun."""

        def run() -> Any:
            return None if self.gone else make(*args)

        return await asyncio.get_running_loop().run_in_executor(self.pool, run)


class _File(_Handler):
    def get(self, name: str) -> None:
        if name not in STATIC:
            raise tornado.web.HTTPError(404)
        file, kind = STATIC[name]
        self.set_header("Content-Type", kind)
        self.finish(package_files("lunarray.view").joinpath("static", file).read_bytes())


class _Json(_Handler):
    async def get(self, what: str) -> None:
        answer = getattr(self.content, what)
        found = await self.made(answer, *(() if what == "described" else (self.asked(),)))
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(_finite(found), allow_nan=False))


def _finite(found: Any) -> Any:
    """The same with nothing where a number is none, or beyond all: JSON has no word for these."""
    if isinstance(found, dict):
        return {name: _finite(one) for name, one in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(one) for one in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


class _Tile(_Handler):
    async def get(self, layer: str, grid: str, level: str, column: str, row: str) -> None:
        asked = self.asked(layer=layer, grid=grid)
        box = asked.grid().tile(int(level), int(column), int(row))
        if box is None:
            raise tornado.web.HTTPError(404)
        found = await self.made(self.content.tile, asked, box)
        if found is None:
            return
        image, whole = found
        self.set_header("Content-Type", "image/png")
        if whole:
            self.set_header("Cache-Control", "private, max-age=86400")
        self.finish(image)


def is_here(host: str, allowed: set[str]) -> bool:
    """Whether a name of this machine is one under which it may be asked: an address is not a name."""
    name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.rsplit(":", 1)[0]
    name = name.lower().rstrip(".")
    if name in allowed or name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def application(
    content: Content, pool: ThreadPoolExecutor, hosts: set[str] | None, token: str = ""
) -> tornado.web.Application:
    """All that is answered; under a secret word in front of each address where there is one."""
    base = f"/{token}" if token else ""
    common = {"content": content, "pool": pool, "hosts": hosts}
    number = r"(\d{1,6})"
    return tornado.web.Application(
        [
            (
                rf"{base}/api/tile/{number}/([a-z]{{1,12}})/(\d{{1,2}})/(\d{{1,8}})/(\d{{1,8}})\.png",
                _Tile,
                common,
            ),
            (rf"{base}/api/(described|limits|at|along|vectors|progress)", _Json, common),
            (rf"{base}/([a-z.]{{0,20}})", _File, common),
        ],
        default_handler_class=_Missing,
        default_handler_args=common,
        log_function=lambda handler: None,
        compress_response=True,
    )


class _Missing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        if not self._finished:
            raise tornado.web.HTTPError(404)
