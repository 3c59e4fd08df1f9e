"""Ends a training of several workers after a worker's own error, deaths without progress, or missing nodes.

Runs in Ray Train's controller, which by itself starts all anew after any error and waits for nodes for ever.
"""

from __future__ import annotations

import time
from typing import Any

from ray.train import UserCallback

# Not public; Ray Train takes it "to allow custom workarounds", and nothing else is told what the controller waits for.
from ray.train.v2._internal.execution.callback import ControllerCallback

from amsrc.errors import BenchError, RunError
from bench.cluster.connect import Patience
from bench.records.run_folder import history
from bench.storage.places import Place

DEATHS = 3
WAITING = ("InitializingState", "SchedulingState", "ReschedulingState", "RestartingState")
"""States of the controller in which no worker is at work."""


class Deaths(UserCallback):
    """Nodes that are lent may be taken away as often as they are, as long as an epoch gets done in between."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.epochs = self.deaths = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Let Ray Train start all anew, or raise, which ends the run.

        Raises:
            BenchError: a worker's own, which would be the same a second time.
            RunError: too many deaths.
        """
        errors = [own(error) for error in worker_exceptions.values()]
        for error in errors:
            if isinstance(error, BenchError):
                raise error
        epochs = len(history(self.folder))
        self.deaths = 1 if epochs > self.epochs else self.deaths + 1
        self.epochs = epochs
        if self.deaths > DEATHS:
            reason = str(errors[0]).strip().splitlines()[-1]
            raise RunError(
                f"workers died {self.deaths} times in a row without finishing an epoch; the last one: {reason}. "
                "The last checkpoint is kept; the same command resumes from there."
            )


class Waiting(ControllerCallback):
    """Bounds the time without workers."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called at every turn of the controller's loop, which does not rest while it waits."""
        running = type(current_state).__name__ not in WAITING
        self.patience.look(running, time.monotonic())
        if not running:
            time.sleep(0.1)


def own(error: Exception) -> Exception:
    """A worker's error without Ray Train's wrapping."""
    inside = (getattr(error, name, None) for name in ("_base_exc", "cause", "controller_failure"))
    found = next(filter(None, inside), None)
    return own(found) if isinstance(found, Exception) else error
