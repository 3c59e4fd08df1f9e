"""Several workers through Ray Train V2: the loop of `bench.training.loop` on each, restarted after a death.

Only asks the cluster for workers; the training itself, checkpoints included, is in the loop.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from amsrc.errors import AwayError, BenchError, RunError
from bench.cluster.connect import WAIT_S, Patience, connect, nodes, same_code
from bench.cluster.machine import Machine, Packing, Workers, machine_of, packing
from bench.records.run_folder import history, is_trained
from bench.storage.places import local_folder

if TYPE_CHECKING:
    from bench.training.loop import Job

T = TypeVar("T")

LOOK_EVERY_S = 2.0
GROW_EVERY_S = 30.0
"""How often a training with fewer workers than it could have looks for more; growing costs the epoch under way."""
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # an epoch's report waits for the next look
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a process that hangs; Ray itself notices dead ones and nodes
    # For a group to find its places. What fails is tried again with what is there by then: a node that died may be
    # counted on for 20 s more. How long in all, `bench.training.limits` says.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}
PEERS_S = 300
"""That workers wait for each other: longer than the first one's scoring of held-out cubes and its checkpoint."""


def fit_on_ray(
    job: Job, workers: Workers, report: Callable[[Mapping[str, Any]], None], promised: Machine | None = None
) -> None:
    """Run the loop on several workers of the cluster; a killed worker costs at most one epoch.

    Args:
        promised: the machine that the cluster can become, where that is more than what is up.

    Raises:
        ConfigError: the cluster cannot have so many GPUs (or CPUs, where it has no GPU).
        RunError: training failed, workers kept dying, or their nodes did not come.
    """
    from ray.exceptions import RayError
    from ray.train.v2.api.exceptions import TrainingFailedError

    connect()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    trainer = _trainer(job, workers, packing(promised or machine_of(nodes(), None), 1, workers))
    failed: list[Exception] = []

    def train() -> None:
        try:
            trainer.fit()
        except (TrainingFailedError, RayError) as error:
            failed.append(error)

    # In a thread, since Ray Train would make Ctrl-C in the main one an end with exit code 0.
    training = threading.Thread(target=train, daemon=True)
    seen = len(history(job.folder))
    training.start()
    while True:
        training.join(LOOK_EVERY_S)
        ended = not training.is_alive()
        lines = history(job.folder)
        for line in lines[seen:]:
            report(line)
        seen = max(seen, len(lines))
        if ended:
            break
    if failed:
        raise _cause(failed[0], job) from failed[0]
    if not is_trained(job.folder):
        raise RunError(f"the workers ended without finishing {job.folder}. Run the same command again; it resumes.")


def on_one_device(function: Callable[..., T], *arguments: Any, promised: Machine | None = None) -> T:
    """Run a function where a worker would: as a task that has a GPU (or a CPU, where the cluster has no GPU) to itself.

    Raises:
        AwayError: none came free in time, or its node was lost and no other came.
        Exception: the function's own.
    """
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    connect()
    kind = "GPU" if (promised or machine_of(nodes(), None)).gpus else "CPU"
    place = placement_group([{kind: 1}])
    try:
        if not place.wait(WAIT_S):
            raise AwayError(f"no {kind} came free within {WAIT_S / 60:.0f} minutes. The same command resumes.")
        task = ray.remote(
            num_cpus=int(kind == "CPU"),
            num_gpus=int(kind == "GPU"),
            scheduling_strategy=PlacementGroupSchedulingStrategy(place),
        )(function)
        running, patience = task.remote(*arguments), Patience(f"scoring needs a {kind}", WAIT_S)
        while not ray.wait([running], timeout=LOOK_EVERY_S)[0]:  # its node may be lost, and it waits for another
            patience.look(placement_group_table(place)["state"] == "CREATED", time.monotonic())
        return ray.get(running)  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        remove_placement_group(place)


def _trainer(job: Job, workers: Workers, packed: Packing) -> Any:
    # ray.train's own names are these, which mypy does not see
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

    from bench.training.limits import Deaths, Waiting

    on_gpu = packed.gpus > 0
    asked = f"--workers {workers} needs {workers.least} {'GPU' if on_gpu else 'CPU'}s"
    callbacks: list[Any] = [Deaths(job.folder), Waiting(Patience(asked, WAIT_S))]
    run_config: Any = RunConfig(
        name=job.folder.name,
        storage_path=str(local_folder(job.folder) / "ray"),
        # No number of failures is right for every length of training: `bench.training.limits` looks at the progress
        # instead.
        failure_config=FailureConfig(max_failures=-1, controller_failure_limit=-1),
        callbacks=callbacks,
    )
    scaling_config = ScalingConfig(
        num_workers=workers.most if workers.least == workers.most else (workers.least, workers.most),
        use_gpu=on_gpu,
        elastic_resize_monitor_interval_s=GROW_EVERY_S,
    )
    return TorchTrainer(
        _loop,
        train_loop_config={"job": job},
        scaling_config=scaling_config,
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=PEERS_S),
        run_config=run_config,
    )


def _loop(config: dict[str, Job]) -> None:
    import ray.train
    from ray.train.torch import get_device

    from bench.training.loop import worker_loop

    same_code(config["job"].identity)
    worker_loop(config["job"], get_device(), lambda line: ray.train.report(dict(line)))


def _cause(error: Exception, job: Job) -> Exception:
    """A worker's error as this program's own; Ray's own, where one of its processes died."""
    from ray.exceptions import RayActorError

    from bench.training.limits import own

    inner = own(error)
    if isinstance(inner, BenchError | RayActorError):
        return inner
    return RunError(f"training in {job.folder} failed: {inner}. Run the same command again to resume from there.")
