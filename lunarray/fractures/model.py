"""Networks that find fractures: brightness in, one logit for each pixel out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from lunarray.errors import ModelError, needs, require_choice, require_number
from lunarray.fractures.normalise import Normalisation

with needs("torch", "building a network of fractures"):
    import torch
    from torch import nn
    from torch.nn import functional as F

Backbone = Literal["resnet50", "resnet101"]
Architecture = Literal["light", "deeplabv3_resnet50", "deeplabv3_resnet101"]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)

#: Sides of images that the networks take are multiples of this.
STRIDE = 8


class DeepLab(nn.Module):
    """DeepLabV3 with one output, its weights named as torchvision names them.

    Parameters
    ----------
    backbone : Module
        Gives ``{"out": features}`` at an eighth of the resolution.
    classifier : Module
        Features to one logit.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Find logits.

        `x` (batch, 3, h, w): normalised brightness (:func:`lunarray.fractures.normalise.normalise`). Returns (batch, 1,
        h, w).
        """
        coarse = self.classifier(self.backbone(x)["out"])
        return F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)


def deeplabv3(backbone: Backbone = "resnet50") -> DeepLab:
    """Build the network of the paper, DeepLabV3 on a ResNet, with one output.

    Parameters
    ----------
    backbone : {"resnet50", "resnet101"}
        The paper's final model has resnet50.

    Returns
    -------
    DeepLab
        With random weights; those of torchvision's network with ``num_classes=1`` fit as they are.
        39.6 and 58.6 million parameters.

    Raises
    ------
    InputError
        With another backbone.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, section 3.2 and figure 3.
    .. [2] Chen et al. (2017), Rethinking atrous convolution, arXiv:1706.05587.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> network = la.fractures.deeplabv3("resnet50")
    >>> sum(p.numel() for p in network.parameters()) > 3e7
    True
    """
    with needs("torchvision", "building a network of fractures"):
        from torchvision.models import segmentation

    builders: Mapping[str, Callable[..., Any]] = {
        "resnet50": segmentation.deeplabv3_resnet50,
        "resnet101": segmentation.deeplabv3_resnet101,
    }
    require_choice("backbone", backbone, builders)
    made = builders[backbone](weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    return DeepLab(made.backbone, made.classifier)


class Block(nn.Module):
    """Two 3 × 3 convolutions with a way round them (ResNet's basic block)."""

    def __init__(self, inner: int, outer: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = _convolution(inner, outer, stride=stride, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(outer, outer, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride=stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


def _convolution(
    inner: int, outer: int, size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            inner,
            outer,
            size,
            stride=stride,
            padding=dilation * (size // 2),
            dilation=dilation,
            bias=False,
        ),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )


class Light(nn.Module):
    """A small network for images of thin dark lines, with DeepLab's means: dilation and a pyramid of dilations.

    An encoder to an eighth of the resolution, where dilated blocks look about, three parallel dilations, and a decoder
    that takes up the finer features at a quarter and a half of the resolution, for fractures are a few pixels wide. It
    has no branch that pools over the whole image: what it finds at a place depends on the surroundings of the place
    alone, not on the tile. 0.75 million parameters (3 MB) and 22 000 multiplications a pixel, a thirtieth of
    DeepLabV3-ResNet50's.

    Parameters
    ----------
    width : int
        Channels at half the resolution; 2 and 4 times as many at a quarter and an eighth.
    channels : int
        Channels of the input.
    """

    def __init__(self, width: int = 24, channels: int = 1) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.width, self.channels = width, channels
        self.stem = _convolution(channels, a, 3, stride=2)
        self.fine = Block(a, a)
        self.middle = nn.Sequential(Block(a, b, stride=2), Block(b, b))
        self.deep = nn.Sequential(Block(b, c, stride=2), Block(c, c), Block(c, c, dilation=2))
        self.pyramid = nn.ModuleList(
            [_convolution(c, b, 1), *(_convolution(c, b, 3, dilation=d) for d in (1, 3, 5))]
        )
        self.project = _convolution(4 * b, c, 1)
        self.from_eighth = _convolution(c, b, 1)
        self.at_quarter = _convolution(2 * b, b)
        self.from_quarter = _convolution(b, a, 1)
        self.at_half = _convolution(2 * a, a)
        # Four logits for each pixel of half the resolution are one for each of the full.
        self.head = nn.Conv2d(a, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Find logits.

        `x` (batch, channels, h, w): normalised brightness; h and w multiples of 8. Returns (batch, 1, h, w).
        """
        half = self.fine(self.stem(x))
        quarter = self.middle(half)
        eighth = self.deep(quarter)
        seen = self.project(torch.cat([branch(eighth) for branch in self.pyramid], dim=1))
        up = _double(self.from_eighth(seen))
        up = self.at_quarter(torch.cat([up, quarter], dim=1))
        up = _double(self.from_quarter(up))
        up = self.at_half(torch.cat([up, half], dim=1))
        return F.pixel_shuffle(self.head(up), 2)


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def light(width: int = 24, channels: int = 1) -> Light:
    """Build the small network of which the shipped default is an instance.

    Parameters
    ----------
    width : int
        Channels at half the resolution.
    channels : int
        Channels of the input.

    Returns
    -------
    Light
        With random weights.

    Raises
    ------
    InputError
        If `width` is less than 1.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> network = la.fractures.light(width=8)
    >>> sum(p.numel() for p in network.parameters()) < 1e6
    True
    """
    require_number("width", width, 1)
    return Light(width, channels)


def build(architecture: str, *, channels: int | None = None, width: int = 24) -> nn.Module:
    """Build a network by the name of its architecture.

    `architecture` {"light", "deeplabv3_resnet50", "deeplabv3_resnet101"}: the name; `channels`: channels of the input:
    1 or 3 for the light network (1 by default); DeepLab takes 3; `width`: of the light network. Returns (batch,
    channels, h, w) to logits (batch, 1, h, w). ModelError if there is no such architecture.
    """
    if architecture == "light":
        return light(width, channels or 1)
    if architecture in ARCHITECTURES:
        if channels not in (None, 3):
            raise ModelError(
                f"{channels} channels for {architecture}", where="channels", remedy="It takes 3"
            )
        return deeplabv3(architecture.removeprefix("deeplabv3_"))  # type: ignore[arg-type]
    raise ModelError(
        f"unknown architecture {architecture!r}",
        where="model",
        remedy=f"Choose from {', '.join(ARCHITECTURES)}",
    )


def architecture_of(network: nn.Module) -> tuple[str, dict[str, int]]:
    """Tell the architecture of a network and the sizes that :func:`build` needs to make it again.

    `network`: one that :func:`build` made. Returns `architecture`; `sizes`: arguments of :func:`build`. ModelError if
    it is none of ours.
    """
    if isinstance(network, Light):
        return "light", {"width": network.width, "channels": network.channels}
    if isinstance(network, DeepLab):
        deep = "layer3.22.conv1.weight" in network.backbone.state_dict()
        return f"deeplabv3_resnet{101 if deep else 50}", {"channels": 3}
    raise ModelError(
        f"a network of {type(network).__name__}",
        where="model",
        remedy="Build it with lunarray.fractures.deeplabv3 or lunarray.fractures.light",
    )


def default_normalisation(architecture: str) -> Normalisation:
    """Give the rule that a network is trained with unless told otherwise: local contrast."""
    return Normalisation("local", channels=1 if architecture == "light" else 3)
