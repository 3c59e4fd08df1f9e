"""A method and cubes -> the parts of each cube's score; used after every epoch, by the evaluation and for videos.

Also as one module (`Program`), which is exported.

Builds learners and chooses the arithmetic for the hardware; uses neither labels nor Ray.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amsrc.store import Cubes
from bench.experiment.config import Experiment
from bench.methods.interface import Learner, Scores, Task
from bench.methods.reader import Batch, Made, Reader
from bench.records.run_folder import HeldOut
from bench.training import held_out


def device_of() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def arithmetic(precision: str, device: torch.device) -> tuple[str, AbstractContextManager[object]]:
    """Name of the precision used and the autocast context for it; `auto` is bf16 on hardware that multiplies it."""
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    return precision, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def build(e: Experiment, device: torch.device) -> Learner:
    """The learner of an experiment, its networks as they start under its seed.

    Raises:
        ConfigError: its method is not known, or learns nothing.
    """
    method = e.learned_method
    assert method.build is not None
    _, cast = arithmetic(e.train.precision, device)
    torch.manual_seed(e.seed)
    return method.build(Task(settings=e.settings, cube=e.cube, train=e.train, seed=e.seed, device=device, cast=cast))


class Scorer:
    """Scores cubes with the networks of a learner as they are when this is made; higher = more abnormal.

    Whatever mode the networks are in, copies are evaluated, and they stay in that mode.
    """

    def __init__(self, e: Experiment, learner: Learner, device: torch.device) -> None:
        self.experiment, self.learner, self.device = e, learner, device
        self.networks = {name: folded(network) for name, network in learner.networks.items()}

    def __call__(self, reader: Reader) -> Scores:
        """The parts of the score of all cubes of a reader, (n,) float32 each, in its order."""
        found: dict[str, list[Tensor]] = {part: [] for part in self.experiment.parts}
        _, cast = arithmetic(self.experiment.train.precision, self.device)
        with torch.inference_mode(), cast:
            for batch in reader.batches():
                for part, values in self.learner.scores(self.networks, batch).items():
                    found[part].append(values.float())
        return {part: _joined(values) for part, values in found.items()}

    def made(self, frames: held_out.Frames, flows: held_out.Flows) -> Scores:
        """The same of cubes in memory.

        Args:
            frames: uint8 (n, T, C, H, W).
            flows: float16 (n, T-1, 2, H, W), native pixels per frame.
        """
        return self(Reader(Made(frames, flows), self.device))

    def held_out(self, cubes: Cubes) -> HeldOut | None:
        """Scores of held-out normal cubes and of the pseudo-anomalies made from them (`bench.training.held_out`).

        At most six times PSEUDO_CUBES are scored, always the same ones.

        Args:
            cubes: the training split.

        Returns:
            None where no videos are held out, or have fewer than two cubes to score.
        """
        rows = held_out.normal(cubes, self.experiment.train.held_out)
        if len(rows) < 2:
            return None
        normal = cubes.frames(rows), cubes.flows(rows)
        kinds = {kind: self.made(*made) for kind, made in held_out.anomalies(*normal).items()}
        return HeldOut(self.made(*normal), kinds)


class Program(nn.Module):
    """A learner as one module, to be exported: from stored cubes to the parts of their scores.

    Evaluates copies of the networks, as a `Scorer` does; computes in the networks' own precision.
    """

    def __init__(self, e: Experiment, learner: Learner) -> None:
        super().__init__()
        self.parts = e.parts
        self._learner = learner
        self.networks = nn.ModuleDict({name: folded(network) for name, network in learner.networks.items()})
        self.eval()

    def forward(self, frames: Tensor, flows: Tensor) -> tuple[Tensor, ...]:
        """Each of `parts`, (n,) float32, higher = more abnormal.

        Args:
            frames, flows: of n cubes, as for `Scorer.made`.
        """
        scores = self._learner.scores(dict(self.networks.items()), Batch(frames, flows))
        return tuple(scores[part].float() for part in self.parts)


def folded(network: nn.Module) -> nn.Module:
    """A copy for evaluation, each BatchNorm's scale and shift multiplied into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for i, (conv, norm) in enumerate(pairwise(layers)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def _joined(values: list[Tensor]) -> npt.NDArray[np.float32]:
    return torch.cat(values).cpu().numpy() if values else np.empty(0, np.float32)
