"""The map in the browser and in the notebook."""

from __future__ import annotations

import asyncio
import base64
import html
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, LunarrayError, require_number
from lunarray.view.cache import Blocks, Files
from lunarray.view.layers import MapLayer, extents, home
from lunarray.view.pyramid import SMALL
from lunarray.view.sources import Source, from_object, open_sources
from lunarray.view.vectors import VectorLayer

#: Where the viewer is found.
HOST, PORT = "127.0.0.1", 8642
# Side of the picture that stays in a notebook, pixels.
_STILL = 480


class Viewer:
    """A map that is being served, from when it is made until it is closed.

    It runs in a thread of its own. A notebook shows it as a frame; ``with`` closes it.

    Parameters
    ----------
    sources : list of Source
        What it shows.
    host : str
        Address that it listens at.
    port : int
        0 takes one that is free.
    token : str
        A word that every address begins with, which whoever does not know it cannot guess.
    height : int
        Of the frame in a notebook, pixels.

    Attributes
    ----------
    url : str
        Where the page is.
    layers : list
        What can be seen.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene("north", resolution=8000.0, latitude=85.0)
    >>> with scene.lunar.explore() as viewer:
    ...     viewer.layers[0].described()["home"]
    'north'
    """

    def __init__(
        self,
        sources: list[Source],
        *,
        host: str = HOST,
        port: int = 0,
        token: str = "",
        height: int = 600,
    ) -> None:
        from lunarray.view.server import Content, application

        require_number("port", port, 0, 65535, whole=True)
        self.height, self._token = height, token
        self.layers = _layers(sources)
        self._pool = ThreadPoolExecutor(min(8, (os.cpu_count() or 2) + 2), "lunarray-view")
        content = Content(sources, self.layers, secrets.token_hex(4))
        # The word of the address is known to whoever may look; without one, names of this machine are.
        hosts = None if token else {host.lower()}
        self._application = application(content, self._pool, hosts, token)
        self._sockets = _listen(host, port)
        self.port = int(self._sockets[0].getsockname()[1])
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        shown = f"[{shown}]" if ":" in shown else shown
        self.url = f"http://{shown}:{self.port}/{token + '/' if token else ''}"
        self._started = threading.Event()
        self._stopped: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="lunarray-view")
        self._thread.start()
        self._started.wait(30)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from tornado.httpserver import HTTPServer

        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = HTTPServer(self._application, max_body_size=2**16, max_header_size=2**16)
        server.add_sockets(self._sockets)
        self._started.set()
        await self._stopped.wait()
        server.stop()
        await server.close_all_connections()

    def wait(self) -> None:
        """Serve until interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stop serving."""
        for layer in self.layers:
            if isinstance(layer, MapLayer):
                layer.close()
        if self._loop is not None and self._stopped is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<lunarray viewer of {len(self.layers)} layers at {self.url}>"

    def open(self) -> Viewer:
        """Show it in the system's web browser, where there is a screen for one."""
        screens = "DISPLAY", "WAYLAND_DISPLAY"
        # Without one, Python would start a browser of text in the terminal.
        if not sys.platform.startswith("linux") or any(map(os.environ.get, screens)):
            webbrowser.open(self.url)
        return self

    # --- notebooks --------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        """A frame with the map; beneath it a picture that stays when nothing serves the map any more."""
        url = html.escape(self._url_in_notebook(), quote=True)
        try:
            still = self.still()
        except LunarrayError:
            still = None  # the map itself says what is wrong, where it is looked at
        picture = ""
        if still is not None:
            data = base64.b64encode(still).decode()
            picture = (
                "<details><summary>A picture, for when this notebook is read without its kernel</summary>"
                f'<img alt="map" style="max-width:100%" src="data:image/png;base64,{data}"></details>'
            )
        return (
            f'<iframe src="{url}" style="width:100%;height:{self.height}px;border:1px solid #888" '
            f'title="Map of the Moon" allow="fullscreen"></iframe>'
            f'<p><a href="{url}" target="_blank" rel="noopener">Open in a window of its own</a></p>{picture}'
        )

    def _url_in_notebook(self) -> str:
        """Where a notebook's browser finds it: on a hub, through its proxy (jupyter-server-proxy)."""
        prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
        if not prefix:
            return self.url
        return f"{prefix.rstrip('/')}/proxy/{self.port}/{self._token + '/' if self._token else ''}"

    def still(self) -> bytes | None:
        """A PNG of the first map, seen whole; None where that would compute much.

        Returns
        -------
        bytes or None
        """
        from lunarray.geo import MOON
        from lunarray.view.grids import GRIDS, box
        from lunarray.view.tiles import Scale, picture, values_on

        layer = next((one for one in self.layers if isinstance(one, MapLayer)), None)
        if layer is None or layer.box.shape[0] * layer.box.shape[1] > SMALL:
            return None
        if layer.token is None and layer.array.chunks is not None:
            return None  # not of a store: nobody knows what computing it takes
        grid = GRIDS[home(layer.box)]
        found = extents(layer.box)[grid.name]
        if found is None:
            return None
        left, bottom, right, top = found
        step = max(right - left, top - bottom) / _STILL
        shape = int(np.ceil((top - bottom) / step)), int(np.ceil((right - left) / step))
        target = box(left, top, step, shape, MOON.crs(grid.system))
        values = values_on(layer.pyramid(), target)
        low, high = layer.limits()
        return picture(values, Scale(low, high, layer.described()["cmap"]))


