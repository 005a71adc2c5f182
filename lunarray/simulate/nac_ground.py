"""What a simulated NAC scene is drawn from: tables of craters, boulders and ridges, and fractures in three patterns.

Every kind has a random stream of its own, so that more of one leaves the others where they are. Places are in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lunarray.simulate import terrain

#: Classes of width in pixels, as Le Corre et al. (2025, section 3.1) label them; the last one ends for the simulator.
WIDTH_CLASSES: dict[str, tuple[float, float]] = {
    "tiny": (2.2, 5.0),
    "small": (5.0, 10.0),
    "medium": (10.0, 20.0),
    "large": (20.0, 30.0),
    "huge": (30.0, 45.0),
}
#: Their shares (section 3.1; huge ones make less than 0.01 %), for lines drawn one by one.
WIDTH_SHARES = {"tiny": 0.51, "small": 0.33, "medium": 0.13, "large": 0.029, "huge": 0.001}
#: Patterns in which fractures come, and the shares of complexes that have them.
PATTERNS = {"curvilinear": 0.5, "polygonal": 0.25, "en echelon": 0.25}

#: Letters of the profiles of :data:`lunarray.simulate.terrain.SEGMENT_COLUMNS`: V, U, worn, filled.
PROFILES = "VUWF"
#: What else a ground may have on it.
OTHERS = ("wrinkles", "massifs", "scarps", "terraces", "tracks", "patches")

CLASS_NAMES = tuple(WIDTH_CLASSES)
#: What a pit is labelled with: above every class of lines.
PIT = len(CLASS_NAMES) + 1
#: Vertices of a line, pixels.
_STEP = 5.0
#: Wave of the field that says where melt ponds are.
_POND_WAVE = 700.0
#: Waves of the field of melt ponds.
POND_OCTAVES = ((_POND_WAVE, 1.0), (_POND_WAVE / 3, 0.4), (_POND_WAVE / 9, 0.15))


def field_seed(seed: int, field: int, octave: int) -> int:
    """Seed of one octave of a random field; the lattices of no two octaves are alike."""
    return (seed * 64 + field * 16 + octave) * 8 + 1


def _pond_field(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return sum(
        amplitude * terrain.gradient_noise(field_seed(seed, 0, octave), y, x, wavelength)
        for octave, (wavelength, amplitude) in enumerate(POND_OCTAVES)
    )


def pond_level(seed: int, melt: float) -> float:
    """Value of the pond field that a share of the plane exceeds."""
    if melt >= 1:
        return -10.0
    if melt <= 0:
        return 10.0
    rng = np.random.default_rng((seed, 10))
    x, y = rng.uniform(0, 100 * _POND_WAVE, (2, 4000))
    return float(np.quantile(_pond_field(seed, x, y), 1 - melt))


def _count(rng: np.random.Generator, per_megapixel: float, rows: int, columns: int) -> int:
    return int(rng.poisson(per_megapixel * rows * columns / 1e6))


def draw_craters(
    seed: int, rows: int, columns: int, density: float, smallest: float = 3.0
) -> np.ndarray:
    """Table of craters: column, row, radius, depth over diameter; some lie outside and reach in.

    `density` counts those of 3 and more pixels radius; down to `smallest` there are the more.
    """
    rng = np.random.default_rng((seed, 1))
    count = _count(rng, density * (3.0 / smallest) ** 2, rows, columns)
    # As many as have a radius above r fall as its square: the Moon's where small craters are in equilibrium.
    radius = smallest * (1 - rng.random(count)) ** -0.5
    # Most are worn down; the fresh ones are few.
    ratio = 0.03 + 0.17 * rng.random(count) ** 1.7
    place = rng.random((count, 2)) * (columns + 200, rows + 200) - 100
    return np.column_stack([place, radius.clip(None, 150.0), ratio])


def draw_boulders(seed: int, rows: int, columns: int, density: float) -> np.ndarray:
    """Table of boulders: column, row, radius, height over radius."""
    rng = np.random.default_rng((seed, 2))
    count = _count(rng, density, rows, columns)
    radius = (0.9 * (1 - rng.random(count)) ** (-1 / 2.8)).clip(None, 8.0)
    place = rng.random((count, 2)) * (columns, rows)
    # Half of them lie in fields of some tens.
    fields = rng.random((max(count // 40, 1), 2)) * (columns, rows)
    member = np.flatnonzero(rng.random(count) < 0.5)
    place[member] = fields[rng.integers(0, len(fields), member.size)]
    place[member] += rng.normal(0, 35.0, (member.size, 2))
    return np.column_stack([place, radius, rng.uniform(0.5, 1.1, count)])


def draw_ridges(seed: int, rows: int, columns: int, density: float) -> np.ndarray:
    """Segments of ridges, as :data:`lunarray.simulate.terrain.SEGMENT_COLUMNS` says."""
    rng = np.random.default_rng((seed, 3))
    pieces = [np.empty((0, terrain.SEGMENT_COLUMNS))]
    for _ in range(_count(rng, density, rows, columns)):
        start = rng.random(2) * (columns, rows)
        width = 4.0 * 10 ** rng.uniform(0, 0.9)
        points = _walk(rng, start, rng.uniform(0, 2 * math.pi), width * 10 ** rng.uniform(0.8, 1.5))
        half = _half_widths(rng, len(points), width, 0.35, 0.3)
        pieces.append(_segments(points, half, rng.uniform(0.1, 0.35), float(rng.random() < 0.5), 1))
    return np.concatenate(pieces)


def draw_others(
    seed: int, rows: int, columns: int, densities: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What is no fracture and may be taken for one, besides craters, boulders and plain ridges.

    Returns segments that rise (wrinkle ridges and massifs, class 1 for the ridges), scarps and terraces
    (:func:`lunarray.simulate.terrain.add_scarps`), segments of the dents that boulders left (class 0), and these
    boulders.
    """
    raised, scarps, dents = [np.empty((0, terrain.SEGMENT_COLUMNS))], [np.empty((0, 8))], []
    boulders: list[list[float]] = []

    def stream(number: int, name: str) -> Iterator[tuple[np.random.Generator, np.ndarray, float]]:
        rng = np.random.default_rng((seed, number))
        for _ in range(_count(rng, densities.get(name, 0.0), rows, columns)):
            yield rng, rng.random(2) * (columns, rows), rng.uniform(0, 2 * math.pi)

    for rng, start, heading in stream(12, "wrinkles"):
        # A broad soft arch, and a crest that wanders on it.
        width = 20.0 * 5 ** rng.random()
        points = _walk(rng, start, heading, width * rng.uniform(5, 20))
        half = _half_widths(rng, len(points), width, 0.05, 0.3)
        raised.append(_segments(points, half, rng.uniform(0.03, 0.1), 2.0, 1))
        aside = np.cumsum(rng.normal(0, 0.04 * width, (len(points), 2)), axis=0)
        crest = points + aside.clip(-0.3 * width, 0.3 * width)
        half = _half_widths(rng, len(points), width * rng.uniform(0.12, 0.3), 0.4, 0.3)
        raised.append(_segments(crest, half, rng.uniform(0.1, 0.3), float(rng.integers(0, 3)), 1))
    for rng, start, heading in stream(13, "massifs"):
        points = _walk(rng, start, heading, rng.uniform(10, 120))
        half = _half_widths(rng, len(points), 40.0 * 5 ** rng.random(), 0.1, 0.6)
        raised.append(_segments(points, half, rng.uniform(0.1, 0.35), 2.0, 0))
    number = 0
    for name, stream_number in (("scarps", 14), ("terraces", 15)):
        for rng, start, heading in stream(stream_number, name):
            line = _walk(rng, start, heading, 80.0 * 8 ** rng.random())
            across = np.array([-math.sin(heading), math.cos(heading)])
            width = 3.0 * 8 ** rng.random()
            steps = 1 if name == "scarps" else int(rng.integers(2, 6))
            back = rng.uniform(3, 12) if name == "scarps" else rng.uniform(1.5, 4)
            for step in range(steps):
                points = line + step * width * back * rng.uniform(0.7, 1.2) * across
                ratio, count = rng.uniform(0.12, 0.45), len(points) - 1
                about = [np.full(count, v) for v in (width, ratio, back, float(number))]
                scarps.append(np.column_stack([points[:-1], points[1:], *about]))
                number += 1
    for rng, start, heading in stream(16, "tracks"):
        points = _walk(rng, start, heading, 60.0 * 6 ** rng.random())
        # A boulder that bounced left a string of dents.
        width = rng.uniform(2.2, 6.0)
        beat = 0.75 + 0.25 * np.cos(np.arange(len(points)) * rng.uniform(0.8, 3.0))
        half = _half_widths(rng, len(points), width, 0.15, 0.9) * beat
        dents.append(_segments(points, half, rng.uniform(0.08, 0.25), 2.0, 0))
        boulders.append([*points[-1], 0.5 * width, rng.uniform(0.6, 1.1)])
    return (
        np.concatenate(raised),
        np.concatenate(scarps),
        np.concatenate([np.empty((0, terrain.SEGMENT_COLUMNS)), *dents]),
        np.array(boulders, np.float64).reshape(-1, 4),
    )


