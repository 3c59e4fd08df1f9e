"""Methods that reconstruct a cube through a narrow code and score it by the error: ConvAE on cubes.

Restated from a description of ConvAE (Hasan et al., CVPR 2016) and MemAE (Gong et al., ICCV 2019), which work on whole
frames; `Method.deviations` says what differs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from amsrc.model import pictures
from bench.methods.interface import Task
from bench.methods.reader import Batch, Reader
from bench.methods.settings import ConvAeConfig
from bench.methods.unet import AutoEncoder


class ConvAe:
    """One autoencoder of all frames of a cube, or of all its flows."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings: ConvAeConfig = task.settings
        model, frames = self.settings.model, task.cube.frames
        channels = frames * model.channels if model.input == "frames" else (frames - 1) * 2
        network = AutoEncoder(channels, model.width, model.code)
        network.to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = nn.ModuleDict({"network": network})

    def begin(self, phase: str) -> dict[str, Optimizer]:
        return {"network": Adam(self.networks.parameters(), lr=self.task.train.learning_rate, fused=True)}

    def losses(self, networks: Mapping[str, nn.Module], batch: Batch, turn: str) -> dict[str, Tensor]:
        x_BCHW = self._input(batch)
        with self.task.cast:
            output = networks["network"](x_BCHW)
        reconstruction = (output - x_BCHW).square().mean()
        return {"reconstruction": reconstruction, "loss": reconstruction}

    def fit(self, train: Reader) -> None:
        """Everything is learned by gradient."""

    def scores(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        x_BCHW = self._input(batch)
        return {"reconstruction": (networks["network"](x_BCHW) - x_BCHW).square().flatten(1).sum(1)}

    def shown(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        if self.settings.model.input == "flows":
            return {}
        x_BCHW, channels = self._input(batch), self.settings.model.channels
        output = networks["network"](x_BCHW).clamp(0, 1)
        return {"target": x_BCHW[:, -channels:], "output": output[:, -channels:]}

    def _input(self, batch: Batch) -> Tensor:
        """(B, C, H, W) float32, channels last: frames in [0, 1], or flows scaled; the earliest first."""
        model = self.settings.model
        if model.input == "frames":
            x = pictures(batch.frames, model.channels)
        else:
            x = batch.flows.float() * torch.tensor(model.flow_scale, device=batch.flows.device)[:, None, None]
        return x.flatten(1, 2).contiguous(memory_format=torch.channels_last)
