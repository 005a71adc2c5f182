"""Lines, not blobs: scores of skeletons, the losses that see them, and the graph with its bridges."""

from __future__ import annotations

import math

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.fractures import compare, line_graph, map_fractures, vectorize
from lunarray.fractures.lines import COUNTS, line_counts, line_metrics
from lunarray.fractures.scales import at_scales, check_scales
from lunarray.geo import assign_grid, covering_box, moon_crs

CRS = moon_crs("equirectangular").to_wkt()


def bar(*breaks, rows=60, columns=120, at=30, width=5):
    """A horizontal line with gaps of 8 pixels."""
    mask = np.zeros((rows, columns), np.uint8)
    mask[at - width // 2 : at + width // 2 + 1, 10:110] = 1
    for place in breaks:
        mask[:, place : place + 8] = 0
    return mask


def named(predicted, labels, **options):
    return dict(zip(COUNTS, line_counts(predicted, labels, **options).tolist(), strict=True))


def test_breaks_are_counted_where_area_hardly_shows_them():
    whole = bar()
    same = named(whole, whole)
    assert (same["lines"], same["lines_found"], same["lines_broken"], same["breaks"]) == (
        1,
        1,
        0,
        0,
    )
    assert line_metrics(line_counts(whole, whole))["clDice"] == 1
    broken = named(bar(30, 70), whole)
    assert (broken["lines_found"], broken["lines_broken"], broken["breaks"]) == (1, 1, 2)
    # A gap that the tolerance spans is none.
    assert named(bar(30, 70), whole, tolerance=5)["breaks"] == 0
    none = named(np.zeros_like(whole), whole)
    assert (none["lines"], none["lines_found"], none["found"]) == (1, 0, 0)
    assert math.isnan(line_metrics(line_counts(np.zeros_like(whole), whole))["clDice"])


def test_tolerance_and_no_data():
    aside = bar(at=33)
    near, far = (named(aside, bar(), tolerance=t) for t in (3, 2))
    assert near["found_near"] == near["found"] > 80
    assert far["found_near"] == 0
    hidden = bar()
    hidden[:, :60] = 255
    assert named(bar(), hidden)["labelled"] < 0.6 * named(bar(), bar())["labelled"]
    assert named(bar(), bar(), valid=hidden != 255) == named(bar(), hidden)


def _image(mask):
    rows, columns = mask.shape
    box = covering_box((0.0, 0.0, 2.0 * columns, 2.0 * rows), 2.0, moon_crs("equirectangular"))
    return assign_grid(xr.DataArray(mask, dims=("y", "x"), name="mask"), box)


def lines(*points):
    return geopandas.GeoDataFrame(geometry=[shapely.LineString(p) for p in points], crs=CRS)


def test_bridges_within_limits():
    drawn = lines([(0, 0), (50, 0)], [(60, 1), (100, 0)], [(64, 14), (64, 60)])
    assert line_graph(drawn).summary()["lines"] == 3
    ends = line_graph(drawn, gap=11.0)
    assert (ends.summary()["lines"], ends.summary()["bridges"]) == (2, 1)
    every = line_graph(drawn, gap=15.0)
    numbers = every.summary()
    assert (numbers["lines"], numbers["bridges"], numbers["nodes_Y"]) == (1, 2, 1)
    assert numbers["length"] == pytest.approx(50 + math.hypot(40, 1) + 46, rel=1e-4)
    assert numbers["bridged"] == pytest.approx(math.hypot(10, 1) + 13.1, rel=0.01)
    bridge = every.edges["kind"] == "bridge"
    assert (every.edges.loc[bridge, "feature"] == -1).all()
    assert every.edges.loc[bridge, "length"].max() <= 15
    # Not round a corner, and not through another line.
    corner = lines([(0, 0), (50, 0)], [(55, 5), (55, 50)])
    assert line_graph(corner, gap=12.0, angle=30).summary()["bridges"] == 0
    across = lines([(0, 0), (50, 0)], [(60, 0), (100, 0)], [(55, -30), (55, 30)])
    assert line_graph(across, gap=12.0).edges.query("kind == 'bridge'").length.max() < 6


def test_junctions():
    cross = line_graph(lines([(0, 0), (100, 0)], [(50, -40), (50, 40)], [(20, 0), (20, 30)]))
    numbers = cross.summary()
    assert (numbers["nodes_X"], numbers["nodes_Y"], numbers["nodes_I"]) == (1, 1, 5)
    assert numbers["lines"] == 1
    none = line_graph(lines([(0, 0), (1, 0)])[:0], gap=5.0).summary()
    assert (none["lines"], none["length"]) == (0, 0)


def test_vectors_of_a_broken_line_are_one_line_again():
    frame = vectorize(_image(bar(30, 70)), min_area=0)
    assert len(frame) == 3
    assert line_graph(frame).summary()["lines"] == 3
    repaired = line_graph(frame, gap=40.0).summary()
    assert (repaired["lines"], repaired["bridges"]) == (1, 2)
    with pytest.raises(InputError, match="centre lines"):
        line_graph(frame.drop(columns="centreline"))
    with pytest.raises(InputError, match="gap"):
        line_graph(frame, gap=-1)
    with pytest.raises(GridError, match="CRS"):
        line_graph(geopandas.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])]))


