"""What training lowers: losses of pixels, and of lines, to which a gap of two pixels is a broken line."""

from __future__ import annotations

from lunarray.errors import needs
from lunarray.fractures.settings import TrainSettings

with needs("torch", "training on fractures"):
    import torch
    from torch.nn import functional as F

#: Exponent of the focal loss.
_GAMMA = 2.0
#: Steps of thinning, at half the resolution: lines up to 4 times as many pixels wide become skeletons.
_STEPS = 12


def loss_of(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, settings: TrainSettings
) -> torch.Tensor:
    """Loss over valid pixels.

    `logits` (batch, h, w); `masks` (batch, h, w): 1 for fracture; `valid` (batch, h, w) bool: where there are data and
    a label; `settings`: of which `loss`, `class_weight`, `lines` and `lines_weight` count. Returns mean over valid
    pixels, and what the losses of lines add; 0, with zero gradient, where there are none.
    """
    target = (masks == 1).to(logits.dtype)
    weight = valid.to(logits.dtype)
    pixels = weight.sum().clamp_min(1)
    balance = None
    if settings.class_weight is not None:  # a number: `train` has put it in the place of "balanced"
        balance = torch.tensor(settings.class_weight, dtype=logits.dtype, device=logits.device)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=balance)
    probability = torch.sigmoid(logits)
    if settings.loss == "focal":
        each = each * (target - probability).abs() ** _GAMMA
    value = (each * weight).sum() / pixels
    if settings.loss == "bce_dice":
        # Over the batch: a tile without fractures has no Dice of its own. One pixel each keeps an empty batch defined.
        both = (probability * target * weight).sum()
        either = ((probability + target) * weight).sum()
        value = value + 1 - (2 * both + 1) / (either + 1)
    if settings.lines is not None:
        value = value + settings.lines_weight * line_loss(
            probability * weight, target * weight, precise=settings.lines == "cldice"
        )
    return value


def line_loss(
    probability: torch.Tensor, target: torch.Tensor, *, precise: bool = True
) -> torch.Tensor:
    """How much of the middle of lines is missed, and, where `precise`, of what is found lies off them.

    `probability`, `target` (batch, h, w): 0 where there are no data. With both: 1 less the soft clDice over the batch
    (Shit et al. 2021, CVPR, arXiv:2003.07311); without: 1 less the recall of the skeleton (Kirchhoff et al. 2024, ECCV,
    arXiv:2404.03010), which needs no skeleton of the probability. At half the resolution.
    """
    with torch.no_grad():
        wide = F.max_pool2d(target[:, None], 2, ceil_mode=True)
        thin = skeleton(wide)
    found = F.avg_pool2d(probability[:, None], 2, ceil_mode=True)
    recall = ((thin * found).sum() + 1) / (thin.sum() + 1)
    if not precise:
        return 1 - recall
    own = skeleton(found)
    precision = ((own * wide).sum() + 1) / (own.sum() + 1)
    return 1 - 2 * precision * recall / (precision + recall)


def skeleton(field: torch.Tensor, steps: int = _STEPS) -> torch.Tensor:
    """Soft skeletons of fields (batch, 1, h, w) between 0 and 1: what an opening takes away, thinner and thinner."""
    result = F.relu(field - _open(field))
    for _ in range(steps):
        field = _erode(field)
        result = result + F.relu(F.relu(field - _open(field)) * (1 - result))
    return result


def _erode(field: torch.Tensor) -> torch.Tensor:
    return torch.minimum(
        -F.max_pool2d(-field, (3, 1), 1, (1, 0)), -F.max_pool2d(-field, (1, 3), 1, (0, 1))
    )


def _open(field: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(_erode(field), 3, 1, 1)
