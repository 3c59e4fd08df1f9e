"""Scores of single cubes from the network's output (paper section 3.4). Higher = more abnormal."""

from __future__ import annotations

import torch
from torch import Tensor

from amsrc.losses import inconsistency
from amsrc.model import Output


def errors(output: Output, target_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """S_f and S_p of each cube, both (B,) float32.

    S_f = 1 - cosine(appearance feature, motion feature), NaN without a motion stream; S_p = squared error of
    the predicted frame, summed over channels and pixels. Source: paper section 3.4.
    """
    s_p = (output.prediction.float() - target_BCHW.float()).square().flatten(1).sum(1)
    if output.motion is None:
        return torch.full_like(s_p, torch.nan), s_p
    return inconsistency(output.appearance.float(), output.motion.float()), s_p
