"""Cubes -> batches on a device: of a store, of a part of its rows, or of arrays made in memory.

Axes: B cubes, T time, C channels, H W pixels; values as they are stored (`amsrc.store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Index = npt.NDArray[np.int64]
SCORING_BATCH = {"cpu": 64, "cuda": 512}
"""Cubes at a time by device: on a CPU so few that a layer's output stays in its cache, twice as fast as 512."""
RESIDENT_PART = 0.4  # of the free GPU memory that cubes may take, so that the networks fit next to them


class Batch(NamedTuple):
    """Some cubes as they are stored, on the learner's device."""

    frames: Tensor
    """(B, T, C, H, W) uint8; C is 1 (grey) or 3 (BGR)."""
    flows: Tensor
    """(B, T-1, 2, H, W) float16, x and y in native pixels per frame; flow i leads into frame i + 1."""


class Source(Protocol):
    """What cubes are read from: `amsrc.store.Cubes`, or `Made`."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def frames(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]: ...

    def flows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float16]: ...


@dataclass(frozen=True, eq=False)
class Made:
    """Cubes in memory."""

    all_frames: npt.NDArray[np.uint8]
    all_flows: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.all_frames)

    @property
    def nbytes(self) -> int:
        return self.all_frames.nbytes + self.all_flows.nbytes

    def frames(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        frames: npt.NDArray[np.uint8] = self.all_frames[rows]
        return frames

    def flows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float16]:
        flows: npt.NDArray[np.float16] = self.all_flows[rows]
        return flows


class Reader:
    """Batches of cubes on a device.

    Cubes that fit into a GPU next to the networks are put there once, as they are stored; else each batch is gathered
    from the memory map while the GPU still computes the one before.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self.source, self.device = source, device
        self.rows: Index = np.arange(len(source))
        """Numbers of the cubes that this reader gives, in its order."""
        self._resident: Batch | None = None
        if device.type == "cuda" and source.nbytes < RESIDENT_PART * torch.cuda.mem_get_info(device)[0]:
            # not pinned: torch would keep as much of this machine's memory
            frames, flows = torch.from_numpy(source.frames(self.rows)), torch.from_numpy(source.flows(self.rows))
            self._resident = Batch(frames.to(device), flows.to(device))

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: Index) -> Reader:
        """A reader of these cubes alone, in this order; shares what is on the device.

        Args:
            rows: positions among this reader's cubes.
        """
        part = object.__new__(Reader)
        part.source, part.device, part.rows, part._resident = self.source, self.device, self.rows[rows], self._resident
        return part

    def batch(self, rows: Index) -> Batch:
        """The cubes at these positions."""
        numbers = self.rows[rows]
        if self._resident is not None:
            index = _sent(numbers, self.device)
            return Batch(self._resident.frames[index], self._resident.flows[index])
        return Batch(_sent(self.source.frames(numbers), self.device), _sent(self.source.flows(numbers), self.device))

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """All cubes in order, as many at a time as are scored fastest unless `size` says how many."""
        for rows in chunks(np.arange(len(self)), size or SCORING_BATCH[self.device.type]):
            yield self.batch(rows)


def chunks(rows: Index, size: int) -> Iterator[Index]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on a device; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
