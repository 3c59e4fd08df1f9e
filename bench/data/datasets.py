"""Finds copies of the data sets, reads their labels and masks, and verifies that they are complete.

Reads a data set's folder (layouts and counts: `bench.experiment.specs`; files: `bench.data.readers`) and writes
nothing. `find` looks at the structure alone and is fast; `verify` opens pictures, decodes videos and compares labels.
The rendered `toy-...` sets go through the same code; their expected counts come from the `toy.json` in their folder.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amsrc.errors import ConfigError, DataError, shorten, unknown
from amsrc.store import SPLITS, Split
from bench.data import readers
from bench.data.readers import Video as Video
from bench.experiment.specs import DATASETS, Spec, is_toy, spec_of
from bench.experiment.specs import SPECS as SPECS

SHORTEST = 5
"""Frames of the shortest video that yields a cube without repeated frames (paper: 4 frames and the next)."""


@dataclass(frozen=True)
class Dataset:
    """A copy of a data set whose structure has been checked."""

    name: str
    root: Path
    """Its own folder."""
    partial: bool
    """Some of its videos are not here."""
    train: tuple[Video, ...]
    test: tuple[Video, ...]
    spec: Spec

    def split(self, split: Split) -> tuple[Video, ...]:
        return self.train if split == "train" else self.test

    def first_frames(self, split: Split) -> dict[str, int]:
        """Position of each video's first frame in the concatenated videos of the whole split.

        Where the whole split's lengths are not known in advance, of the videos that are here.
        """
        lengths = self._lengths(split)
        return dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))

    def full_frames(self, split: Split) -> int:
        """Frames of the split that `first_frames` counts in."""
        return sum(self._lengths(split).values())

    def _lengths(self, split: Split) -> dict[str, int]:
        return dict(self.spec.per_video[split]) or {video.name: video.frames for video in self.split(split)}

    def label_sets(self) -> list[str]:
        """Label sets that this copy has files for; `official` always comes first."""
        return [name for name in self.spec.abnormal if name == "official" or self._spans_file(name)]

    def labels(self, label_set: str = "official") -> dict[str, npt.NDArray[np.uint8]]:
        """Labels of each test video that is here: (frames,), 1 = abnormal.

        Raises:
            ConfigError: this data set has no such label set.
            DataError: a label file is missing, damaged or does not fit its video.
        """
        if label_set not in self.spec.abnormal:
            raise ConfigError(f"{self.name}: " + unknown("label set", label_set, self.spec.abnormal))
        return {video.name: self.labels_of(video, label_set) for video in self.test}

    def labels_of(self, video: Video, label_set: str) -> npt.NDArray[np.uint8]:
        """Labels of one test video, as `labels`."""
        spans = self._spans_file(label_set)
        if spans:
            return self._from_spans(video, spans)
        if self.spec.frame_labels:
            labels = np.asarray(readers.read_array(self._path(self.spec.frame_labels, video.name)))
        else:
            masks = self._masks_path(video.name) if label_set == "official" else None
            if masks is None:
                wanted = [*self.spec.spans.get(label_set, ()), *(self.spec.masks if label_set == "official" else ())]
                raise DataError(
                    f"{self.name}: no {label_set} labels of testing video {video.name} in {self.root}; "
                    f"looked for {', '.join(wanted)}. Copy them from the data set's archive."
                )
            labels = np.array([mask.any() for mask in readers.read_masks(masks)])
        if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise DataError(f"{self.name}: labels of testing video {video.name} must be a row of 0 and 1.")
        self._check_length(video, len(labels), "labels have")
        return labels.astype(np.uint8)

    def masks(self, video: str) -> npt.NDArray[np.bool_] | None:
        """Pixel masks of a test video, (frames, H, W), True where abnormal; None where the copy has none.

        Raises:
            DataError: they are damaged or not as many as the video's frames.
        """
        path = self._masks_path(video)
        if path is None:
            return None
        masks = list(readers.read_masks(path))
        if len({mask.shape for mask in masks}) != 1 or masks[0].ndim != 2:
            raise DataError(f"{path}: masks must be pictures (H, W), all of one size, and there must be some.")
        self._check_length(next(v for v in self.test if v.name == video), len(masks), "pixel masks are")
        return np.stack(masks)

    def _from_spans(self, video: Video, path: Path) -> npt.NDArray[np.uint8]:
        spans = readers.read_spans(path)
        if len(spans) != self.spec.videos["test"]:
            raise DataError(f"{path}: labels of {len(spans)} videos, expected {self.spec.videos['test']}.")
        number = int(video.name)
        if not 1 <= number <= len(spans):
            raise DataError(f"{path}: no labels of video {video.name}; they are of 01 to {len(spans):02d}.")
        own = spans[number - 1]
        if own.size and (own.min() < 1 or (own[0] > own[1]).any()):
            raise DataError(f"{path}: video {video.name}: spans must run forwards and count frames from 1.")
        self._check_length(video, max(video.frames, int(own.max(initial=0))), "labels run to")
        return readers.spans_to_labels(own, video.frames)

    def _check_length(self, video: Video, found: int, verb: str) -> None:
        if found != video.frames:
            raise DataError(
                f"{self.name}: testing video {video.name} has {video.frames} frames, its {verb} {found}. "
                "Extract the archive again, or pass --root to another copy."
            )

    def _path(self, template: str, video: str) -> Path:
        return self.root / template.format(name=video, number=int(video) if video.isdigit() else 0)

    def _spans_file(self, label_set: str) -> Path | None:
        paths = (self.root / file for file in self.spec.spans.get(label_set, ()))
        return next((path for path in paths if path.is_file()), None)

    def _masks_path(self, video: str) -> Path | None:
        paths = (self._path(template, video) for template in self.spec.masks)
        return next((path for path in paths if path.exists()), None)


@dataclass(frozen=True)
class Check:
    """One line of what `verify` looked at."""

    what: str
    expected: str
    found: str
    ok: bool


def present(root: Path) -> list[str]:
    """Data sets with videos in `root`, complete or not, in folders of their own name; toy sets last.

    Raises:
        DataError: `root` does not exist.
    """
    return [name for name in DATASETS if _home(name, root, named=True)]


def exists(name: str, root: Path) -> bool:
    """Whether `find` would find footage of that data set, whole or not."""
    return root.is_dir() and _home(name, root) is not None


def find(name: str, root: Path, partial: bool = False) -> Dataset:
    """The data set of that name, its structure checked; no picture is opened.

    Args:
        root: its own folder, or one that holds it.
        partial: accept a copy in which videos are missing.

    Raises:
        ConfigError: there is no data set of that name.
        DataError: it is missing or incomplete.
    """
    dataset = _survey(name, root)
    failed = [check for check in _structure(dataset, partial) if not check.ok]
    if not failed:
        return dataset
    listed = "; ".join(f"{check.what}: expected {check.expected}, found {check.found}" for check in failed[:4])
    more = f"; and {len(failed) - 4} more" if len(failed) > 4 else ""
    only_missing = all(check.ok for check in _structure(dataset, True))
    advice = (
        "This copy is partial: add the missing videos, or pass --partial to work on the ones present."
        if only_missing
        else f"`amsrc-bench data verify --dataset {name} --root {root}` lists everything."
    )
    raise DataError(f"{name} in {dataset.root}: {listed}{more}. {advice}")


def verify(name: str, root: Path, partial: bool = False) -> list[Check]:
    """Everything that can be checked offline. Decodes every video file to its end: minutes for shanghaitech.

    Raises:
        ConfigError: there is no data set of that name.
        DataError: there is no footage of it. All else is a failed check.
    """
    dataset = _survey(name, root)
    return [*_structure(dataset, partial), *_pictures(dataset), *_labels(dataset), *_masks(dataset)]


def table(checks: list[Check]) -> str:
    """The checks as plain text, one a line."""
    rows = [("", "check", "expected", "found")]
    rows += [("ok" if check.ok else "FAILED", check.what, check.expected, check.found) for check in checks]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def _survey(name: str, root: Path) -> Dataset:
    """The data set as found, unchecked."""
    home = _home(name, root)
    base = spec_of(name)
    if home is None:
        looked = ", ".join(place for split in SPLITS for place in base.places[split])
        advice = "`make demo` makes it." if is_toy(name) else f"See {base.page}; `amsrc-bench data fetch` may help."
        raise DataError(
            f"{name}: no videos in {root}; looked for {looked} there and in folders named "
            f"{', '.join(_folders(name))}. {advice}"
        )
    toy = _toy_file(home)
    spec = _toy_spec(base, toy) if toy else base
    videos = {split: _videos(home, spec, split) for split in SPLITS}
    missing = any(_missing(spec, split, videos[split]) for split in SPLITS)
    return Dataset(name, home, missing, tuple(videos["train"]), tuple(videos["test"]), spec)


def _folders(name: str) -> tuple[str, ...]:
    return (name,) if is_toy(name) else spec_of(name).folders


def _home(name: str, root: Path, named: bool = False) -> Path | None:
    """The data set's own folder: the first with a video of it among those that bear its name, two deep, and `root`."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Pass --root, or set AMSRC_DATA, to where the data sets are.")
    spec = spec_of(name)
    bears_name = {path for path in (root, *_children(root)) if path.name.lower() in _folders(name)}
    inner = [path for outer in sorted(bears_name) for path in _children(outer) if path.name.lower() in spec.folders]
    for folder in (*sorted(bears_name), *inner, *([] if named else [root])):
        rendered = _toy_file(folder) is not None
        places = [folder / place for split in SPLITS for place in spec.places[split]]
        if rendered == is_toy(name) and any(readers.video_paths(place, spec.names) for place in places):
            return folder
    return None