@dataclass(frozen=True)
class Fracture:
    """One fracture or pit: its line, nominal width (pixels), class, and the segments that make its trough."""

    id: int
    points: np.ndarray
    width: float
    width_class: int
    pattern: str
    profile: int
    complex: int
    segments: np.ndarray


def draw_fractures(
    seed: int,
    rows: int,
    columns: int,
    level: float,
    density: float,
    pits: float,
    wear: float,
    class_shares: np.ndarray,
    pattern_shares: np.ndarray,
) -> list[Fracture]:
    """Fractures of a scene, and the pits on them."""
    rng = np.random.default_rng((seed, 4))
    result: list[Fracture] = []
    for number in range(_count(rng, density, rows, columns)):
        # Every complex has a stream of its own: more of them leave the first ones alone.
        own = np.random.default_rng((seed, 5, number))
        for _ in range(30):
            centre = own.random(2) * (columns, rows)
            if _pond_field(seed, centre[:1], centre[1:])[0] > level:
                break
        else:
            continue
        pattern = tuple(PATTERNS)[own.choice(len(PATTERNS), p=pattern_shares)]
        kind = own.choice(len(CLASS_NAMES), p=class_shares)
        width = own.uniform(*WIDTH_CLASSES[CLASS_NAMES[kind]])
        depth, profile = own.uniform(0.15, 0.5), int(own.random() < 0.5)
        worn = np.random.default_rng((seed, 11, number))
        if worn.random() < wear:
            depth, profile = 0.06 * 4 ** worn.random(), int(worn.integers(2, 4))
        for points in _PATTERN_LINES[pattern](own, centre, width):
            trimmed = _in_ponds(seed, points, level, (columns, rows))
            if len(trimmed) < 2:
                continue
            mine = float(np.clip(width * own.lognormal(0, 0.2), 2.2, 45.0))
            half = _half_widths(
                own, len(trimmed), mine, 0.2, 0.8 if pattern == "polygonal" else 0.4
            )
            klass = _class_of(mine)
            segments = _segments(
                trimmed,
                half,
                depth * own.uniform(0.7, 1.1) * (0.7 if profile else 1.0),
                float(profile),
                klass + 1,
            )
            result.append(
                Fracture(len(result), trimmed, mine, klass, pattern, profile, number, segments)
            )
    wanted = _count(rng, pits, rows, columns) if result else 0
    for _ in range(wanted):
        host = result[rng.integers(0, len(result))]
        place = host.points[rng.integers(0, len(host.points))]
        radius = rng.uniform(6.0, 22.0)
        angle, stretch = rng.uniform(0, math.pi), rng.uniform(0.2, 1.5) * radius
        ends = place + np.outer([-0.5, 0.5], stretch * np.array([math.cos(angle), math.sin(angle)]))
        segments = _segments(ends, np.full(2, radius), rng.uniform(0.25, 0.5), 1.0, PIT)
        result.append(
            Fracture(len(result), ends, 2 * radius, PIT - 1, "pit", 1, host.complex, segments)
        )
    return result


