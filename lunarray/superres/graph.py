"""Graphs over pixels: each node's nearest in place and in surface features, exactly.

All pairs are ranked by a product of matrices in float32, block by block, with a bound on what its rounding can do;
whatever could belong to a node's nearest by that bound is then computed in float64. What comes out is what sorting all
pairs in float64 would give, at the price of the float32 product.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lunarray.engine.models import Device, resolve_device
from lunarray.errors import InputError
from lunarray.geo import RADIUS, unit_vectors
from lunarray.superres.devices import full_precision

#: Weights of place and of features in the exponent, once both are scaled; the paper asks for beta > alpha.
ALPHA, BETA = 1.0, 2.0
#: Length (m) over which place counts `ALPHA`: the side of a sub-region of 100 pixels of 2 km.
LENGTH = 200_000.0
#: Rows of the matrix of pairs that are in memory at a time, in each thread.
BLOCK = 128
#: Unit roundoff of float32.
_UNIT = float(np.finfo(np.float32).eps) / 2


def neighbours(
    lat: Any,
    lon: Any,
    features: Any,
    k: int = 100,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    length: float = LENGTH,
    square: float | None = None,
    include_self: bool = False,
    block: int = BLOCK,
    threads: int = 1,
    device: Device = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` nodes with the heaviest edges to each node.

    The weight of the edge between nodes i and j is ``exp(−alpha·d/length − beta·‖W_i − W_j‖²/square)`` with the great
    circle distance d. The result is exact: equal to sorting all pairs by weight computed in float64. Exponents equal
    in float32 are ties; among them the lower index comes first.

    Parameters
    ----------
    lat, lon : array_like, shape (node,)
        Degrees, any longitude range: ±180° and the poles are places like others.
    features : array_like, shape (node, feature)
        Surface features W, float32, standardised per feature. A node with a value that is not finite, or without a
        place, has no edges.
    k : int
        Neighbours of each node.
    alpha, beta : float
        Weights of distance and of features in the exponent, both without unit and both counted in typical sizes:
        `length` and `square`. The paper asks for ``beta > alpha``, as the defaults are.
    length : float
        Metres of distance that count `alpha`; by default the side of a sub-region, 200 km.
    square : float, optional
        Squared feature distance that counts `beta`; by default twice the number of features, which is its mean over
        pairs of standardised features.
    include_self : bool
        Whether a node is its own neighbour (of weight 1, and so among the first).
    block : int
        Rows of the matrix of pairs that are held at a time: memory is ``4·block·node`` bytes for each thread.
    threads : int
        Threads for the CPU. A Dask worker has its own, so the default is one.
    device : {"cpu", "cuda", "auto"}
        Where to compute; "auto" takes a GPU where there is one.

    Returns
    -------
    index : ndarray of int32, shape (node, k)
        Neighbours, heaviest first; -1 for a node without edges.
    weight : ndarray of float32, shape (node, k)
        Weights of the edges, in [0, 1]; 0 for a node without edges.

    Raises
    ------
    InputError
        Arrays that do not fit together, a weight that is negative, a scale that is not positive, or fewer than `k`
        other nodes.

    References
    ----------
    Lunar elemental analysis and mapping of Chandrayaan-2 CLASS data (paper 002), section IV.B.3: the edge weight
    function and the top 100 neighbours.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> lat, lon = np.array([0.0, 0.1, 0.2]), np.zeros(3)
    >>> index, weight = la.superres.neighbours(lat, lon, np.ones((3, 2)), k=2)
    >>> index.shape
    (3, 2)
    """
    problem = Search(
        lat, lon, features, k, alpha, beta, length, square, include_self, int(block), int(threads)
    )
    if resolve_device(device) == "cuda":
        return problem.on_torch("cuda")
    return problem.on_cpu()


