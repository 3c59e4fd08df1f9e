"""AMSRC and its ablations as a learner: the network, loss and scores of package `amsrc`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from amsrc import losses
from amsrc.config import AmsrcConfig
from amsrc.model import AMSRC, inputs
from amsrc.score import errors
from bench.methods.interface import Task
from bench.methods.reader import Batch, Reader


class AmsrcLearner:
    """One network that predicts the last frame of a cube from those before it and from the flow."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings: AmsrcConfig = task.settings
        network = AMSRC(self.settings.model, task.cube)
        network.to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = nn.ModuleDict({"network": network})

    def begin(self, phase: str) -> dict[str, Optimizer]:
        return {"network": Adam(self.networks.parameters(), lr=self.task.train.learning_rate, fused=True)}

    def losses(self, networks: Mapping[str, nn.Module], batch: Batch, turn: str) -> dict[str, Tensor]:
        appearance, motion, target = self._inputs(batch)
        with self.task.cast:
            output = networks["network"](appearance, motion)
        found = losses.terms(output, target, self.networks["network"], self.settings.loss)
        return {**found, "loss": losses.total(found, self.settings.loss)}

    def fit(self, train: Reader) -> None:
        """Everything is learned by gradient."""

    def scores(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        appearance, motion, target = self._inputs(batch)
        consistency, prediction = errors(networks["network"](appearance, motion), target)
        both = {"consistency": consistency, "prediction": prediction}
        return {part: both[part] for part in self.settings.parts}

    def shown(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        appearance, motion, target = self._inputs(batch)
        network = networks["network"]
        assert isinstance(network, AMSRC)
        output = network(appearance, motion)
        found = {"target": target, "output": output.prediction}
        if output.motion is not None:
            fused = network.fuse(output.appearance, output.motion)
            found |= {"appearance": output.appearance, "motion": output.motion, "after fusion": fused}
        return found

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Appearance, motion and target (`amsrc.model.inputs`), the first two channels last."""
        appearance, motion, target = inputs(batch.frames, batch.flows, self.settings.model)
        last = torch.channels_last
        return appearance.contiguous(memory_format=last), motion.contiguous(memory_format=last), target
