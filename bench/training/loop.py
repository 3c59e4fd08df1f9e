"""Training on one worker in this process or on several through Ray Train; the same visible loop.

Reads a sealed cube store; writes log, checkpoint, epochs' scores and at last the weights into the run's folder
(`bench.records.run_folder`). The same command goes on from the last checkpoint, whatever was killed.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from amsrc import losses
from amsrc.config import LossConfig, TrainConfig
from amsrc.errors import ConfigError, DataError, RunError, why
from amsrc.fuse import statistics
from amsrc.model import AMSRC
from amsrc.store import CubeStore
from bench.cluster.machine import Machine, Workers
from bench.experiment.config import Experiment
from bench.records import provenance
from bench.records.names import title
from bench.records.run_folder import (
    Epoch,
    HeldOut,
    claim,
    forget_scores,
    is_trained,
    read_held_out,
    weights,
    write_epoch,
    write_held_out,
)
from bench.storage.node_cache import open_store
from bench.storage.places import Place, locked, write_file
from bench.training import held_out as pseudo
from bench.training.memory import keep_freed_memory, peak_memory_gib, watch_memory
from bench.training.ray_train import fit_on_ray
from bench.training.scoring import Batch, Feed, Rows, Scores, arithmetic, chunks, device_of, score, score_held_out
from bench.training.sync_batchnorm import over_all_workers

Report = Callable[[Mapping[str, Any]], None]
LOOK_EVERY = 50
"""Steps between looks at the losses on a GPU, which has to be waited for each time."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; travels to every worker."""

    experiment: Experiment
    store: Place
    folder: Place
    code: str
    """The code that trains, as `provenance.code` names it where training was started."""
    identity: Mapping[str, str | None] = field(default_factory=provenance.identity)
    """What every worker must have too; so workers that join later are looked at."""


def fit(
    experiment: Experiment,
    store: CubeStore,
    home: Place,
    *,
    workers: Workers | int = 1,
    machine: Machine | None = None,
    report: Report | None = None,
) -> Place:
    """Train, or go on training, or find it done. Returns the run's folder.

    Args:
        workers: data-parallel processes; one trains in this process, several through Ray Train.
        machine: what the cluster can become, where that is more than what is up.
        report: called with each epoch's line of the log.

    Raises:
        RunError: a loss became non-finite, a worker died too often, or the folder cannot be written.
        ConfigError: the folder belongs to cubes of other content, or workers and batch do not fit the cubes.
    """
    if isinstance(workers, int):
        workers = Workers(workers, workers)
    _check(experiment, store, workers.most)
    folder = claim(experiment, store, home)
    job = Job(experiment, store.origin, folder, provenance.code())
    if is_trained(folder):
        return folder
    with locked(folder):
        if not is_trained(folder):
            if workers.most == 1:
                worker_loop(job, device_of(), report or (lambda line: None))
            else:
                fit_on_ray(job, workers, report or (lambda line: None), machine)
    return folder


