"""Density estimation on untrained features: the score is how rare a cube is among the training cubes.

`velocity-gmm` is the velocity part of AI-VAD (Reiss and Hoshen, 2022), its other two parts left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from amsrc.errors import DataError
from bench.methods.interface import Task
from bench.methods.reader import Batch, Reader
from bench.methods.settings import VelocityGmmConfig

LEAST_VARIANCE = 1e-6
"""Added to the variances, as scikit-learn does by default: a bin that is always empty would have none."""


class Mixture(nn.Module):
    """A mixture of Gaussians with full covariances, K of them in D dimensions, as buffers in float64."""

    weight: Tensor
    mean: Tensor
    precision: Tensor

    def __init__(self, components: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(components, dimensions, dtype=torch.float64))
        # Upper triangular P with P P^T = the inverse covariance
        self.register_buffer("precision", torch.zeros(components, dimensions, dimensions, dtype=torch.float64))

    def fit(self, features_ND: np.ndarray, seed: int) -> None:
        """Maximum likelihood by expectation and maximisation, started from k-means.

        Raises:
            DataError: there are fewer features than components.
        """
        from sklearn.mixture import GaussianMixture

        components = len(self.weight)
        if len(features_ND) < components:
            raise DataError(
                f"{len(features_ND)} training cubes cannot be fitted by {components} components. "
                f"Set model.components to {len(features_ND)} or fewer, or prepare more videos."
            )
        seed %= 2**32  # as many as scikit-learn takes
        found = GaussianMixture(components, reg_covar=LEAST_VARIANCE, random_state=seed).fit(features_ND)
        self.weight.copy_(torch.from_numpy(found.weights_))
        self.mean.copy_(torch.from_numpy(found.means_))
        self.precision.copy_(torch.from_numpy(found.precisions_cholesky_))

    def forward(self, features_ND: Tensor) -> Tensor:
        """-log density, (N,) float64; higher = rarer."""
        whitened = torch.einsum("nkd,kde->nke", features_ND.double()[:, None] - self.mean, self.precision)
        log_scale = self.precision.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * self.mean.shape[1] * math.log(2 * math.pi)
        log_each = self.weight.log() + log_scale - constant - 0.5 * whitened.square().sum(2)
        return -torch.logsumexp(log_each, 1)


class VelocityGmm:
    """A mixture of Gaussians over a cube's velocity: its flow into the last frame, by direction."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings: VelocityGmmConfig = task.settings
        mixture = Mixture(self.settings.model.components, self.settings.model.directions)
        self.networks = nn.ModuleDict({"mixture": mixture.to(task.device)})

    def begin(self, phase: str) -> dict[str, Optimizer]:
        return {}

    def losses(self, networks: Mapping[str, nn.Module], batch: Batch, turn: str) -> dict[str, Tensor]:
        raise NotImplementedError("velocity-gmm has no phases")

    def fit(self, train: Reader) -> None:
        features = [velocity(batch.flows, self.settings.model.directions).cpu() for batch in train.batches()]
        mixture = self.networks["mixture"]
        assert isinstance(mixture, Mixture)
        mixture.fit(torch.cat(features).numpy(), self.task.seed)

    def scores(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        rarity = networks["mixture"](velocity(batch.flows, self.settings.model.directions))
        return {"velocity": rarity.float()}

    def shown(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        return {}


def velocity(flows_BTCHW: Tensor, directions: int) -> Tensor:
    """Mean |u| + |v| of the flow into the last frame, by direction of the pixels' motion; native pixels per frame.

    Args:
        flows_BTCHW: (B, T-1, 2, H, W).
        directions: D sectors of equal angle, the first from the positive x axis on; 1 is one mean over all pixels.

    Returns:
        (B, D) float64; 0 where no pixel moves in that direction.
    """
    u, v = flows_BTCHW[:, -1].double().flatten(2).unbind(1)  # (B, H W) each
    length = u.abs() + v.abs()
    turn = torch.atan2(v, u) / (2 * math.pi) % 1.0
    sector = (turn * directions).long().clamp(max=directions - 1)
    sums = torch.zeros(u.shape[0], directions, dtype=length.dtype, device=u.device).scatter_add_(1, sector, length)
    pixels = torch.zeros_like(sums).scatter_add_(1, sector, torch.ones_like(length))
    return sums / pixels.clamp(min=1)