def _children(folder: Path) -> list[Path]:
    return [path for path in readers.entries(folder) if path.is_dir()]


def _toy_file(folder: Path) -> Path | None:
    """The file that marks a synthetic set, next to its folders of videos or one level above."""
    return next((path for path in (folder / "toy.json", folder.parent / "toy.json") if path.is_file()), None)


def _toy_spec(base: Spec, path: Path) -> Spec:
    """The spec of a synthetic set: the layout of the real one, the counts of its `toy.json`."""
    try:
        toy = json.loads(path.read_text())
        per_video: dict[Split, dict[str, int]] = {
            split: {readers.video_name(name, base.names) or name: int(n) for name, n in toy[split].items()}
            for split in SPLITS
        }
        return replace(
            base,
            videos={split: len(per_video[split]) for split in SPLITS},
            frames={split: sum(per_video[split].values()) for split in SPLITS},
            per_video=per_video,
            about=False,
            size=None,
            abnormal={"official": int(toy["anomalous"])},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: not what the renderer wrote ({error!r}). Delete the folder; it is rendered anew."
        ) from None


def _videos(home: Path, spec: Spec, split: Split) -> list[Video]:
    found = [readers.video_paths(home / place, spec.names) for place in spec.places[split]]
    expected = spec.per_video[split]
    return [
        Video(name, path, readers.count_frames(path, expected.get(name)), spec.grey)
        for name, path in max(found, key=len)
    ]


