"""Videos -> cube store: one Ray task a video, finished videos skipped, the store sealed at the end.

Reads a data set found by `bench.data.datasets`; writes `<home>/stores/<dataset>-<cube key>/` (`amsrc.store`).
Running it again resumes where it stopped.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from amsrc import boxes, flow
from amsrc.config import CubeConfig
from amsrc.cubes import BoxesOf, FlowOf, cut
from amsrc.errors import BenchError, ConfigError, DataError, RunError, why
from amsrc.files import digest
from amsrc.store import ARRAYS, SPLITS, CubeStore, Sealed, Shard, Split, finished_shard, manifest, write_shard
from bench.data import datasets
from bench.data.datasets import Dataset, Video
from bench.data.regions import Regions, regions_of
from bench.data.stores import Sources, store_path
from bench.experiment.config import Experiment, cube_key, dump
from bench.experiment.specs import is_toy
from bench.storage.places import Place, Remote, files_below, locked, upload, writable, write_file, write_json

LOOK_EVERY_S = 10.0
Progress = Callable[[int, int, str], None]  # (videos done, videos in all, the one just finished)


def prepare(experiment: Experiment, sources: Sources, home: Place, *, progress: Progress | None = None) -> Sealed:
    """Cut every cube of a data set and seal the store; videos that are finished are not cut again.

    Args:
        experiment: with `partial` as the copy of the data set is (`bench.data.datasets.find`).

    Returns:
        A `CubeStore` if it is in a folder, else its manifest (`bench.storage.node_cache.open_store` copies the store
        to this node).

    Raises:
        DataError: the copy is partial and the experiment is not, or the other way round; it has no such label set; or
            a frame or box is bad.
        ConfigError: this store was begun from other boxes or videos.
    """
    dataset = datasets.find(experiment.dataset, sources.root, experiment.partial)
    if dataset.partial != experiment.partial:
        raise DataError(f"{dataset.name} in {dataset.root} is not partial any more. Run the same command again.")
    if experiment.label_set not in dataset.label_sets():
        raise DataError(
            f"{dataset.name} in {dataset.root} has no label set {experiment.label_set!r}; "
            f"it has {', '.join(dataset.label_sets())}. Choose one of these with --labels."
        )
    for split in SPLITS:
        providers(dataset, split, experiment.cube, sources)  # what is missing or wrong shows before anything is written
    labels = {name: _archive(dataset.labels(name)) for name in dataset.label_sets()}
    about = describe(dataset, experiment, sources)
    store = store_path(home, experiment)
    writable(store)
    with locked(store):
        before = _sealed(store)
        _begin(store, about)
        _cut_missing(store, dataset, experiment.cube, sources, progress)
        for name, content in labels.items():
            write_file(store / f"labels-{name}.npz", content)
        shards = {split: [_finished(store, split, video.name) for video in dataset.split(split)] for split in SPLITS}
        digests = {name: digest(content) for name, content in labels.items()}
        regions = _regions(store, dataset, before, digests)
        write_json(store / "manifest.json", manifest(shards, {**about, "labels": digests, **regions}))
    return CubeStore(store) if isinstance(store, Path) else Sealed(store)


def _cut_missing(store: Place, dataset: Dataset, cube: CubeConfig, sources: Sources, progress: Progress | None) -> None:
    """Cut the videos that have no finished shard; while one is missing the store is not sealed."""
    todo: list[tuple[Split, Video]] = [
        (split, video)
        for split in SPLITS
        for video in dataset.split(split)
        if shard_of(store, split, video.name) is None
    ]
    if todo:
        (store / "manifest.json").unlink(missing_ok=True)
    whole = sum(len(dataset.split(split)) for split in SPLITS)
    for done, name in enumerate(_cut_all(store, dataset, cube, sources, todo), whole - len(todo) + 1):
        if progress:
            progress(done, whole, name)


def _archive(by_video: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **by_video)
    return content.getvalue()


def _regions(store: Place, dataset: Dataset, before: Sealed | None, labels: dict[str, str]) -> dict[str, str]:
    """Put the abnormal regions next to the cubes; the manifest's entry, none where the copy lacks a video's masks.

    Masks are many and large: if the labels have not changed, the regions are taken as unchanged too.
    """
    path = store / "regions.npz"
    if before and before.regions_sha256 and before.manifest["labels"] == labels and path.is_file():
        content = path.read_bytes()
        if digest(content) == before.regions_sha256:
            return {"regions": before.regions_sha256}
    found = {video.name: _regions_of(dataset, video) for video in dataset.test}
    if any(regions is None for regions in found.values()):
        return {}
    content = _archive(found)
    write_file(path, content)
    return {"regions": digest(content)}


def _sealed(store: Place) -> Sealed | None:
    """The store as it was before, if it was whole."""
    with suppress(DataError):
        return Sealed(store)
    return None


def _regions_of(dataset: Dataset, video: Video) -> Regions | None:
    masks = dataset.masks(video.name)
    if masks is None:
        return None
    size = next(video.read()).shape[:2]
    if masks.shape[1:] != size:
        raise DataError(
            f"{dataset.name}: the pixel masks of testing video {video.name} are {masks.shape[2]}x{masks.shape[1]}, its "
            f"frames {size[1]}x{size[0]}. Regions and boxes must be of the same picture: extract the masks again."
        )
    return regions_of(masks)


def describe(dataset: Dataset, experiment: Experiment, sources: Sources) -> dict[str, Any]:
    """What the manifest says of a store's origin: no paths, only contents."""
    return {
        "dataset": dataset.name,
        "partial": dataset.partial,
        "cube_key": cube_key(experiment),
        "cube": dump(experiment)["cube"],
        "sources": sources.digests(),
        "videos": {
            split: {video.name: {"frames": video.frames, "content": video.content()} for video in dataset.split(split)}
            for split in SPLITS
        },
    }