def worker_loop(job: Job, device: torch.device, report: Report) -> None:
    """One worker's whole training; with several, each runs this on its own part of every batch."""
    if is_trained(job.folder):  # a worker died after the end, and Ray Train started all anew
        return
    e = job.experiment
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    keep_freed_memory()
    watch_memory(device)
    precision, cast = arithmetic(e.train.precision, device)
    hardware = provenance.hardware()
    torch.manual_seed(e.seed)
    network = AMSRC(e.model, e.cube).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = _parallel(network, device) if world > 1 else network
    optimiser = optimiser_of(network, e.train)
    log, restarts = resume(job.folder, network, optimiser, device)
    _same_everywhere(len(log), world)
    if rank == 0 and not log:
        forget_scores(job.folder)
    store = open_store(job.store)
    train, test = Feed(store.train, e.model, device), Feed(store.test, e.model, device)
    kept = pseudo.kept(store.train, e.train.held_out)

    for epoch in range(len(log) + 1, e.train.epochs + 1):
        started, seen = time.perf_counter(), 0
        for group in optimiser.param_groups:
            group["lr"] = e.train.learning_rate * e.train.decay ** ((epoch - 1) // e.train.decay_epochs)
        sums: dict[str, Tensor] = {}
        model.train()
        for step, (rows, part) in enumerate(batches(len(kept), e.train.batch, e.seed, epoch, rank, world), 1):
            found, loss = losses_of(model, network, train.batch(kept[rows]), e.loss, cast)
            for name, value in {**found, "loss": loss}.items():
                sums[name] = sums.get(name, 0) + value.detach() * len(rows)
            seen += len(rows)
            if step % LOOK_EVERY == 0 or device.type == "cpu":
                _check_finite(sums, epoch, e)
            optimiser.zero_grad(set_to_none=True)
            (part * world * loss).backward()  # type: ignore[no-untyped-call]  # workers' gradients are averaged
            optimiser.step()
        _check_finite(sums, epoch, e)
        means, seen = _over_all_cubes(sums, seen)
        line = {"epoch": epoch, "learning_rate": optimiser.param_groups[0]["lr"], **means}
        seconds = time.perf_counter() - started
        if e.train.score_every and epoch % e.train.score_every == 0 and epoch < e.train.epochs:
            _score_epoch(job, epoch, network, train, test, rank, world)
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
            save(job.folder, network, optimiser, log)
        report(line)
    if rank == 0:
        finish(job.folder, network)


def optimiser_of(network: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """What takes the steps."""
    return torch.optim.Adam(network.parameters(), lr=train.learning_rate, fused=True)


def losses_of(
    model: nn.Module, network: nn.Module, batch: Batch, config: LossConfig, cast: AbstractContextManager[object]
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of the loss on a batch, unweighted, and their weighted sum.

    Args:
        model: what is called: the network, or what averages its gradients over workers.
        cast: the arithmetic that it is called in.
    """
    appearance, motion, target = batch
    with cast:
        output = model(appearance, motion)
    found = losses.terms(output, target, network, config)
    return found, losses.total(found, config)


def batches(
    cubes: int, batch: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[Rows, float]]:
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


def resume(
    folder: Place, network: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> tuple[list[dict[str, Any]], int]:
    """Load the last checkpoint, if there is one; returns the log up to it and how often training went on so far.

    Raises:
        RunError: the checkpoint is damaged.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return [], 0
    try:
        state = torch.load(io.BytesIO(path.read_bytes()), map_location=device, weights_only=True)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return state["log"], state["log"][-1]["restarts"] + 1
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path} is damaged ({why(error)}). Delete it to train from the first epoch again.") from None


def save(folder: Place, network: nn.Module, optimiser: torch.optim.Optimizer, log: list[dict[str, Any]]) -> None:
    """Write the log and, whole or not at all, the state to go on from."""
    buffer = io.BytesIO()
    torch.save({"model": network.state_dict(), "optimiser": optimiser.state_dict(), "log": log}, buffer)
    # The log first: killed between the two, the epoch is trained again and its line written again.
    write_file(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log).encode())
    write_file(folder / "checkpoint.pt", buffer.getvalue())


def finish(folder: Place, network: nn.Module) -> None:
    """Write the trained weights and drop the state that was needed to go on."""
    from safetensors.torch import save as to_bytes

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_file(weights(folder), to_bytes(state))
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def load_model(experiment: Experiment, folder: Place, device: torch.device) -> AMSRC:
    """The trained network of a run, in evaluation mode.

    Raises:
        RunError: it is not trained.
        DataError: the weights' file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    if not is_trained(folder):
        raise RunError(
            f"{title(experiment)} is not trained ({folder} has no weights). Run "
            "`amsrc-bench train` with the same options; it goes on where it stopped."
        )
    network = AMSRC(experiment.model, experiment.cube)
    try:
        network.load_state_dict(from_bytes(weights(folder).read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{weights(folder)} is damaged ({why(error)}). Delete it and train again.") from None
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def held_out_scores(experiment: Experiment, store: CubeStore, folder: Place) -> HeldOut | None:
    """The held-out scores of a run's trained weights, found in `held_out.npz` or made and kept there.

    Returns:
        None where there is nothing to train, or nothing to score (`score_held_out`).

    Raises:
        RunError: it is not trained, or the file of the scores is damaged.
        DataError: the weights' file is damaged.
    """
    e = experiment
    found = read_held_out(folder)
    if found is None and e.method == "amsrc" and e.train.held_out:
        device = device_of()
        found = score_held_out(load_model(e, folder, device), store.train, e.model, e.train, device)
        if found is not None:
            write_held_out(folder, found)
    return found


def _score_epoch(job: Job, epoch: int, network: nn.Module, train: Feed, test: Feed, rank: int, world: int) -> None:
    """Keep the scores of all test cubes and of held-out ones, and the statistics of a sample of training cubes."""
    sample = np.random.default_rng(0).permutation(len(train.cubes))[: pseudo.STATISTICS_CUBES]
    s_f, s_p = _score_together(job, network, test, np.arange(len(test.cubes)), rank, world)
    f, p = _score_together(job, network, train, sample, rank, world)
    if rank == 0:  # the held-out cubes are few: the other workers wait
        e = job.experiment
        held_out = score_held_out(network, train.cubes, e.model, e.train, train.device)
        write_epoch(job.folder, Epoch(epoch, s_f, s_p, statistics(f, p), held_out))


def _score_together(job: Job, network: nn.Module, feed: Feed, rows: Rows, rank: int, world: int) -> Scores:
    """Each worker scores every world-th cube; all get all scores."""
    mine = score(network, feed, rows[rank::world], job.experiment.train)
    if world == 1:
        return mine
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, mine)
    s_f, s_p = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    for other, (f, p) in enumerate(parts):
        s_f[other::world], s_p[other::world] = f, p
    return s_f, s_p


def _same_everywhere(epochs: int, world: int) -> None:
    """Refuse to go on from different checkpoints: a shared folder may show one node an older file than another.

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
        f"Lower train.learning_rate (now {e.train.learning_rate}) or the term's weight, or try train.precision=fp32. "
        "The last checkpoint is kept."
    )