def test_compare_counts_breaks():
    whole, parts = _image(bar()), _image(bar(30, 70))
    of_masks = compare(parts, whole, tolerance=6.0)
    assert (of_masks.lines, of_masks.lines_found, of_masks.lines_broken, of_masks.breaks) == (1, 1, 1, 2)  # fmt: skip
    assert 0.8 < of_masks.cldice < 1
    assert of_masks.correctness == pytest.approx(1, abs=1e-6)
    of_vectors = compare(vectorize(parts, min_area=0), vectorize(whole, min_area=0), tolerance=6.0)
    assert of_vectors.summary() == pytest.approx(of_masks.summary())
    assert compare(whole.chunk(25), parts.chunk(25), tolerance=6.0).summary() == pytest.approx(
        compare(whole, parts, tolerance=6.0).summary()
    )


def _edge(tiles):
    """A stand-in for a network: a pixel is as probable as it is dark."""
    return np.clip(1 - tiles, 0, 1)


def test_scales_do_not_depend_on_chunks():
    assert check_scales((0.25, 1, 1 / 3, 0.5)) == (1, 2, 3, 4)
    rng = np.random.default_rng(2)
    values = rng.random((70, 83), dtype=np.float32)
    values[10:25, 30:55] = np.nan
    eager = at_scales(values, (1, 2, 4), lambda a: _edge(np.asarray(a)))
    assert np.isnan(eager).sum() == 15 * 25
    assert (eager[np.isfinite(eager)] >= _edge(values)[np.isfinite(eager)]).all()
    image = xr.DataArray(values, dims=("y", "x"))
    for chunks in ({"y": 13, "x": 29}, {"y": 70, "x": 5}):
        lazy = at_scales(image.chunk(chunks).data, (1, 2, 4), lambda a: a.map_blocks(_edge))
        assert lazy.chunks == image.chunk(chunks).chunks
        np.testing.assert_array_equal(lazy.compute(), eager)
    for bad in ((), (0.7,), (2,), (0,), "x", (float("nan"),)):
        with pytest.raises(InputError, match="scales"):
            map_fractures(image, scales=bad)


@pytest.mark.needs("torch")
def test_a_model_may_say_at_which_scales_to_look(tmp_path):
    from lunarray.fractures import light, load_model, save_model

    path = save_model(tmp_path / "m.safetensors", light(4), scales=(1, 0.5))
    image = xr.DataArray(np.random.default_rng(3).random((96, 90), np.float32), dims=("y", "x"))
    own = map_fractures(image, path, tile=64)
    told = map_fractures(image, path, tile=64, scales=(1, 0.5))
    one = map_fractures(image, path, tile=64, scales=(1,))
    np.testing.assert_array_equal(own["probability"], told["probability"])
    assert "scales 1/1, 1/2" in str(own.attrs)
    lower = save_model(
        tmp_path / "n.safetensors", load_model(path).network, scales=(0.5,), scale_margin=0.7
    )
    less, more = (map_fractures(image, p, tile=64, scales=(0.5,)) for p in (lower, path))
    # Between the middles of coarse pixels what was lowered is interpolated.
    a, b = (m["probability"].values[0, 0] for m in (less, more))
    assert np.log(b / (1 - b)) - np.log(a / (1 - a)) == pytest.approx(0.7, abs=1e-3)
    assert (own["probability"] >= one["probability"]).all()
    assert (own["probability"] > one["probability"]).any()


@pytest.mark.needs("torch")
def test_losses_of_lines():
    import torch

    from lunarray.fractures.losses import line_loss, loss_of, skeleton
    from lunarray.fractures.settings import TrainSettings

    whole = torch.tensor(bar()[None], dtype=torch.float32)
    parts = torch.tensor(bar(30, 70)[None], dtype=torch.float32)
    thin = skeleton(whole[:, None])
    assert 90 <= float(thin.sum()) <= 110
    assert float(line_loss(whole, whole)) == pytest.approx(0, abs=1e-3)
    assert float(line_loss(parts, whole, precise=False)) == pytest.approx(0.16, abs=0.03)
    # Of two errors of one area a break costs more than a line that is thinner.
    thinner = torch.tensor(bar(width=3)[None], dtype=torch.float32)
    assert (whole - thinner).sum() > 1.9 * (whole - parts).sum()
    assert float(line_loss(parts, whole)) > 3 * float(line_loss(thinner, whole))
    logits = (6 * parts - 3).requires_grad_()
    valid = torch.ones_like(whole, dtype=torch.bool)
    for kind in ("cldice", "recall"):
        settings = TrainSettings(loss="bce_dice", lines=kind, lines_weight=1.0)
        plain = loss_of(logits, whole, valid, TrainSettings(loss="bce_dice"))
        value = loss_of(logits, whole, valid, settings)
        assert value.item() > plain.item() + 0.05
        (gradient,) = torch.autograd.grad(value, logits)
        assert (gradient[0, 28:33, 31:37].mean() < 0).item()
        (nothing,) = torch.autograd.grad(loss_of(logits, whole, valid & False, settings), logits)
        assert not nothing.any()
    with pytest.raises(InputError, match="lines"):
        TrainSettings(lines="betti")
