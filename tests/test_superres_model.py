"""The network: attention against torch-geometric's layer, index equations, shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError
from lunarray.superres.architecture import Architecture, Scaling
from lunarray.superres.attention import GATv2, attend, edge_lengths
from lunarray.superres.grid import GIBGrid
from lunarray.superres.model import HybridModel, grid_index

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def small(**changes):
    options = {"hidden": 6, "heads": 2, "channels": (5, 4, 3), "fusion": 7} | changes
    torch.manual_seed(1)
    return HybridModel(Architecture(9, 4, **options))


def graph(rng, nodes=30, k=5):
    index = rng.integers(0, nodes, (nodes, k)).astype(np.int32)
    edge = rng.random((nodes, k, 2)).astype(np.float32)
    return torch.from_numpy(index), torch.from_numpy(edge)


def layer_result(layer, x, index, edge, **options):
    layer.zero_grad()
    x = x.clone().requires_grad_()
    out = attend(layer, x, index, edge, **options)
    (torch.sin(out) * torch.arange(out.numel()).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


def theirs(layer, inputs):
    """torch-geometric's layer with the same weights."""
    from torch_geometric.nn import GATv2Conv

    other = GATv2Conv(inputs, layer.channels, layer.heads, edge_dim=2, add_self_loops=False)
    other.load_state_dict(layer.state_dict())
    return other


def test_weights_begin_as_torch_geometrics():
    from torch_geometric.nn import GATv2Conv

    torch.manual_seed(5)
    ours = GATv2(12, 6, 2, 2).state_dict()
    torch.manual_seed(5)
    other = GATv2Conv(12, 6, 2, edge_dim=2, add_self_loops=False).state_dict()
    assert set(ours) == set(other)
    assert all(torch.equal(ours[name], other[name]) for name in ours)


def test_attention_is_torch_geometrics(rng):
    layer = small().attention[0]
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(30, 12)
    index, edge = graph(rng)
    edges = torch.stack([index.reshape(-1).long(), torch.arange(30).repeat_interleave(5)])
    own = theirs(layer, 12)(x, edges, edge.reshape(-1, 2)).detach()
    for options in ({"fused": True}, {"fused": False, "block": 7}):
        assert torch.allclose(attend(layer, x, index, edge, **options), own, atol=1e-5)
    fused = layer_result(layer, x, index, edge, fused=True)
    plain = layer_result(layer, x, index, edge, fused=False, block=1000)
    blocks = layer_result(layer, x, index, edge, fused=False, block=7)
    for a, b, c in zip(fused, plain, blocks, strict=True):
        scale = b.abs().max()
        assert (a - b).abs().max() <= 2e-5 * scale
        assert (c - b).abs().max() <= 2e-5 * scale


def test_attention_by_the_papers_formula(rng):
    """h'_i = sum_j alpha_ij Theta_t h_j, written out."""
    layer = small(heads=1).attention[0]
    x = torch.randn(8, 12)
    index, edge = graph(rng, 8, 3)
    got = attend(layer, x, index, edge).detach().numpy()
    source = x @ layer.lin_l.weight.T + layer.lin_l.bias
    query = x @ layer.lin_r.weight.T + layer.lin_r.bias
    for i in range(8):
        z = []
        for e in range(3):
            s = query[i] + source[index[i, e]] + layer.lin_edge.weight @ edge[i, e]
            z.append((layer.att[0, 0] @ torch.where(s > 0, s, 0.2 * s)).item())
        share = np.exp(z) / np.sum(np.exp(z))
        want = sum(a * source[index[i, e]].detach().numpy() for e, a in enumerate(share))
        np.testing.assert_allclose(got[i], want + layer.bias.detach().numpy(), atol=1e-5)


def test_attention_in_double_takes_the_layer(rng):
    layer = small().attention[0].double()
    index, edge = graph(rng)
    out = attend(layer, torch.randn(30, 12).double(), index, edge.double())
    assert out.dtype == torch.float64


def test_edge_lengths(rng):
    values = rng.standard_normal((20, 7)).astype(np.float32)
    index = rng.integers(0, 20, (20, 4)).astype(np.int32)
    want = np.linalg.norm(values[index] - values[:, None], axis=-1)
    np.testing.assert_allclose(edge_lengths(values, index), want, rtol=1e-5)


