"""The training loss: intensity, gradient, consistency, weight penalty (paper equations 1 to 4).

Each term has the form the paper prints and the one its released code computes (`LossConfig.form`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amsrc.config import LossConfig
from amsrc.model import Output

Form = Literal["released", "paper"]


def terms(output: Output, target_BCHW: Tensor, model: nn.Module, config: LossConfig) -> dict[str, Tensor]:
    """The terms that apply, unweighted, each a scalar in float32.

    The consistency is left out without a motion stream, the penalty where its weight is 0.
    """
    prediction = output.prediction.float()
    found = {
        "intensity": intensity(prediction, target_BCHW, config.form),
        "gradient": gradient(prediction, target_BCHW, config.form),
    }
    if output.motion is not None:
        found["consistency"] = consistency(output.appearance.float(), output.motion.float())
    if config.weight_penalty:
        found["weight_penalty"] = weight_penalty(model)
    return found


def total(found: dict[str, Tensor], config: LossConfig) -> Tensor:
    """The weighted sum of `terms`. Source: paper equation 4."""
    return torch.stack([getattr(config, name) * value for name, value in found.items()]).sum()


def intensity(prediction_BCHW: Tensor, target_BCHW: Tensor, form: Form = "released") -> Tensor:
    """Squared error: its mean over all values (released), or its sum over a cube, mean over the batch (paper).

    Source: paper equation 1.
    """
    return _reduce((prediction_BCHW - target_BCHW).square(), form)


def gradient(prediction_BCHW: Tensor, target_BCHW: Tensor, form: Form = "released") -> Tensor:
    """Absolute difference of the absolute image gradients, both directions added.

    Released: the right and bottom edges see zeros beyond them; paper: gradients within the image only.
    Source: paper equation 2.
    """
    (px, py), (tx, ty) = _edges(prediction_BCHW, form), _edges(target_BCHW, form)
    return _reduce((px - tx).abs(), form) + _reduce((py - ty).abs(), form)


def consistency(appearance_BCHW: Tensor, motion_BCHW: Tensor) -> Tensor:
    """1 - cosine of the flattened features, mean over the batch. Source: paper equation 3."""
    return inconsistency(appearance_BCHW, motion_BCHW).mean()


def inconsistency(appearance_BCHW: Tensor, motion_BCHW: Tensor) -> Tensor:
    """1 - cosine of the flattened features of each cube, (B,); higher = less alike."""
    appearance, motion = (x.movedim(1, -1).flatten(1) for x in (appearance_BCHW, motion_BCHW))  # in memory order
    return 1 - F.cosine_similarity(appearance, motion, dim=1)


def weight_penalty(model: nn.Module) -> Tensor:
    """Sum of all squared parameters. Source: paper equation 4 (the released code never adds it)."""
    return torch.stack([p.square().sum() for p in model.parameters()]).sum()


def _edges(image_BCHW: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Absolute gradients to the right and downwards."""
    if form == "released":
        image_BCHW = F.pad(image_BCHW, (0, 1, 0, 1))
    right, down = image_BCHW.diff(dim=-1).abs(), image_BCHW.diff(dim=-2).abs()
    return (right[..., :-1, :], down[..., :-1]) if form == "released" else (right, down)


def _reduce(values_BCHW: Tensor, form: Form) -> Tensor:
    return values_BCHW.mean() if form == "released" else values_BCHW.flatten(1).sum(1).mean()
