"""Fracture networks by torch: tiles of brightness in, probabilities out, on the CPU or a GPU.

On the CPU, PyTorch gives 1 × 1 convolutions, half of a ResNet's work, to a general matrix product and converts weights
anew in each call. Here batch normalisation is folded into the weights, these are brought to oneDNN's own layout once,
images keep their channels last, and activations and additions are done as part of the convolution. That is what
``torch.compile`` comes to when it may freeze weights, without a compiler and without the minute that it takes. As
oneDNN then runs at the processor's peak, the wide 3 × 3 convolutions of DeepLab are done with fewer multiplications, as
three matrix products.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np

from lunarray.engine.models import Predictor
from lunarray.errors import needs
from lunarray.fractures.model import Block
from lunarray.fractures.normalise import Normalisation, normalise

with needs("torch", "running a network of fractures"):
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils.fusion import fuse_conv_bn_eval

#: Channels from which three matrix products are faster than a convolution.
_WIDE = 128
#: Minimal filtering of four outputs by three taps (Lavin and Gray 2016, arXiv:1509.09308, section 4.3): what inputs,
#: weights and products are multiplied by, along each of the two axes.
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_WEIGHT = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)

#: One batch at a time is on a GPU, whatever number of threads Dask has: memory is bounded by the batch.
_gpu = threading.Lock()


def predictor_of(
    network: nn.Module, normalisation: Normalisation, device: str = "cpu"
) -> Predictor:
    """Make a predictor of a network in memory.

    Parameters
    ----------
    network : Module
        As of :func:`lunarray.fractures.model.build`; left as it is.
    normalisation : Normalisation
        What it was trained with.
    device : {"cpu", "cuda"}
        Where to run.

    Returns
    -------
    callable
        As of :func:`lunarray.fractures.runtime.load_predictor`.
    """
    if device == "cpu":
        fast = packed(network)

        def predict(tiles: np.ndarray) -> np.ndarray:
            return _probability(fast, torch.from_numpy(tiles), normalisation).numpy()

        return predict
    on_device = copy.deepcopy(network).eval().requires_grad_(False)
    on_device = on_device.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def predict_on_gpu(tiles: np.ndarray) -> np.ndarray:
        with _gpu, torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            images = torch.from_numpy(tiles).to(device)
            return _probability(on_device, images, normalisation).cpu().numpy()

    return predict_on_gpu


def _probability(network: nn.Module, tiles: torch.Tensor, rule: Normalisation) -> torch.Tensor:
    with torch.inference_mode():
        seen = normalise(tiles, rule).contiguous(memory_format=torch.channels_last)
        return torch.sigmoid(network(seen)[:, 0])


# --- The network with its weights packed ----------------------------------------------------------


def packed(network: nn.Module) -> nn.Module:
    """Give a network for inference on the CPU that does the same with fewer and faster operations.

    Parameters
    ----------
    network : Module
        As of :func:`lunarray.fractures.model.build`; left as it is.

    Returns
    -------
    Module
        To be called under ``torch.inference_mode``, with channels last. Its outputs differ from the network's by
        rounding.
    """
    return _pack(copy.deepcopy(network).eval().requires_grad_(False))


class PackedConv(nn.Module):
    """A convolution with bias, and what follows it at once: an addition, a ReLU.

    Parameters
    ----------
    conv : Conv2d
        With batch normalisation folded in.
    relu : bool
        Whether a ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv, self.relu = conv, relu
        self.packed: dict[tuple[int, ...], torch.Tensor] = {}
        self.products: tuple[torch.Tensor, ...] = ()
        self.geometry = (
            [int(p) for p in conv.padding],
            [int(s) for s in conv.stride],
            [int(d) for d in conv.dilation],
            conv.groups,
        )

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve, add `other` where given, cut at 0 where a ReLU follows."""
        if not _onednn():
            result = self.conv(x)
            result = result if other is None else result + other
            return F.relu(result) if self.relu else result
        if other is None and self._is_wide(x):
            return self._by_products(x)
        weight = self._weight(tuple(x.shape))
        then = "relu" if self.relu else "none"
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.conv.bias, *self.geometry, then, [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, weight, self.conv.bias, *self.geometry, "add", 1.0, then, [], ""
        )

    def _weight(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Weights in the layout that oneDNN likes best for an input of this shape."""
        weight = self.packed.get(shape)
        if weight is None:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.conv.weight, *self.geometry, list(shape)
            )
            # Tiles of a mosaic have one shape, its last batch may be smaller; more would only fill memory.
            if len(self.packed) >= 2:
                self.packed.clear()
            self.packed[shape] = weight
        return weight

    def _is_wide(self, x: torch.Tensor) -> bool:
        conv, step = self.conv, 4 * self.conv.dilation[0]
        return (
            min(conv.in_channels, conv.out_channels) >= _WIDE
            and conv.kernel_size == (3, 3)
            and conv.stride == (1, 1)
            and conv.padding == conv.dilation
            and conv.groups == 1
            and x.shape[2] % step == x.shape[3] % step == 0
        )

    def _by_products(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution by minimal filtering: 4 × 4 outputs of each 6 × 6 inputs by 36 multiplications, not 144."""
        if not self.products:
            into, weight, out = (torch.from_numpy(m).double() for m in (_INPUT, _WEIGHT, _OUTPUT))
            weights = torch.einsum("ia,jb,ocab->ijco", weight, weight, self.conv.weight.double())
            parts = (torch.kron(into, into), weights.flatten(0, 1), torch.kron(out, out))
            self.products = tuple(part.float().contiguous() for part in parts)
        into, weights, out = self.products
        batch, inner, h, w = x.shape
        d = int(self.conv.dilation[0])
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, d, d, d, d))
        image, row, column, _ = padded.stride()
        # Windows of a phase of the dilation lie four of its pixels apart.
        windows = padded.as_strided(
            (6, 6, batch, h // (4 * d), d, w // (4 * d), d, inner),
            (d * row, d * column, image, 4 * d * row, row, 4 * d * column, column, 1),
        )
        seen = (into @ windows.reshape(36, -1)).view(36, -1, inner)
        found = (out @ torch.bmm(seen, weights).view(36, -1)).view(4, 4, *windows.shape[2:7], -1)
        result = found.permute(2, 3, 0, 4, 5, 1, 6, 7).reshape(batch, h, w, -1)
        if self.conv.bias is not None:
            result += self.conv.bias
        result = result.permute(0, 3, 1, 2)
        return F.relu(result, inplace=True) if self.relu else result


_available: list[bool] = []


def _onednn() -> bool:
    """Whether this torch has the fused convolutions, and they do what is expected of them."""
    if not _available:
        _available.append(_try_onednn())
    return _available[0]


def _try_onednn() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 8, 8, generator=generator).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, 4, 3, 3, generator=generator), torch.randn(6, generator=generator)
    other = torch.randn(1, 6, 8, 8, generator=generator).to(memory_format=torch.channels_last)
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    try:
        with torch.inference_mode():
            reordered = torch.ops.mkldnn._reorder_convolution_weight(
                weight, *geometry, [1, 4, 8, 8]
            )
            plain = torch.ops.mkldnn._convolution_pointwise(
                x, reordered, bias, *geometry, "relu", [], ""
            )
            added = torch.ops.mkldnn._convolution_pointwise.binary(
                x, other, reordered, bias, *geometry, "add", 1.0, "relu", [], ""
            )
            expected = F.conv2d(x, weight, bias, padding=1)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return bool(
        torch.allclose(plain, F.relu(expected), atol=1e-4)
        and torch.allclose(added, F.relu(expected + other), atol=1e-4)
    )


class _Residual(nn.Module):
    """A residual block of packed convolutions; the addition and its ReLU belong to the last one."""

    def __init__(self, layers: list[PackedConv], shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = self.shortcut(x)
        *before, last = list(self.layers)
        for layer in before:
            x = layer(x)
        return last(x, other)


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling, whose pooled branch, constant over the tile, is added as a bias."""

    def __init__(self, aspp: Any) -> None:
        super().__init__()
        *branches, pooling = aspp.convs
        self.branches = nn.ModuleList([_pack(branch) for branch in branches])
        self.pool = _fold(pooling[1], pooling[2])
        project = _fold(aspp.project[0], aspp.project[1])
        split = project.in_channels - self.pool.out_channels
        rest = nn.Conv2d(split, project.out_channels, 1)
        rest.weight = nn.Parameter(project.weight[:, :split].contiguous(), requires_grad=False)
        rest.bias = project.bias
        self.project = PackedConv(rest, relu=False)
        self.constant = nn.Parameter(project.weight[:, split:, 0, 0].clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.relu(self.pool(x.mean(dim=(-2, -1), keepdim=True)))[:, :, 0, 0]
        constant = F.linear(pooled, self.constant)[:, :, None, None]
        seen = torch.cat([branch(x) for branch in self.branches], dim=1)
        return F.relu(self.project(seen) + constant)


def _fold(conv: Any, norm: Any) -> nn.Conv2d:
    return fuse_conv_bn_eval(conv, norm)


def _pack(module: Any) -> Any:
    """Replace what can be done faster, from the inside out."""
    from torchvision.models.resnet import Bottleneck
    from torchvision.models.segmentation.deeplabv3 import ASPP

    if isinstance(module, nn.Conv2d):
        return PackedConv(module, relu=False)
    if isinstance(module, ASPP):
        return _Pyramid(module)
    if isinstance(module, Bottleneck):
        convolutions = [
            PackedConv(_fold(module.conv1, module.bn1), relu=True),
            PackedConv(_fold(module.conv2, module.bn2), relu=True),
            PackedConv(_fold(module.conv3, module.bn3), relu=True),
        ]
        around = nn.Identity() if module.downsample is None else _pack(module.downsample)
        return _Residual(convolutions, around)
    if isinstance(module, Block):
        last = PackedConv(_fold(*module.second), relu=True)
        return _Residual([_pack(module.first)[0], last], _pack(module.shortcut))
    children = list(module.named_children())
    if isinstance(module, nn.Sequential) or "bn1" in module._modules:
        # In a row: a convolution takes up the normalisation and the ReLU that follow it.
        for index, (name, child) in enumerate(children):
            if not isinstance(child, nn.Conv2d):
                continue
            relu, folded = False, child
            for after, following in children[index + 1 :]:
                if isinstance(following, nn.BatchNorm2d):
                    folded = _fold(folded, following)
                elif isinstance(following, nn.ReLU):
                    relu = True
                else:
                    break
                module._modules[after] = nn.Identity()
                if relu:
                    break
            module._modules[name] = PackedConv(folded, relu)
    for name, child in list(module.named_children()):
        if not isinstance(child, (PackedConv, nn.Identity)):
            module._modules[name] = _pack(child)
    return module
