"""What a stage prints while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def progress(verb: str = "prepared", what: str = "videos") -> Callable[[int, int, str], None]:
    """Shows what is finished as (done, in all, the last one): a bar on a terminal, a line for each tenth elsewhere."""
    if not sys.stdout.isatty():
        return lambda done, whole, name: _tenths(f"{verb} {done} of {whole} {what}, last {name}", done, whole)
    import atexit

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{what} {verb}, last {{task.description}}"))
    bar = Progress(*columns, TimeRemainingColumn())
    atexit.register(bar.stop)  # gives the cursor back after an error too
    task = bar.add_task("")

    def show(done: int, whole: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=whole, description=name)
        if done == whole:
            bar.stop()

    return show


def _tenths(line: str, done: int, whole: int) -> None:
    if done * 10 // whole > (done - 1) * 10 // whole:
        print(line, flush=True)


def epoch_line(line: Mapping[str, Any]) -> None:
    """Print one epoch of the training log."""
    names = list(line)  # a method's own are between these two
    terms = sorted(names[names.index("learning_rate") + 1 : names.index("seconds")], key=lambda name: name != "loss")
    shown = "  ".join(f"{name} {line[name]:.5f}" for name in terms)
    print(f"epoch {line['epoch']:3d}  {shown}  {line['seconds']:.1f} s  {line['cubes_per_s']:.0f} cubes/s", flush=True)
