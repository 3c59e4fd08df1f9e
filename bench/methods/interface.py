"""The interface of a method: its entry in the catalogue, and the learner that is built from it.

Everything after the scores of rows is the same for all methods. A method is one of two kinds:

- a **function** of a split's rows (`Method.score`): nothing is learned, as in the trivial baselines;
- a **learner** (`Method.build`): networks and closed forms, given cubes in batches.

Scores are named parts, one value a row, higher = more abnormal. This module imports neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from amsrc.config import CubeConfig, TrainConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from amsrc.store import Cubes, Shard
    from bench.methods.reader import Batch, Reader

Scores: TypeAlias = "Mapping[str, npt.NDArray[np.float32]]"
"""Part -> (rows,) float32, higher = more abnormal."""


class Rows(Protocol):
    """Rows with a score each, in order of videos and frames: `amsrc.store.Cubes`, or `bench.methods.trivial.Frames`."""

    @property
    def shards(self) -> list[Shard]: ...
    @property
    def video(self) -> npt.NDArray[np.int32]: ...
    @property
    def frame(self) -> npt.NDArray[np.int32]: ...
    @property
    def boxes(self) -> npt.NDArray[np.float32]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a learner is built for."""

    settings: Any
    """An instance of the method's `config`."""
    cube: CubeConfig
    train: TrainConfig
    seed: int
    """Of the run. The harness has seeded torch with it; what draws by other means uses it."""
    device: torch.device
    cast: AbstractContextManager[object]
    """Autocast to the arithmetic of `train.precision`; put the networks' forward pass in it while training."""


class Learner(Protocol):
    """A method that is trained or fitted on the cubes of a run.

    The harness owns the loop: batches, learning rates, gradients, averaging over workers, checkpoints and scoring.
    """

    networks: nn.ModuleDict
    """All that is learned, by name: parameters, and buffers for what is not learned by gradient. Saved with every
    checkpoint, written as safetensors. On `Task.device` from the start.

    Over several workers gradients are averaged and BatchNorm's statistics are those of the whole batch. Other buffers
    that `losses` writes are each worker's own, and those of the first are saved: sum them over the workers there.
    A network without a parameter that requires a gradient is in evaluation mode in that phase."""

    def begin(self, phase: str) -> dict[str, Optimizer]:
        """The optimisers of a phase, by turn: in every step each turn has its own loss and update, in this order.

        Most methods have one turn; a generator and a discriminator are two. The learning rate of each parameter group
        is the one at the start; the harness multiplies it by the schedule. Called again when a training resumes, after
        the networks were loaded: it may choose what requires a gradient, and must not change a value.
        """

    def losses(self, networks: Mapping[str, nn.Module], batch: Batch, turn: str) -> dict[str, Tensor]:
        """The terms of a turn's loss, unweighted scalars, and under `loss` their weighted sum.

        Args:
            networks: to be called instead of `self.networks`: with several workers they average their gradients.
        """

    def fit(self, train: Reader) -> None:
        """Learn without gradients from the training cubes; results go into buffers.

        Called after the phases, and before each epoch's scoring: what it finds must depend on the networks alone. In
        evaluation mode, without gradients and without autocast.
        """

    def scores(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """Each part of the score of each cube, (B,), higher = more abnormal.

        Made of torch operations alone, so that it can be exported; sizes by `shape`: `len` of a tensor would be a
        constant of the exported program. Called under `torch.inference_mode` and autocast.

        Args:
            networks: copies of `self.networks` in evaluation mode, BatchNorm folded into convolutions.
        """

    def shown(self, networks: Mapping[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
        """What figures show of each cube: the picture that the method had to give and the one that it gave.

        Returns:
            `target` and `output`, (B, C, H, W) in [0, 1], and feature maps by other names; or nothing.
        """


@dataclass(frozen=True)
class NoSettings:
    """A method without anything to set."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue."""

    name: str
    parts: Callable[[Any], tuple[str, ...]]
    """Names of its scores under given settings; what is fused."""
    unit: Literal["cube", "frame"] = "cube"
    """What a score belongs to; a learner's to cubes, `frame` is for functions alone."""
    config: type = NoSettings
    """Frozen dataclass of its settings: groups of fields (`model`, `loss`, ...) that are options and enter the
    fingerprint. A group must not be named like one of `Experiment`."""
    phases: tuple[str, ...] = ()
    """Trained one after the other, `train.epochs` epochs each. Empty: nothing is trained by epochs."""
    fits: bool = False
    """Whether `Learner.fit` does something: a closed form, alone or after training by epochs."""
    space: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges that a search takes unless told, by dotted name; fields of the method's settings."""
    deviations: tuple[str, ...] = ()
    """What differs from the publication, a sentence each; printed under the tables that have a row of the method."""
    build: Callable[[Task], Learner] | None = None
    score: Callable[[Cubes, int], Scores] | None = None
    """Of a split's cubes and a seed, instead of a learner."""
    check: Callable[[Any], list[str]] = field(default=lambda settings: [])
    """What is wrong with settings that are well typed, a sentence each."""
    effective: Callable[[Any], Any] = field(default=lambda settings: settings)
    """The settings with what has no effect under them at a fixed value: equal ones train the same."""
    parameters: Callable[[Any, CubeConfig], int] | None = None
    """How many parameters are learned by gradient, for the estimate of a sweep; None: not counted beforehand."""

    @property
    def learns(self) -> bool:
        """Whether there is anything to train or fit; else it is a trivial baseline."""
        return bool(self.phases) or self.fits

    def epochs(self, train: TrainConfig) -> int:
        """Of all phases together."""
        return train.epochs * len(self.phases)

    def phase(self, epoch: int, train: TrainConfig) -> tuple[str, int]:
        """The phase of an epoch (from 1) and the epoch's number within it (from 1)."""
        number, within = divmod(epoch - 1, train.epochs)
        return self.phases[number], within + 1
