"""The training loop, on one worker in this process or on each of several; the same visible loop for every method.

Reads a sealed cube store; writes log, checkpoint, epochs' scores and at last the weights into the run's folder
(`bench.records.run_folder`). The same call resumes from the last checkpoint, whatever was killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from amsrc.errors import RunError
from amsrc.fuse import statistics
from amsrc.store import CubeStore
from bench.experiment.config import Experiment
from bench.methods.interface import Learner, Scores
from bench.methods.reader import Index, Reader, chunks
from bench.records import provenance
from bench.records.names import title
from bench.records.run_folder import Epoch, forget_scores, is_trained, write_epoch, write_fitted
from bench.storage.node_cache import open_store
from bench.storage.places import Place
from bench.training import held_out
from bench.training.checkpoint import begin, finish, resume, save
from bench.training.memory import keep_freed_memory, peak_memory_gib, watch_memory
from bench.training.scoring import Scorer, arithmetic, build
from bench.training.sync_batchnorm import over_all_workers

Report = Callable[[Mapping[str, Any]], None]
LOOK_EVERY = 50
"""Steps between looks at the losses on a GPU, which has to be waited for each time."""


@dataclass(frozen=True)
class Job:
    """The arguments of a worker; sent to every worker."""

    experiment: Experiment
    store: Place
    folder: Place
    code: str
    """The code that trains, as `provenance.code` names it where training was started."""
    identity: Mapping[str, str | None] = field(default_factory=provenance.identity)
    """The code and packages that every worker must have too; checked on workers that join later."""


def worker_loop(job: Job, device: torch.device, report: Report) -> None:
    """One worker's whole training; with several, each runs this on its own part of every batch."""
    if is_trained(job.folder):  # a worker died after the end, and Ray Train started all anew
        return
    e, method = job.experiment, job.experiment.learned_method
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    keep_freed_memory()
    watch_memory(device)
    precision, _ = arithmetic(e.train.precision, device)
    hardware = provenance.hardware()
    learner = build(e, device)
    if world > 1:
        _normalise_together(learner.networks, device)
    state = resume(job.folder, learner.networks, device)
    log, restarts = state.log, state.restarts
    _same_everywhere(len(log), world)
    if rank == 0 and not log:
        forget_scores(job.folder)
    store = open_store(job.store)
    train, test = Reader(store.train, device), Reader(store.test, device)
    kept = held_out.kept(store.train, e.train.held_out)
    turns: dict[str, torch.optim.Optimizer] = {}
    networks: Mapping[str, nn.Module] = {}

    for epoch in range(len(log) + 1, e.epochs + 1):
        started, seen = time.perf_counter(), 0
        phase, within = method.phase(epoch, e.train)
        if within == 1 or not turns:
            turns = begin(learner, phase, state)
            networks = _parallel(learner.networks, device) if world > 1 else dict(learner.networks.items())
        for group in (group for optimiser in turns.values() for group in optimiser.param_groups):
            group["lr"] = group["initial_lr"] * e.train.decay ** ((within - 1) // e.train.decay_epochs)
        sums: dict[str, Tensor] = {}
        torch.manual_seed(_seed_of(e.seed, epoch, rank))  # what a method draws is the same after a restart
        for network in learner.networks.values():
            network.train(_learns(network))  # what an earlier phase trained keeps its BatchNorm's statistics
        for step, (rows, part) in enumerate(batches(len(kept), e.train.batch, e.seed, epoch, rank, world), 1):
            batch = train.batch(kept[rows])
            for turn, optimiser in turns.items():
                found = learner.losses(networks, batch, turn)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0) + value.detach() * len(rows)
                if step % LOOK_EVERY == 0 or device.type == "cpu":
                    _check_finite(sums, epoch, e)
                optimiser.zero_grad(set_to_none=True)
                (part * world * found["loss"]).backward()  # type: ignore[no-untyped-call]  # gradients are averaged
                optimiser.step()
            seen += len(rows)
        _check_finite(sums, epoch, e)
        means, seen = _over_all_cubes(sums, seen)
        first = next(iter(turns.values()))
        line = {"epoch": epoch, "phase": phase, "learning_rate": first.param_groups[0]["lr"], **means}
        seconds = time.perf_counter() - started
        # Rules choose among the epochs of the last phase: before it, parts of the method are untrained.
        scored = e.train.score_every and phase == method.phases[-1] and within % e.train.score_every == 0
        if scored and epoch < e.epochs:
            _fit(e, learner, train.only(kept))
            _score_epoch(job.folder, epoch, Scorer(e, learner, device), store, (train, test), rank, world)
        line |= {
            "seconds": seconds,
            "score_seconds": time.perf_counter() - started - seconds,
            "cubes_per_s": seen / seconds,
            "peak_memory_gib": peak_memory_gib(device),
            "precision": precision,
            "workers": world,
            "threads": torch.get_num_threads(),
            "restarts": restarts,
            "code": job.code,
            "hardware": hardware,
        }
        log.append(line)
        if rank == 0:
            save(job.folder, learner.networks, phase, turns, log)
        report(line)
    if rank == 0:
        _finish(job, learner, train.only(kept), device, hardware)


