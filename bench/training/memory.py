"""A process's memory: the peak of each training, also if one process trains several, and what malloc keeps."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = (2**30, 2**25)
"""Pieces of memory up to this size are kept when they are freed; the second where glibc refuses the first."""


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees.

    Else every large tensor of a CPU's training step is given back and comes anew, page by page: up to a tenth of the
    step. Only glibc is told so; others decide themselves. Threads that run already gain less than the main one.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if any(mallopt(M_MMAP_THRESHOLD, size) for size in KEPT_BYTES):
            mallopt(M_TRIM_THRESHOLD, -1)  # never


def watch_memory(device: torch.device) -> None:
    """Start counting anew, without the memory of earlier runs; on a GPU also make it this process's current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
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
