"""A model and cubes -> S_f and S_p of each cube; used after every epoch and by the evaluation.

Knows where a batch comes from (`Feed`, or arrays made in memory) and which arithmetic the hardware gets; knows
neither labels nor Ray.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amsrc.config import ModelConfig, TrainConfig
from amsrc.model import inputs
from amsrc.score import errors
from amsrc.store import Cubes
from bench.records.run_folder import HeldOut
from bench.training import held_out

Rows = npt.NDArray[np.int64]
Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Batch = tuple[Tensor, Tensor, Tensor]
SCORING_BATCH = {"cpu": 64, "cuda": 512}
"""Cubes at a time by device: on a CPU so few that a layer's output stays in its cache, twice as fast as 512."""
RESIDENT_PART = 0.4  # of the free GPU memory that cubes may take, so that the network fits beside them


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


class Feed:
    """Batches of cubes as the network's inputs, on its device.

    Cubes that fit into a GPU beside the network are put there once, as they are stored; else each batch is
    gathered from the memory map while the GPU still computes the one before.
    """

    def __init__(self, cubes: Cubes, model: ModelConfig, device: torch.device) -> None:
        self.cubes, self.model, self.device = cubes, model, device
        self._resident: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda" and cubes.nbytes < RESIDENT_PART * torch.cuda.mem_get_info(device)[0]:
            everything = np.arange(len(cubes))  # not pinned: torch would keep as much of this machine's memory
            frames, flows = torch.from_numpy(cubes.frames(everything)), torch.from_numpy(cubes.flows(everything))
            self._resident = frames.to(device), flows.to(device)

    def batch(self, rows: Rows) -> Batch:
        """Appearance, motion and target of these cubes (`amsrc.model.inputs`), channels last."""
        if self._resident is None:
            frames, flows = _sent(self.cubes.frames(rows), self.device), _sent(self.cubes.flows(rows), self.device)
        else:
            index = _sent(rows, self.device)
            frames, flows = (held[index] for held in self._resident)
        return _as_batch(frames, flows, self.model)


def _sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on a device; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def score(network: nn.Module, feed: Feed, rows: Rows, train: TrainConfig) -> Scores:
    """S_f and S_p of the cubes with these numbers, in this order; both (n,) float32, higher = more abnormal.

    Whatever mode the network is in, it is evaluated, and stays in that mode.
    """
    batches = (feed.batch(some) for some in chunks(rows, SCORING_BATCH[feed.device.type]))
    return _score(folded(network), batches, train, feed.device)


def folded(network: nn.Module) -> nn.Module:
    """A copy for evaluation, each BatchNorm's scale and shift multiplied into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for i, (conv, norm) in enumerate(pairwise(layers)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def score_arrays(
    network: nn.Module, frames: held_out.Frames, flows: held_out.Flows, config: ModelConfig, train: TrainConfig
) -> Scores:
    """S_f and S_p of cubes in memory, as `score`, on the network's device.

    Args:
        network: as `folded` gives it, so that this can be called often.
        frames: uint8 (n, T, C, H, W).
        flows: float16 (n, T-1, 2, H, W), native pixels per frame.
    """
    device = next(network.parameters()).device
    return _score(network, _batches(frames, flows, config, device), train, device)


def score_held_out(
    network: nn.Module, cubes: Cubes, model: ModelConfig, train: TrainConfig, device: torch.device
) -> HeldOut | None:
    """S_f and S_p of held-out normal cubes and of the pseudo-anomalies made from them (`bench.training.held_out`).

    At most six times PSEUDO_CUBES are scored, always the same ones.

    Args:
        cubes: the training split.

    Returns:
        None where no videos are held out, or have fewer than two cubes to score.
    """
    rows = held_out.normal(cubes, train.held_out)
    if len(rows) < 2:
        return None
    normal = cubes.frames(rows), cubes.flows(rows)
    kinds = {"normal": normal, **held_out.anomalies(*normal)}
    network = folded(network)
    scores = {kind: _score(network, _batches(*made, model, device), train, device) for kind, made in kinds.items()}
    normal_f, normal_p = scores.pop("normal")
    pseudo_f = {kind: s_f for kind, (s_f, _) in scores.items()}
    pseudo_p = {kind: s_p for kind, (_, s_p) in scores.items()}
    return HeldOut(normal_f, normal_p, pseudo_f, pseudo_p)


def _batches(
    frames: held_out.Frames, flows: held_out.Flows, model: ModelConfig, device: torch.device
) -> Iterator[Batch]:
    for some in chunks(np.arange(len(frames)), SCORING_BATCH[device.type]):
        yield _as_batch(_sent(frames[some], device), _sent(flows[some], device), model)


def _as_batch(frames: Tensor, flows: Tensor, model: ModelConfig) -> Batch:
    """Stored cubes as the network takes them (`amsrc.model.inputs`), channels last."""
    appearance, motion, target = inputs(frames, flows, model)
    last = torch.channels_last
    return appearance.contiguous(memory_format=last), motion.contiguous(memory_format=last), target


def _score(network: nn.Module, batches: Iterable[Batch], train: TrainConfig, device: torch.device) -> Scores:
    parts: list[tuple[Tensor, Tensor]] = []
    _, cast = arithmetic(train.precision, device)
    with torch.inference_mode(), cast:
        for appearance, motion, target in batches:
            parts.append(errors(network(appearance, motion), target))
    if not parts:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    s_f, s_p = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return s_f, s_p


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