def _begin(store: Place, about: dict[str, Any]) -> None:
    """Claim the store's folder for this input, or make sure that it was begun from the same.

    A video whose files changed since, because it was repaired or copied again, is cut again.
    """
    path = store / "about.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text())
            known = {split: dict(before["videos"].get(split, {})) for split in SPLITS}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({why(error)}). Delete {store} to prepare it anew.") from None
        differs = [name for name in about if name != "videos" and about[name] != before.get(name)]
        if differs and files_below(store, "*/*/shard.json"):
            raise ConfigError(
                f"{store} was begun from another input ({', '.join(differs)} differ). "
                "Delete that folder to prepare it anew, or choose another --home."
            )
        for split, videos in about["videos"].items():
            for name, video in videos.items():
                if known[split].get(name, video) != video:
                    (store / split / name / "shard.json").unlink(missing_ok=True)
    write_json(path, about)


def prepare_video(
    store: Place, split: Split, video: Video, cube: CubeConfig, boxes_of: BoxesOf, flow_of: FlowOf
) -> Shard:
    """Cut one video's cubes into its shard, in an object store by way of this node's disk. Does not use Ray."""
    if isinstance(store, Remote):
        with tempfile.TemporaryDirectory() as scratch:
            shard = prepare_video(Path(scratch), split, video, cube, boxes_of, flow_of)
            upload(Path(scratch) / split / video.name, store / split / video.name, last="shard.json")
        return shard
    import cv2

    cv2.setNumThreads(1)  # the parallelism is over videos
    frames = video.read()
    first = next(frames, None)
    if first is None:
        raise DataError(f"{video.path} has no frames.")
    found = cut(video.name, chain([first], frames), boxes_of, flow_of, cube)
    shape = (cube.frames, first.shape[2], cube.size, cube.size)
    return write_shard(store, split, video.name, found, video.frames, shape)


def providers(dataset: Dataset, split: Split, cube: CubeConfig, sources: Sources) -> tuple[BoxesOf, FlowOf]:
    """The functions that give a frame's boxes and its flow."""
    positions = dataset.first_frames(split)
    boxes_of = boxes.provider(
        cube.boxes, source=sources.boxes_file(split), first_frames=positions, frames=dataset.full_frames(split)
    )
    return boxes_of, flow.provider(cube.flow, source=sources.flow, split=split)


def draw(experiment: Experiment, sources: Sources, path: Path) -> None:
    """A picture of some frames of the first test video, their boxes, flow and cubes; nothing is stored."""
    from bench.data.preview import preview

    dataset = datasets.find(experiment.dataset, sources.root, experiment.partial)
    boxes_of, flow_of = providers(dataset, "test", experiment.cube, sources)
    video = dataset.test[0]
    preview(video.name, video.read(), boxes_of, flow_of, experiment.cube, path)


def _cut_all(
    store: Place, dataset: Dataset, cube: CubeConfig, sources: Sources, todo: list[tuple[Split, Video]]
) -> Iterator[str]:
    """Cut videos as Ray tasks, longest first; yields each one's name when it is done."""
    if not todo:
        return
    import ray

    from bench.cluster.connect import WAIT_S, Patience, check_nodes, connect, nodes, resources, shared
    from bench.data.toy import render_one

    connect()
    if len(nodes()) > 1:
        with shared([store], sources.files(dataset.name)) as probe:
            check_nodes(probe)
    on_gpu = cube.boxes.provider == "torchvision" or cube.flow.provider == "raft"

    @ray.remote(num_cpus=1, num_gpus=min(1.0, resources()["GPU"]) if on_gpu else 0, max_retries=2)
    def task(split: Split, video: Video) -> str:
        if is_toy(dataset.name) and not (sources.root / dataset.name).exists():
            render_one(dataset.name, sources.root)  # this node has not, and its pixels are the same everywhere
        prepare_video(store, split, video, cube, *providers(dataset, split, cube, sources))
        return f"{split}/{video.name}"

    waiting = [task.remote(split, video) for split, video in sorted(todo, key=lambda item: -item[1].frames)]
    patience = Patience("prepare needs a CPU" + (" and a GPU" if on_gpu else ""), WAIT_S)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
        has = resources()
        patience.look(has["CPU"] >= 1 and (has["GPU"] > 0 or not on_gpu), time.monotonic())
        if not ready:
            continue
        try:
            yield ray.get(ready[0])
        except ray.exceptions.RayError as error:
            for left in waiting:
                ray.cancel(left, force=True)
            cause = getattr(error, "cause", None)
            if isinstance(cause, BenchError):
                raise cause from error
            raise RunError(f"a worker died while cutting cubes: {error}. Run the same command again.") from error


def shard_of(store: Place, split: Split, video: str) -> Shard | None:
    """The shard of a video that was written whole, else None; its last file says that the others are there."""
    if isinstance(store, Path):
        return finished_shard(store, split, video)
    folder = store / split / video
    try:
        shard = Shard(**json.loads((folder / "shard.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return shard if all((folder / f"{name}.npy").size() for name in ARRAYS) else None


def _finished(store: Place, split: Split, video: str) -> Shard:
    shard = shard_of(store, split, video)
    if shard is None:
        raise RunError(f"{store}/{split}/{video} was not written whole. Run `amsrc-bench prepare` again.")
    return shard
