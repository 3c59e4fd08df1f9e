"""A model and cubes -> S_f and S_p of each cube; used after every epoch and by the evaluation.

Knows where a batch comes from (`Feed`, or arrays made in memory) and which arithmetic the hardware gets; knows
neither labels nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amsrc.config import ModelConfig, TrainConfig
from amsrc.model import inputs
from amsrc.score import errors
from amsrc.store import Cubes
from bench import pseudo
from bench.selection import HeldOut

Rows = npt.NDArray[np.int64]
Scores = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Batch = tuple[Tensor, Tensor, Tensor]
SCORING_BATCH = 512
RESIDENT_PART = 0.4  # of the free GPU memory that cubes may take, so that the network fits beside them


def device_of() -> torch.device:
    """The first GPU that this process may use, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def arithmetic(precision: str, device: torch.device) -> tuple[str, AbstractContextManager[object]]:
    """Name of the precision used and the autocast context for it; `auto` is bf16 on a GPU that has it."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return precision, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Feed:
    """Batches of cubes as the network's inputs, on its device.

    Cubes that fit into a GPU beside the network are put there once, as they are stored; else each batch is
    gathered from the memory map.
    """

    def __init__(self, cubes: Cubes, model: ModelConfig, device: torch.device) -> None:
        self.cubes, self.model, self.device = cubes, model, device
        self._resident: tuple[Tensor, Tensor] | None = None
        if device.type == "cuda" and cubes.nbytes < RESIDENT_PART * torch.cuda.mem_get_info(device)[0]:
            everything = np.arange(len(cubes))
            self._resident = self._upload(everything)

    def _upload(self, rows: Rows) -> tuple[Tensor, Tensor]:
        frames = torch.from_numpy(self.cubes.frames(rows)).to(self.device)
        return frames, torch.from_numpy(self.cubes.flows(rows)).to(self.device)

    def batch(self, rows: Rows) -> Batch:
        """Appearance, motion and target of these cubes (`amsrc.model.inputs`), channels last."""
        if self._resident is None:
            frames, flows = self._upload(rows)
        else:
            index = torch.from_numpy(rows).to(self.device)
            frames, flows = (held[index] for held in self._resident)
        return _as_batch(frames, flows, self.model)


def score(model: nn.Module, feed: Feed, rows: Rows, train: TrainConfig) -> Scores:
    """S_f and S_p of the cubes with these numbers, in this order; both (n,) float32, higher = more abnormal.

    The model is put into evaluation mode and left in it.
    """
    return _score(model, (feed.batch(some) for some in chunks(rows, SCORING_BATCH)), train, feed.device)


def score_arrays(
    network: nn.Module, frames: pseudo.Frames, flows: pseudo.Flows, config: ModelConfig, train: TrainConfig
) -> Scores:
    """S_f and S_p of cubes in memory, as `score`, on the network's device.

    Args:
        frames: uint8 (n, T, C, H, W).
        flows: float16 (n, T-1, 2, H, W), native pixels per frame.
    """
    device = next(network.parameters()).device
    return _score(network, _batches(frames, flows, config, device), train, device)


def score_held_out(
    network: nn.Module, cubes: Cubes, model: ModelConfig, train: TrainConfig, device: torch.device
) -> HeldOut | None:
    """S_f and S_p of held-out normal cubes and of the pseudo-anomalies made from them (`bench.pseudo`).

    At most six times PSEUDO_CUBES are scored, always the same ones.

    Args:
        cubes: the training split.

    Returns:
        None where no videos are held out, or have fewer than two cubes to score.
    """
    rows = pseudo.normal(cubes, train.held_out)
    if len(rows) < 2:
        return None
    normal = cubes.frames(rows), cubes.flows(rows)
    kinds = {"normal": normal, **pseudo.anomalies(*normal)}
    scores = {kind: _score(network, _batches(*made, model, device), train, device) for kind, made in kinds.items()}
    normal_f, normal_p = scores.pop("normal")
    pseudo_f = {kind: s_f for kind, (s_f, _) in scores.items()}
    pseudo_p = {kind: s_p for kind, (_, s_p) in scores.items()}
    return HeldOut(normal_f, normal_p, pseudo_f, pseudo_p)


def _batches(frames: pseudo.Frames, flows: pseudo.Flows, model: ModelConfig, device: torch.device) -> Iterator[Batch]:
    for some in chunks(np.arange(len(frames)), SCORING_BATCH):
        yield _as_batch(torch.from_numpy(frames[some]).to(device), torch.from_numpy(flows[some]).to(device), model)


def _as_batch(frames: Tensor, flows: Tensor, model: ModelConfig) -> Batch:
    """Stored cubes as the network takes them (`amsrc.model.inputs`), channels last."""
    appearance, motion, target = inputs(frames, flows, model)
    last = torch.channels_last
    return appearance.contiguous(memory_format=last), motion.contiguous(memory_format=last), target


def _score(model: nn.Module, batches: Iterable[Batch], train: TrainConfig, device: torch.device) -> Scores:
    model.eval()
    parts: list[tuple[Tensor, Tensor]] = []
    _, cast = arithmetic(train.precision, device)
    with torch.inference_mode(), cast:
        for appearance, motion, target in batches:
            parts.append(errors(model(appearance, motion), target))
    if not parts:
        return np.empty(0, np.float32), np.empty(0, np.float32)
    s_f, s_p = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return s_f, s_p


def chunks(rows: Rows, size: int) -> Iterator[Rows]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
