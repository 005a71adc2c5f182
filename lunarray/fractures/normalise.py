"""What a network sees of an image: brightness brought to a common scale by a rule that is the same at every place.

A rule that looked at the tile's own statistics would give a pixel another value in each tile, and tile borders would
show. Here a value depends on the pixel itself ("fixed") or on its neighbourhood ("local").
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from lunarray.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

Unit = Literal["0-1", "8-bit", "16-bit", "I/F"]
Stretch = Literal["none", "image"]
Sun = Literal["any", "left"]
#: Means and standard deviations of ImageNet's red, green and blue, which torchvision's weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: What numbers of an image, or the black and white of a model, may be: shares of the largest number of a type, these
#: numbers themselves, or calibrated reflectance. The first three are one scale.
UNITS: dict[str, float | None] = {"0-1": 1.0, "8-bit": 255.0, "16-bit": 65535.0, "I/F": None}
#: Local statistics are taken of means of squares of this side: tiles must begin at multiples of it.
CELL = 4


@dataclass(frozen=True)
class Normalisation:
    """A rule that turns brightness into what the network sees, the same at every place.

    Parameters
    ----------
    kind : {"local", "fixed"}
        "local": (value - m) / (s + `floor` · abs(m)), cut at ± `clip`, with the mean m and standard deviation s of the
        surroundings. It takes I/F, 8-bit and 16-bit images alike: it does not change with the image's scale nor, but
        for `floor`, with its offset.
        "fixed": (value - `offset`) / `scale`, then minus `mean`, over `std`, channel by channel.
    channels : int
        Channels that the network takes; one brightness is given to all.
    window : int
        "local": reach in pixels, to each side, of the triangular weights of mean and standard deviation; a multiple of
        4.
    floor : float
        "local": contrast, as a share of the mean, that is added to the standard deviation, so that a flat surface is
        not all noise.
    clip : float
        "local": largest magnitude.
    offset, scale : float
        "fixed": the brightness that becomes 0, and by how much it rises to become 1; (0, 255) for 8-bit images.
    mean, std : tuple of float, length channels
        "fixed": subtracted and divided by.
    unit : {"0-1", "8-bit", "16-bit", "I/F"}, optional
        "fixed": what `offset` and `scale` are in; told by them where they are 0 and 1, 255 or 65535.
        ``map_fractures`` and ``train`` bring images that are in another unit to it.
    stretch : {"none", "image"}
        "fixed": "image" where each image is stretched from its own minimum to its maximum to 8 bits first, as
        ``gdal_translate -ot Byte -scale`` does it; images that have 8 bits already are left as they are.
    sun : {"any", "left"}
        "left" where images are turned and mirrored so that the sun stands at the left, or up to 45° above that:
        a ridge is then no fracture with the sun on the other side.

    Raises
    ------
    ModelError
        If the numbers make no rule.

    Examples
    --------
    >>> import lunarray as la
    >>> la.fractures.Normalisation("fixed", scale=255.0).scale
    255.0
    """

    kind: Literal["local", "fixed"] = "local"
    channels: int = 1
    window: int = 32
    floor: float = 0.02
    clip: float = 5.0
    offset: float = 0.0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    unit: Unit | None = None
    stretch: Stretch = "none"
    sun: Sun = "any"

    def __post_init__(self) -> None:
        faults = []
        if self.kind == "fixed" and self.unit is None:
            object.__setattr__(self, "unit", unit_of_range(self.offset, self.offset + self.scale))
        if self.unit not in (None, *UNITS):
            faults.append(f"unit {self.unit!r}: {', '.join(UNITS)}")
        if self.stretch not in get_args(Stretch):
            faults.append(f"stretch {self.stretch!r}: {', '.join(get_args(Stretch))}")
        if self.sun not in get_args(Sun):
            faults.append(f"sun {self.sun!r}: {', '.join(get_args(Sun))}")
        if self.kind not in ("local", "fixed"):
            faults.append(f"kind {self.kind!r} is neither 'local' nor 'fixed'")
        if self.channels not in (1, 3):
            faults.append(f"{self.channels} channels: 1 or 3")
        if self.window < CELL or self.window % CELL:
            faults.append(f"window {self.window}: a multiple of {CELL}")
        if not (self.floor >= 0 and self.clip > 0 and self.scale != 0):
            faults.append("floor must be ≥ 0, clip > 0, scale ≠ 0")
        if self.kind == "fixed" and not len(self.mean) == len(self.std) == self.channels:
            faults.append(f"{len(self.mean)} means and {len(self.std)} deviations for the channels")
        if faults:
            raise ModelError("; ".join(faults), where="normalisation")

    @property
    def reach(self) -> int:
        """How many pixels away, at most, a pixel changes what the network sees here."""
        # The deviation is that of differences from means, which reach as far again.
        return 2 * (self.window + 2 * CELL) if self.kind == "local" else 0

    def to_json(self) -> dict[str, Any]:
        """Give the rule as JSON types."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        # Files of models that take any light stay what they were.
        return values if self.sun != "any" else {k: v for k, v in values.items() if k != "sun"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Normalisation:
        """Make the rule of what :meth:`to_json` gave."""
        try:
            arguments: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**arguments)
        except TypeError as error:
            raise ModelError(
                f"no normalisation: {values}", where="header", remedy=str(error)
            ) from error


