"""Repeats by the clock, and the rows that `bench.speed.run` makes of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from bench.records import provenance
from bench.records.speeds import Row

Settings = dict[str, int | float | str]
CPU = torch.device("cpu")
REPEATS, REPEAT_S = 7, 5.0  # timed repeats, and how long each lasts at least
QUICK_REPEATS, QUICK_REPEAT_S = 3, 0.3
LONG = 3  # repeats that a first call may last before it alone says that one call makes a repeat


def repeats(quick: bool) -> int:
    """How often something is timed."""
    return QUICK_REPEATS if quick else REPEATS


def timed(call: Callable[[], object], quick: bool, device: torch.device) -> list[float]:
    """Seconds a call, of each repeat; calls before them warm up and say how many make a repeat."""
    (found,) = in_turns([call], quick, device)
    return found


def in_turns(
    calls: Sequence[Callable[[], object]], quick: bool, device: torch.device, at_least_s: float | None = None
) -> list[list[float]]:
    """As `timed`, of several calls interleaved repeat by repeat: a drift of the machine's speed affects all alike.

    Args:
        at_least_s: how long a repeat lasts at least, where it is not to be the usual time.
    """

    def seconds(call: Callable[[], object], times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    at_least = at_least_s if at_least_s is not None else QUICK_REPEAT_S if quick else REPEAT_S

    def times_of(call: Callable[[], object]) -> int:
        first = seconds(call, 1)  # warms up
        return 1 if first > LONG * at_least else max(1, math.ceil(at_least / max(seconds(call, 1), 1e-6)))

    times = [times_of(call) for call in calls]
    turns = [[seconds(call, n) / n for call, n in zip(calls, times, strict=True)] for _ in range(repeats(quick))]
    return [list(found) for found in zip(*turns, strict=True)]


def row(
    stage: str,
    seconds: Sequence[float],
    settings: Settings,
    device: torch.device,
    *,
    handled: tuple[float, str] | None = None,
    threads: int | None = None,
    reference: Sequence[float] | None = None,
    limit: tuple[float, str] | None = None,
    unit: str = "s",
) -> Row:
    """A row of seconds, or of what is handled in a second.

    Args:
        seconds: of each repeat.
        handled: how much of what in those seconds: (128, "cubes").
        threads: of the CPU; as many as torch uses unless given.
        reference: seconds of the reference, for as much.
        limit: in the row's unit, and by what.
        unit: of what is no time at all.
    """

    def told(seconds: Sequence[float]) -> list[float]:
        return [handled[0] / value for value in seconds] if handled else list(seconds)

    values = told(seconds)
    on_gpu = device.type == "cuda"
    return Row(
        stage=stage,
        device=torch.cuda.get_device_name(device) if on_gpu else str(provenance.hardware()["cpu"] or "CPU"),
        threads=None if on_gpu else threads or torch.get_num_threads(),
        settings=settings,
        unit=f"{handled[1]}/s" if handled else unit,
        median=median(values),
        spread=max(values) - min(values),
        repeats=len(values),
        reference=None if reference is None else median(told(reference)),
        limit=None if limit is None else limit[0],
        limited_by="" if limit is None else limit[1],
    )
