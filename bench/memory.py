"""A process's memory: the largest of a training, where one process trains several cells too, and what is kept of it."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_BYTES = 2**30
"""Above this a piece of memory is the system's at once when it is freed."""


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees.

    Else every large tensor of a CPU's training step is given back and comes anew, page by page: a tenth of the step.
    Only glibc is told so; others decide themselves.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def watch_memory(device: torch.device) -> None:
    """Start counting anew; on a GPU also make it this process's current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib(device: torch.device) -> float | None:
    """Largest memory since `watch_memory`: the GPU's, or the resident set, mapped cubes included. None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), None)