def serve(
    sources: Any,
    *,
    host: str = HOST,
    port: int = PORT,
    crs: Any = None,
    open_browser: bool = False,
) -> Viewer:
    """Serve a web page with maps of the Moon: at both poles and of the whole.

    It shows layers with colour bars and transparency, differences of two layers, values with errors and spectra of a
    place, vectors, footprints and tracks, and needs no network. Tiles are read when they are looked at. Of a map
    of more than 17 million pixels overviews are made at the first look from afar, in the background, and those of
    lunarray's stores and of rasters are kept in the user's cache folder, at most 4 GiB.

    Parameters
    ----------
    sources : path, Dataset, DataArray, GeoDataFrame, or sequence of these
        Stores of lunarray or of other programs, GeoTIFFs, folders of these, GeoPackage, shapefile, GeoJSON,
        GeoParquet, or whatever :func:`lunarray.open` opens.
    host : str
        Address to listen at. By default this machine's own, which nobody else reaches.
    port : int
        0 takes one that is free.
    crs : optional
        What :func:`lunarray.geo.moon_crs` takes, of vectors that do not say theirs.
    open_browser : bool
        Show the page in the system's web browser.

    Returns
    -------
    Viewer
        Which serves in a thread of its own until it is closed or the program ends.

    Raises
    ------
    InputError
        If there is nothing to look at, or the port is taken.
    GridError, BodyMismatchError
        If something does not say where on the Moon it is.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene("north", resolution=8000.0, latitude=85.0)
    >>> with la.view.serve(scene, port=0) as viewer:
    ...     viewer.url.startswith("http://127.0.0.1:")
    True
    """
    one = isinstance(sources, (str, os.PathLike)) or hasattr(sources, "dims")
    if one or hasattr(sources, "geometry") or not isinstance(sources, Iterable):
        sources = [sources]
    viewer = Viewer(open_sources(sources, crs), host=host, port=port)
    return viewer.open() if open_browser else viewer


def explore(obj: xr.Dataset | xr.DataArray, *, name: str = "data", height: int = 600) -> Viewer:
    """Look at maps, footprints or tracks on an interactive map, in a notebook.

    Nothing is computed before it is looked at. The map comes from a server in this process, at an address that nobody
    can guess, and lives as long as the kernel or until it is closed. JupyterLab, Notebook and VS Code show it; on a
    hub the server needs jupyter-server-proxy.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables on (y, x) or (lat, lon) with a lunar CRS, and bands, wavelengths or others before them; or along an
        axis, with ``corner_lon`` and ``corner_lat``, or ``lon`` and ``lat``.
    name : str
        What the map calls it.
    height : int
        Of the map, pixels.

    Returns
    -------
    Viewer
        As the last line of a cell, the map; elsewhere, ``.url`` is where it is and ``.open()`` shows it in a browser.

    Raises
    ------
    InputError
        If there is nothing to look at.
    GridError, BodyMismatchError
        If it does not say where on the Moon it is.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene("north", resolution=8000.0, latitude=85.0)
    >>> viewer = scene.lunar.explore()
    >>> viewer.close()
    """
    require_number("height", height, 100, 10_000)
    return Viewer(from_object(obj, name), token=secrets.token_urlsafe(18), height=int(height))


def _layers(sources: list[Source]) -> list[Any]:
    blocks, kept = Blocks(), Files()
    found: list[Any] = []
    for source in sources:
        if source.maps is not None and source.box is not None:
            for array in source.maps.data_vars.values():
                found.append(MapLayer(len(found), source, array, source.box, blocks, kept))
        if source.shapes is not None:
            found.append(VectorLayer(len(found), source))
    return found


def _listen(host: str, port: int) -> list[socket.socket]:
    from tornado.netutil import bind_sockets

    try:
        return bind_sockets(int(port), host or None)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port} ({error.strerror or error})",
            where="port",
            remedy="Give another port, or 0 for one that is free",
        ) from error