def unit_of_range(black: float, white: float) -> Unit | None:
    """The unit that has this black and white, if there is one."""
    known: dict[float | None, Unit] = {1.0: "0-1", 255.0: "8-bit", 65535.0: "16-bit"}
    return known.get(white) if black == 0 else None


def imagenet(offset: float = 0.0, scale: float = 1.0) -> Normalisation:
    """Give the rule of networks that begin with torchvision's weights.

    `offset`, `scale`: brightness of black, and from black to white; 0 and 1 for images as
    :func:`lunarray.fractures.open_nac` gives them, 255 for stored 8-bit numbers. Returns fixed, three channels,
    ImageNet's means and deviations.
    """
    return Normalisation(
        "fixed", 3, offset=offset, scale=scale, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def imfmapper() -> Normalisation:
    """Give the rule of the published IMFMapper: 8 bits from each image's own minimum to its maximum, over 255.

    Returns fixed, three channels, without means and deviations; of images from 0 to 1.
    """
    return Normalisation("fixed", 3, mean=(0.0,) * 3, std=(1.0,) * 3, stretch="image")


#: What networks of others are usually trained on, by name.
RULES: dict[str, Normalisation] = {
    "imfmapper": imfmapper(),
    "imagenet": imagenet(),
    "0-1": Normalisation("fixed", 3, mean=(0.0,) * 3, std=(1.0,) * 3),
    "local": Normalisation("local", 3),
}


def normalise(
    images: torch.Tensor, rule: Normalisation, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Bring brightness to what a network sees.

    `images` (batch, h, w) float32: brightness in any unit; NaN or infinite where there are no data. The sides must be
    multiples of 4 for a local rule; `rule`: what to do; `valid` (batch, h, w) bool: where there are data besides;
    pixels that are not finite are never valid. Returns (batch, channels, h, w) float32: 0, the neutral value, where
    there are no data. A neighbourhood counts its valid pixels only. InputError if a side is no multiple of 4.
    """
    import torch

    good = torch.isfinite(images)
    if valid is not None:
        good &= valid
    x = torch.where(good, images, 0.0).unsqueeze(1)
    weight = good.to(x.dtype).unsqueeze(1)
    if rule.kind == "local":
        result = _local(x, weight, rule)
        return result.expand(-1, rule.channels, -1, -1)
    shape = (1, rule.channels, 1, 1)
    mean = torch.tensor(rule.mean, dtype=x.dtype, device=x.device).reshape(shape)
    std = torch.tensor(rule.std, dtype=x.dtype, device=x.device).reshape(shape)
    return ((x - rule.offset) / rule.scale - mean) / std * weight


def _local(x: torch.Tensor, weight: torch.Tensor, rule: Normalisation) -> torch.Tensor:
    import torch
    import torch.nn.functional as F

    *_, h, w = x.shape
    if h % CELL or w % CELL:
        raise InputError(
            f"a tile of {h} × {w} pixels",
            where="normalise",
            remedy=f"Give sides that are multiples of {CELL}",
        )

    count = F.avg_pool2d(weight, CELL)
    blurred_count = _blur(count, rule.window)
    # Where nothing valid is near, nothing valid is there: the value does not matter.
    inverse = 1 / blurred_count.clamp_min(1e-6)

    def average(field: torch.Tensor) -> torch.Tensor:
        """Mean over the valid pixels about each one."""
        mean = _blur(F.avg_pool2d(field, CELL), rule.window) * inverse
        return F.interpolate(mean, scale_factor=CELL, mode="bilinear", align_corners=False)

    mean = average(x)
    # Of the differences, not of squares minus square: 16-bit brightness would lose all its digits.
    difference = (x - mean) * weight
    deviation = average(difference.square()).clamp_min(0).sqrt()
    scale = deviation + rule.floor * mean.abs()
    result = difference / torch.where(scale > 0, scale, 1.0)
    return result.clamp(-rule.clip, rule.clip)


def _blur(field: torch.Tensor, window: int) -> torch.Tensor:
    """Triangular means over cells, of reach `window` pixels; zeros outside."""
    import torch.nn.functional as F

    # Two passes of a box of 2r + 1 cells reach 2r cells.
    r = max(1, window // (2 * CELL))
    for _ in range(2):
        field = F.avg_pool2d(field, (2 * r + 1, 1), 1, (r, 0), count_include_pad=True)
        field = F.avg_pool2d(field, (1, 2 * r + 1), 1, (0, r), count_include_pad=True)
    return field