@pytest.mark.parametrize("start", [(0, 0), (242, 582), (150, 300)])
def test_index_equations_give_each_pixel_its_cell(start):
    grid = GIBGrid()
    lat = grid.lat(3)[start[0] : start[0] + 100]
    lon = grid.lon(7)[start[1] : start[1] + 100]
    lat, lon = (v.ravel() for v in np.meshgrid(lat, lon, indexing="ij"))
    row, column = grid_index(lat, lon, (100, 100))
    assert np.array_equal(row * 100 + column, np.arange(10_000))


@given(
    st.integers(2, 150), st.integers(2, 150), st.floats(-80, 80), st.floats(-400, 400),
    st.floats(1e-3, 0.5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_index_equations_on_any_grid(rows, columns, lat0, lon0, step):
    lat = lat0 - step * np.arange(rows) / 16
    lon = lon0 + step * np.arange(columns)
    lat, lon = (v.ravel() for v in np.meshgrid(lat, lon, indexing="ij"))
    row, column = grid_index(lat, lon, (rows, columns))
    assert np.array_equal(row * columns + column, np.arange(rows * columns))


def test_index_equations_with_fewer_cells():
    """With n_grid of a pooled image, as the equations have it."""
    lat, lon = np.array([10.0, 7.5, 5.0, 0.0]), np.array([0.0, 2.0, 9.0, 20.0])
    row, column = grid_index(lat, lon, (5, 3))
    want_row = [math.floor((v - 10) / (0 - 10) * 4 + 1e-6) for v in lat]
    want_column = [math.floor((v - 0) / 20 * 2 + 1e-6) for v in lon]
    assert row.tolist() == want_row
    assert column.tolist() == want_column
    assert grid_index(lat[:1], lon[:1], (5, 3))[0].tolist() == [0]
    assert grid_index(lat[:0], lon[:0], (5, 3))[0].size == 0


@pytest.mark.parametrize(("pool_stride", "skip"), [(1, False), (2, False), (1, True)])
def test_every_node_gets_its_elements(rng, pool_stride, skip):
    model = small(pool_stride=pool_stride, skip=skip, dropout=0.0)
    shape = (5, 7)
    row, column = (torch.from_numpy(v) for v in np.divmod(np.arange(35), 7))
    index, edge = graph(rng, 35)
    x = torch.randn(35, 12)
    out = model(x, index, edge, row, column, shape)
    assert out.shape == (35, 4)
    # The order of nodes means nothing.
    order = torch.randperm(35)
    place = torch.empty(35, dtype=torch.long)
    place[order] = torch.arange(35)
    near = place[index.long()][order].int()
    moved = model(x[order], near, edge[order], row[order], column[order], shape)
    assert torch.allclose(moved, out[order], atol=1e-5)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_convolutions_see_neighbours_that_the_graph_does_not(rng):
    model = small(dropout=0.0).eval()
    row, column = (torch.from_numpy(v) for v in np.divmod(np.arange(81), 9))
    index = torch.arange(81, dtype=torch.int32)[:, None]  # every node sees itself only
    edge = torch.ones(81, 1, 2)
    x = torch.randn(81, 12)
    changed = x.clone()
    changed[40] += 3
    before, after = (model(v, index, edge, row, column, (9, 9)) for v in (x, changed))
    moved = (before - after).abs().sum(1)
    moved = moved.detach().view(9, 9) > 1e-7
    # Three convolutions of 3 × 3 and two poolings of 2 × 2 that look ahead: three before, five back.
    assert moved[4, 4]
    assert not moved[8, :].any()
    assert not moved[:, 8].any()
    assert moved.sum() > 9


def test_303_inputs_to_8_elements():
    model = HybridModel(Architecture())
    assert model.attention[0].lin_l.in_features == 303
    assert model.output.out_features == 8
    assert len(model.attention) == 2
    assert len(model.convolutions) == 3


def test_an_even_kernel_is_refused():
    with pytest.raises(InputError, match="even"):
        small(kernel=4)


def test_inputs_are_scaled(rng):
    scaling = Scaling(
        np.array([1.0, -2.0], np.float32), np.array([2.0, 0.5], np.float32), (5.0, 10.0), (100.0, 20.0),
        np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros((5, 1), np.float32),
    )  # fmt: skip
    x = scaling.inputs(
        np.array([[3.0, -2.0], [1.0, 1e9]], np.float32),
        np.array([1, 2]),
        np.array([5.0, 15.0]),
        np.array([80.0, 100.0]),
    )
    np.testing.assert_allclose(x, [[1, 0, 1, 0, -1], [0, 8, -1, 1, 0]])
    back = Scaling.from_tensors(scaling.tensors())
    assert (back.lat, back.lon) == (scaling.lat, scaling.lon)