@functools.cache
def _blas() -> Any:
    """Looking for BLAS among the libraries of a process takes ten milliseconds: once is enough."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class Search:
    """Checked and scaled input of :func:`neighbours`, whose parameters it takes, and the ways to solve it."""

    def __init__(
        self,
        lat: Any,
        lon: Any,
        features: Any,
        k: int,
        alpha: float = ALPHA,
        beta: float = BETA,
        length: float = LENGTH,
        square: float | None = None,
        include_self: bool = False,
        block: int = BLOCK,
        threads: int = 1,
    ) -> None:
        lat, lon = (np.asarray(a, np.float64) for a in (lat, lon))
        w = np.ascontiguousarray(features, np.float32)
        if lat.ndim != 1 or lon.shape != lat.shape or w.ndim != 2 or w.shape[0] != lat.size:
            raise InputError(
                f"lat {lat.shape}, lon {lon.shape} and features {w.shape} do not fit together",
                where="features",
                remedy="Give lat (node,), lon (node,) and features (node, feature)",
            )
        square = 2.0 * max(w.shape[1], 1) if square is None else square
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"{value} is no weight", where=name, remedy="Give 0 or more")
        scales = {"length": length, "square": square, "block": block, "threads": threads}
        for name, value in scales.items():
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{value} is not positive", where=name, remedy="Give more than 0")
        valid = np.isfinite(w).all(axis=1) & (np.abs(lat) <= 90) & np.isfinite(lon)
        nodes = int(valid.sum())
        most = nodes if include_self else nodes - 1
        if k < 1 or (nodes and k > most):
            raise InputError(
                f"{k} neighbours of each of {nodes} nodes with features and a place",
                where="k",
                remedy=f"Give 1 to {max(most, 1)}" if nodes else "Give at least 1",
            )
        self.n, self.k, self.skip_self = w.shape[0], int(k), not include_self
        self.valid, self.nodes = valid, nodes
        self.block, self.threads = block, threads
        #: Places on the unit sphere, of the nodes that have edges; chords do not know of ±180° or poles.
        self.place = unit_vectors(lon[valid], lat[valid])
        self.w = w if nodes == self.n else np.ascontiguousarray(w[valid])
        #: Factors of the angle and of the squared feature distance.
        self.a = 2.0 * RADIUS * alpha / length
        self.b = beta / square

    def scaled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
        """What the product works on: features times √b around their mean, squared norms, places around theirs, the
        error that rounding can make in a row, and whether all places lie within 60° of each other."""
        x = self.w - self.w.mean(axis=0, dtype=np.float64).astype(np.float32)
        x *= np.float32(np.sqrt(self.b))
        norm = np.einsum("ij,ij->i", x, x, dtype=np.float64)
        middle = self.place.mean(axis=0)
        place = (self.place - middle).astype(np.float32)
        reach = float(np.sqrt(np.max(np.sum((self.place - middle) ** 2, axis=1))))
        near = reach <= 0.5
        # Rounding: of a sum of F products (any order), of the norms and of the sum; of the centred features, whose
        # distances stay those of the centred values; of a chord of rounded places, and of the polynomial (4 units).
        f = x.shape[1]
        length = np.sqrt(norm)
        largest = float(length.max())
        centring = 4 * _UNIT * float(np.abs(self.w).max(initial=0)) * np.sqrt(self.b * f)
        error = _UNIT * (2 * (f + 8) * length * largest + 4 * (length + largest) ** 2)
        error += 2 * centring * (length + largest)
        error += self.a * _UNIT * (8 * reach + 16 * (1.0 if near else 2.0))
        return x, norm.astype(np.float32), place, error.astype(np.float32), near

    def on_cpu(self) -> tuple[np.ndarray, np.ndarray]:
        from lunarray.superres.graph_kernels import Exact, Screen, exact_rows, nearest_rows

        index = np.full((self.nodes, self.k), -1, np.int32)
        weight = np.zeros((self.nodes, self.k), np.float32)
        if not self.nodes:
            return self.spread(index, weight)
        x, norm, place, error, near = self.scaled()
        screen = Screen(norm, np.ascontiguousarray(place.T), np.float32(self.a), near, error)
        exact = Exact(self.w, self.place, self.a, self.b)
        transposed = x.T
        starts = range(0, self.nodes, self.block)

        def some(starts: range) -> None:
            products = np.empty((min(self.block, self.nodes), self.nodes), np.float32)
            scaled = np.empty((min(self.block, self.nodes), x.shape[1]), np.float32)
            for start in starts:
                stop = min(start + self.block, self.nodes)
                np.multiply(x[start:stop], np.float32(-2), out=scaled[: stop - start])
                np.matmul(scaled[: stop - start], transposed, out=products[: stop - start])
                rows = nearest_rows(
                    start, products[: stop - start], screen, exact, self.k, self.skip_self,
                    index[start:stop], weight[start:stop],
                )  # fmt: skip
                if rows.size:  # more ties than the candidates have room for
                    exact_rows(start + rows, exact, self.k, self.skip_self, index, weight)

        # One BLAS thread in each of ours: the blocks are the parallel part.
        with _blas().limit(limits=1, user_api="blas"):
            if self.threads == 1:
                some(starts)
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    list(pool.map(some, (starts[t :: self.threads] for t in range(self.threads))))
        return self.spread(index, weight)

    def on_torch(self, device: str) -> tuple[np.ndarray, np.ndarray]:
        """The same with torch's own operations, for accelerators."""
        import torch

        index = np.full((self.nodes, self.k), -1, np.int32)
        weight = np.zeros((self.nodes, self.k), np.float32)
        if not self.nodes:
            return self.spread(index, weight)
        arrays = (*self.scaled()[:4], self.w, self.place)
        x, norm, place, error, w, full = (torch.from_numpy(a).to(device) for a in arrays)
        spare = min(max(32, self.k // 4), self.nodes - self.k)
        late: list[int] = []
        # TF32 would break the bound on the product's rounding.
        with torch.inference_mode(), full_precision(device):
            for start in range(0, self.nodes, self.block):
                stop = min(start + self.block, self.nodes)
                rows = torch.arange(start, stop, device=device)
                score = torch.addmm(norm, x[start:stop], x.T, alpha=-2.0)
                chord = (place[start:stop, None] - place[None]).square_().sum(-1).mul_(0.25)
                score += torch.asin(chord.clamp_(max=1.0).sqrt_()).mul_(self.a)
                if self.skip_self:
                    score[rows - start, rows] = torch.inf
                value, column = torch.topk(score, self.k + spare, largest=False)
                # Whether all that could belong to the nearest has come along.
                enough = value[:, -1] > value[:, self.k - 1] + 2 * error[start:stop]
                if self.k + spare < self.nodes:
                    late += (start + torch.nonzero(~enough).ravel()).tolist()
                best, order = self.refine(torch, rows, column, w, full)
                index[start:stop] = order[:, : self.k].cpu().numpy()
                weight[start:stop] = torch.exp(-best[:, : self.k]).float().cpu().numpy()
            every = torch.arange(self.nodes, device=device)
            for row in late:
                here = torch.tensor([row], device=device)
                others = every[every != row] if self.skip_self else every
                best, order = self.refine(torch, here, others[None], w, full)
                index[row] = order[0, : self.k].cpu().numpy()
                weight[row] = torch.exp(-best[0, : self.k]).float().cpu().numpy()
        return self.spread(index, weight)

    def refine(self, torch: Any, rows: Any, column: Any, w: Any, place: Any) -> tuple[Any, Any]:
        """Scores of candidates in float64, and the candidates in their order."""
        column, _ = torch.sort(column, dim=1)  # by index first, for the ties
        total = torch.empty(column.shape, dtype=torch.float64, device=column.device)
        # A few rows at a time: candidates × features in float64.
        step = max(1, 2**24 // max(1, column.shape[1] * w.shape[1]))
        for start in range(0, rows.numel(), step):
            part, mine = column[start : start + step], rows[start : start + step]
            difference = w[part].double().sub_(w[mine].double()[:, None])
            chord = place[part] - place[mine][:, None]
            angle = torch.asin((chord.square().sum(-1) / 4).clamp_(max=1.0).sqrt())
            total[start : start + step] = difference.square_().sum(-1) * self.b + angle * self.a
        _, order = torch.sort(total.float(), dim=1, stable=True)
        return torch.gather(total, 1, order), torch.gather(column, 1, order)

    def spread(self, index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the nodes that have edges to all."""
        if self.nodes == self.n:
            return index, weight
        numbers = np.flatnonzero(self.valid).astype(np.int32)
        whole = np.full((self.n, self.k), -1, np.int32)
        weights = np.zeros((self.n, self.k), np.float32)
        if self.nodes:
            whole[self.valid] = numbers[index]
            weights[self.valid] = weight
        return whole, weights
