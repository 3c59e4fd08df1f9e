"""The state that training resumes from, and the trained weights.

Reads and writes `checkpoint.pt`, `log.jsonl` and `model.safetensors` of a run's folder (`bench.records.run_folder`).
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from amsrc.errors import DataError, RunError, why
from bench.experiment.config import Experiment
from bench.methods.interface import Learner
from bench.records.names import title
from bench.records.run_folder import is_trained, weights
from bench.storage.places import Place, write_file
from bench.training.scoring import build


@dataclass(frozen=True)
class State:
    """Where a training was."""

    log: list[dict[str, Any]] = field(default_factory=list)
    """Its lines so far, one an epoch."""
    phase: str = ""
    optimisers: Mapping[str, Any] = field(default_factory=dict)
    """State of each turn's optimiser in that phase."""

    @property
    def restarts(self) -> int:
        """How often training has been resumed, this time included."""
        return int(self.log[-1]["restarts"]) + 1 if self.log else 0


def resume(folder: Place, networks: nn.Module, device: torch.device) -> State:
    """Load the last checkpoint into the networks, if there is one.

    Raises:
        RunError: the checkpoint is damaged.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return State()
    try:
        state = torch.load(io.BytesIO(path.read_bytes()), map_location=device, weights_only=True)
        networks.load_state_dict(state["networks"])
        found = State(list(state["log"]), str(state["phase"]), dict(state["optimisers"]))
        _ = found.restarts  # a log without it is damaged
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path} is damaged ({why(error)}). Delete it to train from the first epoch again.") from None
    return found


def begin(learner: Learner, phase: str, before: State) -> dict[str, Optimizer]:
    """The optimisers of a phase by turn, as they were in the checkpoint where that is of this phase."""
    turns = learner.begin(phase)
    for name, optimiser in turns.items():
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
        if before.phase == phase:
            optimiser.load_state_dict(before.optimisers[name])
    return turns


def save(
    folder: Place, networks: nn.Module, phase: str, turns: Mapping[str, Optimizer], log: list[dict[str, Any]]
) -> None:
    """Write the log and, whole or not at all, the state to resume from."""
    optimisers = {name: optimiser.state_dict() for name, optimiser in turns.items()}
    state = {"networks": networks.state_dict(), "phase": phase, "optimisers": optimisers, "log": log}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # The log first: killed between the two, the epoch is trained again and its line written again.
    write_file(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log).encode())
    write_file(folder / "checkpoint.pt", buffer.getvalue())


def finish(folder: Place, networks: nn.Module) -> None:
    """Write the trained weights and drop the state that was needed to resume."""
    from safetensors.torch import save as to_bytes

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in networks.state_dict().items()}
    write_file(weights(folder), to_bytes(state))
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def load(e: Experiment, folder: Place, device: torch.device) -> Learner:
    """The learner of a trained run, in evaluation mode.

    Raises:
        RunError: it is not trained.
        DataError: the weights' file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if not is_trained(folder):
        raise RunError(
            f"{title(e)} is not trained ({folder} has no weights). "
            "Run `amsrc-bench train` with the same options; it resumes where it stopped."
        )
    learner = build(e, device)
    try:
        learner.networks.load_state_dict(from_bytes(weights(folder).read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{weights(folder)} is damaged ({why(error)}). Delete it and train again.") from None
    learner.networks.eval()
    return learner
