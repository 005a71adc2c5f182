"""The map as a browser shows it: three projections, values and a spectrum, a difference, links, keys, a phone.

It needs playwright and a Chromium: LUNARRAY_CHROMIUM names one, else the first of its names that is on the path.
"""

from __future__ import annotations

import io
import os
import shutil

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from PIL import Image

from lunarray import geo, view

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = os.environ.get("LUNARRAY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs a Chromium: set LUNARRAY_CHROMIUM, or install one")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


def world() -> xr.Dataset:
    """A map of the whole Moon whose colours tell where one is: north bright, south dark."""
    box = geo.lunar_grid("geographic", 1.0)
    lat = np.broadcast_to(np.linspace(89.5, -89.5, 180)[:, None], box.shape).astype("f4")
    waves = np.linspace(500.0, 1500.0, 20)
    cube = (0.1 + 1e-4 * waves)[:, None, None] * np.ones((1, *box.shape), "f4")
    coords, dims = geo.grid_coords(box), geo.grid_dims(box)
    ds = xr.Dataset(
        {
            "height": (dims, lat, {"units": "m"}),
            "height_std": (dims, np.full(box.shape, 2.5, "f4"), {"units": "m"}),
            "other": (dims, (lat - 10).astype("f4"), {"units": "m"}),
            "reflectance": (("wavelength", *dims), cube.astype("f4")),
        },
        {**coords, "wavelength": ("wavelength", waves, {"units": "nm"})},
    )
    return geo.assign_crs(ds, box)


@pytest.fixture(scope="module")
def served():
    shapes = [shapely.box(-20, -20, 20, 20), shapely.LineString([(60, 70), (120, 85)])]
    vectors = geopandas.GeoDataFrame(
        {"name": ["<img src=x onerror=alert(1)>", "rille"], "length": [1.0, 2.0]},
        geometry=shapes,
        crs=geo.moon_crs("geographic").to_wkt(),
    )
    with view.serve([world(), vectors], port=0) as viewer:
        yield viewer


@pytest.fixture
def page(browser, served):
    """The page in a window; whatever it complains of is an error."""
    yield from opened(browser, served.url, viewport={"width": 1000, "height": 700})


def opened(browser, url, **options):
    context = browser.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("dialog", lambda dialog: complaints.append("a script of the data ran"))
    beyond: list[str] = []
    own = (url, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else beyond.append(r.url))
    visit(page, url)
    yield page
    context.close()
    assert not complaints
    assert not beyond  # no network


def visit(page, url):
    page.goto(url)
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    still(page)


