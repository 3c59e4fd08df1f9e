"""Videos -> cube store: one Ray task a video, finished videos skipped, the store sealed at the end.

Reads a data set found by `bench.datasets`; writes `<home>/stores/<dataset>-<cube key>/` (`amsrc.store`).
Running it again goes on where it stopped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from amsrc import boxes, flow
from amsrc.config import CubeConfig
from amsrc.cubes import BoxesOf, FlowOf, cut
from amsrc.errors import ConfigError, DataError, RunError
from amsrc.files import digest, write_file, write_json
from amsrc.store import SPLITS, CubeStore, Shard, Split, finished_shard, seal, write_shard
from bench import datasets
from bench.config import Experiment, cube_key, derive, dump, flatten, load
from bench.datasets import Dataset, Video
from bench.runs import writable

Progress = Callable[[int, int, str], None]  # (videos done, videos in all, the one just finished)


@dataclass(frozen=True)
class Sources:
    """Where the input lies; not part of an experiment's value, its content is (by digest)."""

    root: Path
    boxes: str | None = None
    """Detector file, or a boxes file with `{split}` in its name."""
    flow: Path | None = None
    """Folder of flows."""

    def boxes_file(self, split: Split) -> Path | None:
        return Path(self.boxes.replace("{split}", split)) if self.boxes else None

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files that boxes come from, by their name."""
        files = {path for split in SPLITS if (path := self.boxes_file(split))}
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise ConfigError(f"--boxes: no such file: {', '.join(sorted(missing))}")
        return {path.name: digest(path) for path in sorted(files)}


def with_providers(
    experiment: Experiment, sources: Sources, boxes_text: str | None, flow_text: str | None
) -> tuple[Experiment, Sources]:
    """Apply `--boxes motion|onnx:FILE|torchvision|file:PATTERN` and `--flow dis|farneback|raft|file:DIR`."""
    if boxes_text:
        kind, _, path = boxes_text.partition(":")
        experiment = derive(experiment, cube={"boxes": replace(experiment.cube.boxes, provider=kind)})  # type: ignore[arg-type]
        sources = replace(sources, boxes=str(Path(path).expanduser().absolute()) if path else None)
    if flow_text:
        kind, _, path = flow_text.partition(":")
        experiment = derive(experiment, cube={"flow": replace(experiment.cube.flow, provider=kind)})  # type: ignore[arg-type]
        sources = replace(sources, flow=Path(path).expanduser().absolute() if path else None)
    return load(dump(experiment)), sources


def prepare(
    experiment: Experiment, sources: Sources, home: Path, *, partial: bool = False, progress: Progress | None = None
) -> CubeStore:
    """Cut every cube of a data set and seal the store; videos that are finished are not cut again.

    Raises:
        DataError: the data set is not whole (and `partial` not given), or a frame or box is bad.
        ConfigError: this store was begun from other boxes or videos.
    """
    dataset = datasets.find(experiment.dataset, sources.root, partial)
    experiment = replace(experiment, partial=dataset.partial)
    store = store_path(home, experiment)
    about = describe(dataset, experiment, sources)
    _begin(store, about)
    todo: list[tuple[Split, Video]] = [
        (split, video)
        for split in SPLITS
        for video in dataset.split(split)
        if finished_shard(store, split, video.name) is None
    ]
    whole = sum(len(dataset.split(split)) for split in SPLITS)
    for done, name in enumerate(_cut_all(store, dataset, experiment.cube, sources, todo), whole - len(todo) + 1):
        if progress:
            progress(done, whole, name)
    shards = {split: [_finished(store, split, video.name) for video in dataset.split(split)] for split in SPLITS}
    _write_labels(store, dataset)
    if not (store / "manifest.json").is_file() or todo:
        seal(store, shards, about)
    return CubeStore(store)


def store_path(home: Path, experiment: Experiment) -> Path:
    return home / "stores" / f"{experiment.dataset}-{cube_key(experiment)}"


def describe(dataset: Dataset, experiment: Experiment, sources: Sources) -> dict[str, Any]:
    """What the manifest says of a store's origin: no paths, only contents."""
    return {
        "dataset": dataset.name,
        "partial": dataset.partial,
        "cube_key": cube_key(experiment),
        "cube": dump(experiment)["cube"],
        "boxes_sha256": sources.digests(),
        "videos": {split: {video.name: video.frames for video in dataset.split(split)} for split in SPLITS},
    }


def _begin(store: Path, about: dict[str, Any]) -> None:
    """Claim the store's folder for this input, or make sure that it was begun from the same."""
    path = store / "about.json"
    if path.is_file():
        before = json.loads(path.read_text())
        differs = [name for name in about if about[name] != before.get(name)]
        if differs:
            raise ConfigError(
                f"{store} was begun from another input ({', '.join(differs)} differ). "
                "Delete that folder to prepare it anew, or choose another --home."
            )
        return
    writable(store)
    write_json(path, about)


