"""Several workers through Ray Train V2: the loop of `bench.train` on each, restarted after a death.

Knows how a cluster is asked for workers; the training itself, its checkpoints included, is the loop's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from amsrc.errors import BenchError, ConfigError, RunError
from bench.cluster import connect, resources
from bench.runs import history, is_trained

if TYPE_CHECKING:
    from bench.train import Job

LOOK_EVERY_S = 2.0


def fit_on_ray(job: Job, workers: int, report: Callable[[Mapping[str, Any]], None]) -> None:
    """Run the loop on several workers of the cluster; a killed worker costs at most one epoch.

    Raises:
        ConfigError: the cluster does not have so many GPUs (or CPUs, where it has no GPU).
        RunError: training failed, or workers died more than three times.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    connect()
    have = resources()
    kind = "GPU" if have["GPU"] else "CPU"
    if have[kind] < workers:
        raise ConfigError(f"--workers {workers} needs as many {kind}s; the cluster has {have[kind]:g}. Ask for fewer.")
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=kind == "GPU"),
        torch_config=TorchConfig(backend="nccl" if kind == "GPU" else "gloo"),
        run_config=RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder / "ray"),
            # mypy sees the signature of Train V1
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(job, report, done), daemon=True)
    follower.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error, job) from error
    finally:
        done.set()
        follower.join()
    if not is_trained(job.folder):
        raise RunError(f"the workers ended without finishing {job.folder}. Run the same command again; it goes on.")


def _loop(config: dict[str, Job]) -> None:
    import ray.train
    from ray.train.torch import get_device

    from bench.train import worker_loop

    worker_loop(config["job"], get_device(), lambda line: ray.train.report(dict(line)))


def _follow(job: Job, report: Callable[[Mapping[str, Any]], None], done: threading.Event) -> None:
    """Report each line that the workers add to the log."""
    seen = len(history(job.folder))
    while True:
        ended = done.wait(LOOK_EVERY_S)
        lines = history(job.folder)
        for line in lines[seen:]:
            report(line)
        seen = max(seen, len(lines))
        if ended:
            return


def _cause(error: Exception, job: Job) -> BenchError:
    """What a worker said, as this program's own error."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        inner = getattr(failure, "cause", failure)
        if isinstance(inner, BenchError):
            return inner
    return RunError(f"training in {job.folder} failed: {error}. Run the same command again to go on from there.")