def _missing(spec: Spec, split: Split, videos: list[Video] | tuple[Video, ...]) -> list[str]:
    """Videos of the whole split that are not here; `?` for one whose name is not known in advance."""
    names = {video.name for video in videos}
    known = [name for name in spec.per_video[split] if name not in names]
    return known if spec.per_video[split] else ["?"] * (spec.videos[split] - len(names))


def _structure(dataset: Dataset, partial: bool) -> Iterator[Check]:
    for split in SPLITS:
        yield _video_count(dataset, split, partial)
        yield from _lengths(dataset, split)


def _video_count(dataset: Dataset, split: Split, partial: bool) -> Check:
    spec, videos = dataset.spec, dataset.split(split)
    names = [video.name for video in videos]
    missing = _missing(spec, split, videos)
    twice = sorted({name for name in names if names.count(name) > 1})
    extra = [name for name in names if spec.per_video[split] and name not in spec.per_video[split]]
    unnamed = "?" in missing
    remarks = [f"{len(missing)} missing" if unnamed else f"missing: {shorten(missing)}"] if missing else []
    remarks += [f"{shorten(twice)} twice"] if twice else []
    remarks += [f"unexpected: {shorten(extra)}"] if extra else []
    whole = len(names) == spec.videos[split] and not missing
    ok = bool(names) and not twice and not extra and (whole or (partial and len(names) < spec.videos[split]))
    return Check(f"{split}ing videos", str(spec.videos[split]), "; ".join([str(len(names)), *remarks]), ok)


def _lengths(dataset: Dataset, split: Split) -> Iterator[Check]:
    """A line for each video with wrong numbers, then one for all frames."""
    spec, videos = dataset.spec, dataset.split(split)
    for video in videos:
        expected = spec.per_video[split].get(video.name)
        wanted = f"{SHORTEST} or more" if expected is None or expected < SHORTEST else str(expected)
        found = "0 (empty or unreadable)" if video.frames == 0 else str(video.frames)
        if video.frames < SHORTEST or expected not in (None, video.frames):
            yield Check(f"{split}ing video {video.name}, frames", wanted, found, False)
        elif video.path.is_dir():
            try:
                readers.frame_files(video.path)
            except DataError as error:
                yield Check(
                    f"{split}ing video {video.name}, numbering", "0 or 1 upwards without a gap", str(error), False
                )
    yield _total(dataset, split)