def _class_of(width: float) -> int:
    return int(np.searchsorted([5.0, 10.0, 20.0, 30.0], width, side="right"))


def _walk(rng: np.random.Generator, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """A line that bends slowly and wavers, through its start in the middle."""
    count = max(int(length / _STEP), 3)
    bend = rng.normal(0, 0.012)
    waver = np.cumsum(rng.normal(0, 0.05, count)) * 0.98
    direction = heading + bend * (np.arange(count) - count / 2) + waver - waver[count // 2]
    direction += rng.normal(0, 0.10, count)
    steps = _STEP * np.column_stack([np.cos(direction), np.sin(direction)])
    points = np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])
    return start + points - points[count // 2]


def _length(rng: np.random.Generator, width: float) -> float:
    """Wider fractures are longer: on average 40 pixels of length for a narrow, several hundreds for a wide one."""
    return float(np.clip(width * 10 ** rng.uniform(0.9, 1.6), 40.0, 900.0))


def _curvilinear(rng: np.random.Generator, centre: np.ndarray, width: float) -> list[np.ndarray]:
    heading, length = rng.uniform(0, 2 * math.pi), 1.6 * _length(rng, width)
    count = int(rng.integers(1, 7))
    across = np.array([-math.sin(heading), math.cos(heading)])
    along = np.array([math.cos(heading), math.sin(heading)])
    spacing = max(3.5 * width, 18.0) * rng.uniform(0.8, 2.5)
    lines = []
    first = _walk(rng, centre, heading, length)
    for n in range(count):
        shift = (n - count // 2) * spacing * rng.uniform(0.8, 1.2)
        if rng.random() < 0.5:
            line = first + shift * across + rng.normal(0, 0.15 * length) * along
            line = line[rng.integers(0, max(len(line) // 4, 1)) :]
        else:
            line = _walk(
                rng,
                centre + shift * across + rng.normal(0, 0.15 * length) * along,
                heading + rng.normal(0, 0.1),
                length * rng.uniform(0.4, 1.2),
            )
        lines.append(line)
    return lines


def _polygonal(rng: np.random.Generator, centre: np.ndarray, width: float) -> list[np.ndarray]:
    from scipy.spatial import Voronoi

    spacing = float(np.clip(width * rng.uniform(5, 12), 24.0, 220.0))
    cells = int(rng.integers(4, 9))
    grid = (np.arange(cells) - (cells - 1) / 2) * spacing
    nodes = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    nodes = centre + nodes + rng.uniform(-0.42, 0.42, nodes.shape) * spacing
    mosaic = Voronoi(nodes)
    lines = []
    reach = cells * spacing / 2
    for a, b in mosaic.ridge_vertices:
        if a < 0 or b < 0 or rng.random() < 0.15:
            continue
        ends = mosaic.vertices[[a, b]]
        length = float(np.hypot(*(ends[1] - ends[0])))
        if np.hypot(*(ends - centre).T).max() > reach or length < 2 * width + 4:
            continue
        share = np.linspace(0, 1, max(int(length / (2 * _STEP)), 2) + 1)[:, None]
        line = ends[0] + share * (ends[1] - ends[0])
        line[1:-1] += rng.normal(0, 0.03 * length, (len(line) - 2, 2))
        lines.append(line)
    return lines


def _en_echelon(rng: np.random.Generator, centre: np.ndarray, width: float) -> list[np.ndarray]:
    strike, length = rng.uniform(0, 2 * math.pi), _length(rng, width)
    turn = math.radians(rng.uniform(15, 45)) * rng.choice((-1, 1))
    count = int(rng.integers(4, 10))
    along = np.array([math.cos(strike), math.sin(strike)])
    spacing = max(length * rng.uniform(0.5, 0.8), 3.0 * width)
    return [
        _walk(
            rng,
            centre + (n - (count - 1) / 2) * spacing * along + rng.normal(0, 0.05 * length, 2),
            strike + turn + rng.normal(0, 0.06),
            length * rng.uniform(0.7, 1.2),
        )
        for n in range(count)
    ]


_PATTERN_LINES = {
    "curvilinear": _curvilinear,
    "polygonal": _polygonal,
    "en echelon": _en_echelon,
}


def _in_ponds(seed: int, points: np.ndarray, level: float, size: tuple[int, int]) -> np.ndarray:
    """The longest run of a line within the melt and the scene."""
    inside = _pond_field(seed, points[:, 0].copy(), points[:, 1].copy()) > level - 0.03
    inside &= (points >= 0).all(axis=1) & (points < size).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    if not edges.size:
        return points[:0]
    runs = edges.reshape(-1, 2)
    first, last = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    return points[first:last]


def _half_widths(
    rng: np.random.Generator, count: int, width: float, spread: float, end: float
) -> np.ndarray:
    """Half-widths along a line: they wander, and shrink to a share towards the ends."""
    wander = rng.normal(0, 1, count + 6)
    wander = np.convolve(wander, np.full(7, 7**-0.5), mode="valid")
    share = np.linspace(0, 1, count)
    taper = np.clip(np.minimum(share, 1 - share) / 0.15, 0, 1)
    taper = end + (1 - end) * taper
    # Widths are meant as means over the line.
    half = 0.5 * width * (1 + spread * wander).clip(0.5, 1.6) * taper / (0.85 + 0.15 * end)
    return half.clip(1.0, None)


def _segments(
    points: np.ndarray, half: np.ndarray, ratio: float, profile: float, value: int
) -> np.ndarray:
    count = len(points) - 1
    return np.column_stack(
        [
            points[:-1],
            half[:-1],
            points[1:],
            half[1:],
            np.full(count, ratio),
            np.full(count, profile),
            np.full(count, float(value)),
        ]
    )


def draw_strips(
    seed: int, rows: int, columns: int, width: float | None, nodata: bool
) -> np.ndarray:
    """Images of the mosaic: left edge, slope, gain, offset, width of the gap; see ``NacTerrain.strips``."""
    rng = np.random.default_rng((seed, 6))
    slope = rng.uniform(-0.12, 0.12)
    strips = [[-math.inf, 0.0, 1.0, 0.0, 0.0]]
    if width is None:
        return np.array(strips)
    left = min(0.0, -slope * rows) - rng.random() * width
    while left < columns + abs(slope) * rows:
        left += width * rng.uniform(0.85, 1.15)
        gap = rng.uniform(2, 12) if nodata and rng.random() < 0.3 else 0.0
        strips.append(
            [left, slope + rng.normal(0, 0.004), rng.normal(1, 0.08), rng.normal(0, 0.0015), gap]
        )
    return np.array(strips)


def draw_edges(seed: int, rows: int, columns: int, nodata: bool) -> tuple[float, float, float]:
    """Left and right edge of valid ground in row 0, and columns they move a row."""
    if not nodata:
        return (-math.inf, math.inf, 0.0)
    rng = np.random.default_rng((seed, 7))
    slope = rng.uniform(-0.06, 0.06)
    left, right = rng.uniform(0.0, 0.03, 2) * columns
    # Both edges lie inside at one end of the scene.
    return (left - max(slope, 0.0) * rows, columns - right - min(slope, 0.0) * rows, slope)