def _check(e: Experiment, store: CubeStore, workers: int) -> None:
    """Refuse what would fail or mislead only after training has started."""
    if not 1 <= workers <= e.train.batch // 2:
        raise ConfigError(f"--workers {workers}: from 1 to {e.train.batch // 2}, two cubes of train.batch for each.")
    kept, out = len(pseudo.kept(store.train, e.train.held_out)), e.train.held_out
    if kept < 2 * workers:
        raise DataError(
            f"{store.path} has {kept} training cubes outside the held-out videos, {len(store.train)} in all; "
            f"{2 * workers} are the least to train on. train.held_out is {out}; 0 trains on all."
        )
    stored = store.train.frames(np.arange(1)).shape[2]
    if stored not in (1, e.model.channels):
        raise ConfigError(f"model.channels is {e.model.channels}, the cubes have {stored}. Set it to {stored}.")


def _parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over workers and BatchNorm over the batch of all of them (Deviation 15)."""
    gpus = None
    if device.type == "cuda":
        network, gpus = nn.SyncBatchNorm.convert_sync_batchnorm(network), [device.index]  # type: ignore[no-untyped-call]
    else:
        over_all_workers(network)
    # The buffers are BatchNorm's, which every worker computes alike: to send them in every step would be for nothing.
    return nn.parallel.DistributedDataParallel(
        network, device_ids=gpus, forward_sync_buffers=False, gradient_as_bucket_view=True
    )
