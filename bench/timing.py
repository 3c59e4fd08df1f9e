"""Repeats by the clock, and the rows that `bench.speed` makes of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from bench import provenance
from bench.cost import Row

Settings = dict[str, int | float | str]
CPU = torch.device("cpu")
REPEATS, REPEAT_S = 7, 5.0  # timed repeats, and how long each lasts at least
QUICK_REPEATS, QUICK_REPEAT_S = 3, 0.5


def repeats(quick: bool) -> int:
    """How often something is timed."""
    return QUICK_REPEATS if quick else REPEATS


def timed(call: Callable[[], object], quick: bool, device: torch.device) -> list[float]:
    """Seconds a call, of each repeat; two calls before them warm up and say how many make a repeat."""

    def seconds(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    at_least = QUICK_REPEAT_S if quick else REPEAT_S
    seconds(1)
    calls = max(1, math.ceil(at_least / max(seconds(1), 1e-6)))
    return [seconds(calls) / calls for _ in range(repeats(quick))]


def row(
    stage: str,
    seconds: Sequence[float],
    settings: Settings,
    device: torch.device,
    *,
    handled: tuple[float, str] | None = None,
    threads: int | None = None,
) -> Row:
    """A row of seconds, or of what is handled in a second.

    Args:
        seconds: of each repeat.
        handled: how much of what in those seconds: (128, "cubes").
        threads: of the CPU; as many as torch uses unless given.
    """
    values = [handled[0] / value for value in seconds] if handled else list(seconds)
    on_gpu = device.type == "cuda"
    return Row(
        stage=stage,
        device=torch.cuda.get_device_name(device) if on_gpu else str(provenance.hardware()["cpu"] or "CPU"),
        threads=None if on_gpu else threads or torch.get_num_threads(),
        settings=settings,
        unit=f"{handled[1]}/s" if handled else "s",
        median=median(values),
        spread=max(values) - min(values),
        repeats=len(values),
    )