def prepare_video(
    store: Path, split: Split, video: Video, cube: CubeConfig, boxes_of: BoxesOf, flow_of: FlowOf
) -> Shard:
    """Cut one video's cubes into its shard. Runs anywhere; knows no Ray."""
    import cv2

    cv2.setNumThreads(1)  # the parallelism is over videos
    frames = video.read()
    first = next(frames, None)
    if first is None:
        raise DataError(f"{video.path} has no frames.")
    found = cut(video.name, _chain(first, frames), boxes_of, flow_of, cube)
    shape = (cube.frames, first.shape[2], cube.size, cube.size)
    return write_shard(store, split, video.name, found, video.frames, shape)


def _chain(first: np.ndarray[Any, Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def providers(dataset: Dataset, split: Split, cube: CubeConfig, sources: Sources) -> tuple[BoxesOf, FlowOf]:
    """The two functions that look at a frame: its boxes and its flow."""
    positions = dataset.first_frames(split)
    boxes_of = boxes.provider(
        cube.boxes, source=sources.boxes_file(split), first_frames=positions, frames=dataset.full_frames(split)
    )
    return boxes_of, flow.provider(cube.flow, source=sources.flow, split=split)


def draw(experiment: Experiment, sources: Sources, path: Path, *, partial: bool = False) -> None:
    """A picture of some frames of the first test video, their boxes, flow and cubes; nothing is stored."""
    from bench.preview import preview

    dataset = datasets.find(experiment.dataset, sources.root, partial)
    boxes_of, flow_of = providers(dataset, "test", experiment.cube, sources)
    video = dataset.test[0]
    preview(video.name, video.read(), boxes_of, flow_of, experiment.cube, path)


def _cut_all(
    store: Path, dataset: Dataset, cube: CubeConfig, sources: Sources, todo: list[tuple[Split, Video]]
) -> Iterator[str]:
    """Cut videos as Ray tasks, longest first; yields each one's name when it is done."""
    if not todo:
        return
    for split in {split for split, _ in todo}:
        providers(dataset, split, cube, sources)  # fail here, before anything starts
    import ray

    from bench.cluster import connect

    connect()

    @ray.remote(num_cpus=1, max_retries=2)
    def task(split: Split, video: Video) -> str:
        prepare_video(store, split, video, cube, *providers(dataset, split, cube, sources))
        return f"{split}/{video.name}"

    waiting = [task.remote(split, video) for split, video in sorted(todo, key=lambda item: -item[1].frames)]
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        try:
            yield ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            for left in waiting:
                ray.cancel(left, force=True)
            cause = error.cause
            raise cause if isinstance(cause, (ConfigError, DataError, RunError)) else error from None


def _finished(store: Path, split: Split, video: str) -> Shard:
    shard = finished_shard(store, split, video)
    if shard is None:
        raise RunError(f"{store}/{split}/{video} was not written whole. Run `amsrc-bench prepare` again.")
    return shard


def _write_labels(store: Path, dataset: Dataset) -> None:
    for label_set in dataset.label_sets():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **dataset.labels(label_set))
        write_file(store / f"labels-{label_set}.npz", buffer.getvalue())


def find_store(home: Path, experiment: Experiment, fixed: set[str]) -> tuple[CubeStore, Experiment]:
    """The sealed store an experiment is to use, and the experiment with that store's cube settings.

    Settings of the cubes that the user named (`fixed`, dotted) must agree; the others are taken from the
    store, so that `train` need not repeat what `prepare` was told.

    Raises:
        DataError: no store of this data set, or several that fit.
    """
    wanted = {name: value for name, value in flatten(experiment).items() if name in fixed and name.startswith("cube.")}
    fitting = []
    for manifest in sorted((home / "stores").glob(f"{experiment.dataset}-*/manifest.json")):
        about = json.loads(manifest.read_text())
        theirs = load({**dump(experiment), "partial": about["partial"], "cube": about["cube"]})
        if all(flatten(theirs)[name] == value for name, value in wanted.items()):
            fitting.append((manifest.parent, theirs))
    if not fitting:
        named = "".join(f" with {name}={value}" for name, value in wanted.items())
        raise DataError(
            f"no finished cube store of {experiment.dataset}{named} under {home / 'stores'}. "
            f"Run `amsrc-bench prepare --dataset {experiment.dataset} --root DIR --home {home}` first."
        )
    if len(fitting) > 1:
        kinds = "; ".join(
            f"--boxes {e.cube.boxes.provider} --flow {e.cube.flow.provider} ({p.name})" for p, e in fitting
        )
        raise DataError(f"{len(fitting)} cube stores of {experiment.dataset} fit: {kinds}. Name the one to use.")
    path, theirs = fitting[0]
    return CubeStore(path), theirs


def summary(store: CubeStore) -> dict[str, int]:
    """Counts of a store: videos, frames and cubes of each split."""
    splits = {split: getattr(store, split).shards for split in SPLITS}
    return {
        f"{split}_{what}": value
        for split, shards in splits.items()
        for what, value in (
            ("videos", len(shards)),
            ("frames", sum(s.video_frames for s in shards)),
            ("cubes", sum(s.cubes for s in shards)),
        )
    }


if __name__ == "__main__":
    from bench.cli import run_stage

    run_stage("prepare")
