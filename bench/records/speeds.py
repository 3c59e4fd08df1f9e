"""Records of measured speed: the files that `bench.speed.run` writes, and which of their rows applies to a machine.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amsrc.errors import DataError
from bench import ROOT
from bench.experiment.config import strict
from bench.storage.places import Place, files_below

ABOUT = {"measured", "quick", "load_before", "hardware", "versions", "git"}
"""What a file of speeds says of its rows."""
SPEED = ROOT / "results" / "speed"
"""Folder of the speeds measured so far, in a checkout."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured line of a file of speeds; `bench.speed.run` writes them."""

    stage: str
    """`train`, `score` and `null` in cubes/s; `prepare` in frames/s, its parts `prepare: ...` in frames/s or cubes/s;
    `... by workers` and `train packed` likewise, of all workers or runs together; `store read` and `store copy` in
    MB/s; `machine: ...` what the hardware does; `memory: ...` in MB; the others in s."""
    device: str
    """Name of the GPU or CPU."""
    threads: int | None
    """CPU threads; None on a GPU."""
    settings: dict[str, int | float | str]
    unit: str
    median: float
    """Over the repeats."""
    spread: float
    """Largest minus smallest."""
    repeats: int
    reference: float | None = None
    """Median of the plain reference for the same work (`bench.speed.reference`), interleaved with this."""
    limit: float | None = None
    """What this machine allows at most (of s: at least), by what was measured on it in the same run."""
    limited_by: str = ""

    @property
    def times_reference(self) -> float | None:
        """How many times as fast as the reference."""
        return self._faster_than(self.reference)

    @property
    def of_limit(self) -> float | None:
        """The part of what is possible; 1 is the limit."""
        return self._faster_than(self.limit)

    def _faster_than(self, other: float | None) -> float | None:
        if other is None:
            return None
        return self.median / other if self.unit.endswith("/s") else other / self.median


def read_speed(*folders: Place) -> list[Row]:
    """Everything that was measured, of all machines; nothing where a folder is absent.

    Args:
        folders: where several have rows of one device and stage, those of the first count.

    Raises:
        DataError: a file is not one of speeds; names it.
    """
    rows: list[Row] = []
    for folder in folders:
        known = {(row.device, row.stage) for row in rows}
        found = [row for path in files_below(folder, "*.json") for row in read_file(path)[1]]
        rows += [row for row in found if (row.device, row.stage) not in known]
    return rows


def read_file(path: Place) -> tuple[dict[str, Any], list[Row]]:
    """What the file of one machine says of its rows, and the rows. Raises as `read_speed`."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if missing := ABOUT - set(about):
            raise ValueError(f"without {', '.join(sorted(missing))}")
        return about, [strict(Row).validate_python(row) for row in about.pop("rows")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of measured speeds ({error}). Restore or remove it.") from None


def fastest_packed(rows: Sequence[Row], device: str) -> int:
    """How many runs on one such GPU train fastest together, at the largest width measured; 1 where none was."""
    packed = [row for row in rows if row.stage == "train packed" and row.threads is None and _same(device, row.device)]
    widest = max((row.settings["width"] for row in packed), default=0)
    best = max((row for row in packed if row.settings["width"] == widest), key=lambda row: row.median, default=None)
    return 1 if best is None else int(best.settings["cells"])


def nearest(stage: str, rows: Sequence[Row], device: str, *, on_gpu: bool, width: int | None = None) -> Row | None:
    """The row of this stage and kind of device: of this very CPU if there is one, then of the nearest width."""
    fitting = [
        row
        for row in rows
        if row.stage == stage and (row.threads is None) == on_gpu and (not on_gpu or _same(device, row.device))
    ]

    def distance(row: Row) -> tuple[bool, float]:
        theirs = row.settings.get("width")
        return row.device != device, abs(math.log(float(theirs) / width)) if width and theirs else 0.0

    return min(fitting, key=distance, default=None)


def efficiency(stage: str, rows: Sequence[Row], workers: int, device: str, *, on_gpu: bool) -> float | None:
    """Speed of so many workers over that many times the speed of one; None where it was not measured."""
    fitting = [row for row in rows if row.settings.get("workers") in (1, workers)]
    by_number = {
        number: nearest(
            f"{stage} by workers", [r for r in fitting if r.settings["workers"] == number], device, on_gpu=on_gpu
        )
        for number in (1, workers)
    }
    one, many = by_number[1], by_number[workers]
    if one is None or many is None or one.device != many.device:
        return None
    return many.median / (workers * one.median)


def _same(name: str, device: str) -> bool:
    """Whether Ray's name of a GPU (`A100`) or torch's own is that of torch's (`NVIDIA A100-SXM4-40GB`)."""
    wanted, whole = (f" {text.replace('-', ' ')} " for text in (name, device))
    return wanted in whole