def still(page):
    """Wait until the map has all its tiles."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)


def colours(page, x, y) -> tuple[int, ...]:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    patch = np.asarray(image)[y - 6 : y + 7, x - 6 : x + 7].reshape(-1, 3)
    return tuple(int(v) for v in np.median(patch, axis=0))


def choose(page, title):
    page.click(f"#grids button:has-text('{title}')")
    still(page)


def values(page) -> str:
    page.wait_for_selector("#values h2", timeout=30_000)
    return page.inner_text("#values")


def test_three_projections(page):
    page.uncheck("#graticule")
    page.uncheck("#layers li:has-text('vectors') input[type=checkbox]")
    found = {}
    for name, title in (("north", "North pole"), ("south", "South pole"), ("global", "Whole Moon")):
        choose(page, title)
        assert page.evaluate("location.hash").startswith(f"#grid={name}")
        found[name] = colours(page, 660, 350)
    # viridis: yellow at the north pole, purple at the south pole, green-blue at the equator.
    north, south, middle = found["north"], found["south"], found["global"]
    assert north[0] > 200 and north[2] < 90, north  # noqa: PT018
    assert south[0] < 100 and south[1] < 40, south  # noqa: PT018
    assert middle[1] > 90 and middle[0] < 80, middle  # noqa: PT018
    page.check("#graticule")
    still(page)


def test_a_click_tells_values_errors_and_a_spectrum(page):
    choose(page, "North pole")
    page.mouse.click(800, 450)
    told = values(page)
    assert "height" in told
    assert "± 2.5 m" in told
    assert "reflectance" in page.text_content("#values svg text")
    assert page.get_attribute("#values svg polyline", "points").count(",") == 20
    # Where it says that it is, is where the pointer was.
    shown = page.inner_text("#position")
    first = told.splitlines()[0]
    places = [[round(float(part[:-2]), 2) for part in text.split()] for text in (first, shown)]
    assert places[0] == places[1]


def test_a_difference(page):
    item = "#layers li:has-text('height')"
    page.click(f"{item} summary")
    page.select_option(f"{item} select[aria-label^=Subtract]", label="other · data")
    still(page)
    assert "height − other" in page.inner_text(item)
    ends = page.inner_text(f"{item} .ends").split()
    assert float(ends[0]) == -float(ends[-1]) == pytest.approx(-10, abs=0.02)
    page.uncheck("#graticule")
    red = colours(page, 450, 200)
    assert red[0] > 80 and red[2] < 80, red  # noqa: PT018  # 10 m everywhere: the red end


def test_vectors_are_drawn_and_tell(page, served):
    page.goto("about:blank")
    visit(page, f"{served.url}#grid=global&x=0&y=0&r=5000&graticule=0&layer=id%3D0&layer=id%3D4")
    bare = colours(page, 660, 350)
    page.uncheck("#layers li:has-text('vectors') input[type=checkbox]")
    page.wait_for_timeout(300)
    assert colours(page, 660, 350) != bare
    page.check("#layers li:has-text('vectors') input[type=checkbox]")
    page.mouse.click(660, 350)
    page.wait_for_selector("#values td:has-text('length')")
    # What data say is text, and never code.
    assert "<img src=x onerror=alert(1)>" in page.inner_text("#values")
    page.click("#layers li:has-text('vectors') summary")
    page.select_option("#layers li:has-text('vectors') select[aria-label^=Colour]", "length")
    still(page)
    assert colours(page, 660, 350) not in (bare, (0, 0, 0))


def test_a_link_to_a_view_shows_it_again(page, served):
    choose(page, "South pole")
    page.fill("#layers li:has-text('height') input[aria-label^=Opacity]", "40")
    page.dispatch_event("#layers li:has-text('height') input[aria-label^=Opacity]", "change")
    page.mouse.move(600, 350)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(800)
    link = page.url
    before = page.evaluate("location.hash")
    page.goto("about:blank")
    visit(page, link)
    assert page.evaluate("location.hash") == before
    assert page.input_value("#layers li:has-text('height') input[aria-label^=Opacity]") == "40"
    # Nonsense in an address is left aside.
    page.goto("about:blank")
    nonsense = "x=a&y=2&r=-1&layer=id%3D99&layer=id%3D0%26cmap%3Dnope%26minus%3D-4&at=1,b"
    visit(page, f"{served.url}#grid=south&{nonsense}")
    assert page.locator("#layers li").count() == 1


def test_by_keyboard_alone(page):
    page.focus("#map")
    for key, name in (("2", "south"), ("3", "global"), ("1", "north")):
        page.keyboard.press(key)
        still(page)
        assert page.evaluate("location.hash").startswith(f"#grid={name}")
    before = page.evaluate("location.hash")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    page.wait_for_timeout(800)
    assert page.evaluate("location.hash") != before
    page.keyboard.press("Enter")
    assert "height" in values(page)
    page.keyboard.press("m")
    assert page.get_attribute("#menu", "aria-expanded") == "false"
    page.keyboard.press("m")
    # All that can be worked has a name for who cannot see it.
    names = page.evaluate(
        "[...document.querySelectorAll('button, select, input')].filter(n => !(n.getAttribute('aria-label') || "
        "n.textContent.trim() || n.title || n.closest('label'))).length"
    )
    assert names == 0


def test_on_a_phone(browser, served):
    phone = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
    for page in opened(browser, served.url, **phone):
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.get_attribute("#menu", "aria-expanded") == "false"
        page.touchscreen.tap(187, 300)
        assert "height" in values(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        box = page.locator("#panel").bounding_box()
        assert box["width"] <= 375 and box["y"] > 250, box  # noqa: PT018
        page.tap("#menu")
        assert not page.is_visible("#panel")