def batches(
    cubes: int, batch: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[Index, float]]:
    """This worker's share of every batch of an epoch: positions among the cubes that are trained on, and its part.

    The order depends on seed and epoch alone, so a resumed training sees what an uninterrupted one sees, and
    several workers together see the batches that one sees. Only a last batch of fewer cubes than workers, or of a
    single cube, is left out.
    """
    order = np.random.default_rng([seed, epoch]).permutation(cubes)
    for rows in chunks(order, batch):
        if len(rows) >= max(2, world):  # BatchNorm needs two, and every worker one
            mine = rows[rank::world]
            yield mine, len(mine) / len(rows)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _fit(e: Experiment, learner: Learner, train: Reader) -> None:
    """Find what is learned without gradients, under the networks as they are now."""
    if e.learned_method.fits:
        learner.networks.eval()
        with torch.no_grad():
            learner.fit(train)


def _finish(job: Job, learner: Learner, train: Reader, device: torch.device, hardware: Mapping[str, Any]) -> None:
    """Fit what is fitted and write the weights; of a closed form alone also what an epoch's line says of others."""
    started = time.perf_counter()
    _fit(job.experiment, learner, train)
    if not job.experiment.epochs:
        seconds = time.perf_counter() - started
        about = {
            "seconds": seconds,
            "cubes_per_s": len(train) / seconds,
            "peak_memory_gib": peak_memory_gib(device),
            "workers": 1,
            "threads": torch.get_num_threads(),
            "restarts": 0,
            "code": job.code,
            "hardware": hardware,
        }
        write_fitted(job.folder, about)
    finish(job.folder, learner.networks)


def _score_epoch(
    folder: Place, epoch: int, scorer: Scorer, store: CubeStore, readers: tuple[Reader, Reader], rank: int, world: int
) -> None:
    """Keep the scores of all test cubes and of held-out ones, and the statistics of a sample of training cubes."""
    train, test = readers
    sample = np.random.default_rng(0).permutation(len(train))[: held_out.STATISTICS_CUBES]
    tested = _score_together(scorer, test, rank, world)
    sampled = _score_together(scorer, train.only(sample), rank, world)
    if rank == 0:  # the held-out cubes are few: the other workers wait
        write_epoch(folder, Epoch(epoch, tested, statistics(sampled), scorer.held_out(store.train)))


def _score_together(scorer: Scorer, reader: Reader, rank: int, world: int) -> Scores:
    """Each worker scores every world-th cube; all get all scores."""
    mine = scorer(reader.only(np.arange(rank, len(reader), world)))
    if world == 1:
        return mine
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, mine)
    found = {name: np.empty(len(reader), np.float32) for name in mine}
    for other, scores in enumerate(parts):
        for name, values in scores.items():
            found[name][other::world] = values
    return found


def _same_everywhere(epochs: int, world: int) -> None:
    """Refuse to resume from different checkpoints: a shared folder may show one node an older file than another.

    Raises:
        RunError: that is so.
    """
    if world == 1:
        return
    found: list[Any] = [None] * world
    dist.all_gather_object(found, epochs)
    if len(set(found)) > 1:
        raise RunError(f"the workers see checkpoints of different epochs: {found}. Run the same command again.")


def _over_all_cubes(sums: Mapping[str, Tensor], seen: int) -> tuple[dict[str, float], int]:
    """Means over the cubes of all workers, and how many these are."""
    names = sorted(sums)
    values = torch.stack([sums[name] for name in names] + [torch.tensor(float(seen), device=sums["loss"].device)])
    if dist.is_initialized():
        dist.all_reduce(values)
    return {name: float(value / values[-1]) for name, value in zip(names, values[:-1], strict=True)}, int(values[-1])


def _check_finite(sums: Mapping[str, Tensor], epoch: int, e: Experiment) -> None:
    """Wait for the GPU and look at the losses so far: a term that was ever non-finite still is in its sum.

    Raises:
        RunError: there is one.
    """
    if math.isfinite(sums["loss"].item()):
        return
    bad = [name for name, value in sums.items() if name != "loss" and not math.isfinite(value.item())]
    raise RunError(
        f"{title(e)}: {', '.join(bad or ['the weighted sum'])} became non-finite in epoch {epoch}, which is given up. "
        f"Lower train.learning_rate (now {e.train.learning_rate}) or the term's "
        "weight, or try train.precision=fp32. The last checkpoint is kept."
    )


def _normalise_together(networks: nn.ModuleDict, device: torch.device) -> None:
    """BatchNorm over the batch of all workers (Deviation 15); before an optimiser takes the parameters."""
    for name, network in networks.items():
        if device.type == "cuda":
            networks[name] = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        else:
            over_all_workers(network)


def _learns(network: nn.Module) -> bool:
    """Whether it is trained in this phase."""
    return any(parameter.requires_grad for parameter in network.parameters())


def _parallel(networks: nn.ModuleDict, device: torch.device) -> dict[str, nn.Module]:
    """The networks with gradients averaged over workers; one without anything to learn in this phase as it is."""
    gpus = [device.index] if device.type == "cuda" else None
    found: dict[str, nn.Module] = {}
    for name, network in networks.items():
        # The buffers are BatchNorm's, which every worker computes alike: to send them in every step would be for
        # nothing.
        found[name] = (
            nn.parallel.DistributedDataParallel(
                network, device_ids=gpus, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
            if _learns(network)
            else network
        )
    return found