def _total(dataset: Dataset, split: Split) -> Check:
    spec, total = dataset.spec, sum(video.frames for video in dataset.split(split))
    wanted, slack = spec.frames[split], 0
    if dataset.partial:
        wanted = sum(spec.per_video[split].get(video.name, video.frames) for video in dataset.split(split))
    elif spec.about and split == "train":
        slack = wanted // 100
    ok = abs(total - wanted) <= slack
    return Check(f"{split}ing frames", f"{'about ' if slack else ''}{wanted:,}", f"{total:,}", ok)


def _pictures(dataset: Dataset) -> Iterator[Check]:
    """A line for each video whose frames cannot be read or have another size, then one for all."""
    size = dataset.spec.size
    wanted = "readable" + (f", {size[0]}x{size[1]}" if size else "")
    for split in SPLITS:
        videos = dataset.split(split)
        with ThreadPoolExecutor() as pool:
            problems = list(pool.map(lambda video: _picture_problem(video, size), videos))
        for video, problem in zip(videos, problems, strict=True):
            if problem:
                yield Check(f"{split}ing video {video.name}, pictures", wanted, problem, False)
        good = problems.count("")
        what = f"{split}ing videos, first and last frame"
        yield Check(what, wanted, f"{good} of {len(videos)} videos", 0 < good == len(videos))


def _picture_problem(video: Video, size: tuple[int, int] | None) -> str:
    try:
        for image in _ends(video):
            height, width = image.shape[:2]
            if size and (width, height) != size:
                return f"{video.path}: {width}x{height}"
    except DataError as error:
        return str(error)
    return ""


def _ends(video: Video) -> list[npt.NDArray[np.uint8]]:
    """First and last frame; of a video file, found by decoding it to its end."""
    if video.path.is_dir():
        files = readers.frame_files(video.path)
        return [readers.read_image(file, video.grey) for file in (files[:1] + files[-1:])]
    images = video.read()
    first = next(images, None)
    last = deque(images, maxlen=1)
    return [*([] if first is None else [first]), *last]


def _labels(dataset: Dataset) -> Iterator[Check]:
    """For each label set a line for each video whose labels do not fit, then one for the abnormal frames."""
    for label_set in dataset.label_sets():
        abnormal, failed = 0, 0
        for video in dataset.test:
            try:
                abnormal += int(dataset.labels_of(video, label_set).sum())
            except DataError as error:
                failed += 1
                yield Check(f"{label_set} labels, video {video.name}", f"{video.frames} labels", str(error), False)
        wanted = dataset.spec.abnormal[label_set]
        expected = f"up to {wanted:,}" if dataset.partial else f"{wanted:,}"
        found = f"{abnormal:,} of {sum(video.frames for video in dataset.test):,} frames"
        ok = not failed and (abnormal <= wanted if dataset.partial else abnormal == wanted)
        yield Check(f"{label_set} labels, abnormal frames", expected, found, ok)


def _masks(dataset: Dataset) -> Iterator[Check]:
    """Where labels are stored as spans: whether the pixel masks, if there are any, agree with them."""
    if "official" not in dataset.spec.spans:
        return
    problems = {video.name: _mask_problem(dataset, video) for video in dataset.test}
    agreeing = [name for name, problem in problems.items() if problem == ""]
    for name, problem in problems.items():
        if problem:
            yield Check(f"pixel masks, video {name}", "equal to the labels", problem, False)
    masked = sum(problem is not None for problem in problems.values())
    found = f"{len(agreeing)} of {masked} videos" if masked else "none"
    yield Check("pixel masks against labels", "equal, where present", found, len(agreeing) == masked)


def _mask_problem(dataset: Dataset, video: Video) -> str | None:
    """None where there are no masks."""
    try:
        masks = dataset.masks(video.name)
        if masks is None:
            return None
        differ = np.flatnonzero(masks.any((1, 2)) != dataset.labels_of(video, "official"))
    except DataError as error:
        return str(error)
    return f"frames {shorten([str(n) for n in differ])} differ (counted from 0)" if len(differ) else ""
