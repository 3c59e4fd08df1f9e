"""The largest memory of a training, also where one process trains several cells after another."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch


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
