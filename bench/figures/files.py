"""`results/figures`: the figures, where each is stored, and all that records and frame scores suffice for.

    figures/roc-<dataset>.{svg,png}                      one panel for each run, seeds apart
    figures/<recipe>/<dataset>/seed<k>-<fingerprint>/
        videos.{svg,png}, epochs.{svg,png}, fusion.{svg,png}      from results/ alone (`draw`)
        errors.{svg,png}, features.{svg,png}, frame.{svg,png}     from pixels and network (`bench.figures.run`)
        parts.npz                                        each part of the score alone, `<video>/<part>` (the same)
        boxes.json                                       boxes and their scores in the pictured frames (the same)
        frames/<video>/<number>.jpg                      small pictures of the frames of `videos` and `frame` (the same)
    strips/<dataset>/<video>/<number>.jpg                a dozen frames of every video, for the page (the same)

Needs neither torch nor Ray nor data. Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np

from amsrc.errors import ConfigError, DataError, unknown, why
from bench.experiment.config import flatten, leaves
from bench.experiment.recipes import RECIPES, build
from bench.experiment.specs import DATASETS, SPECS
from bench.figures import scores, style
from bench.figures.scores import Floats, Picture, Scored
from bench.records.names import all_but_seed, label, latest
from bench.records.records import RunRecord, frame_scores_path, read_all, read_frame_scores
from bench.storage.places import Place, files_below, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: tuple[Literal["svg", "png"], ...] = ("svg", "png")
FROM_PIXELS = ("errors", "features", "frame")
Boxes = dict[str, dict[int, list[list[float]]]]
"""Video -> number of a frame -> rows of x0, y0, x1, y1 (parts of width and height) and fused score."""


def folder_of(results: Place, record: RunRecord) -> Place:
    """Where the figures of a record lie, or will."""
    return results / "figures" / record.recipe / record.dataset / f"seed{record.seed}-{record.fingerprint}"


def strips_of(results: Place, dataset: str) -> Place:
    """Where the frames of a data set's videos lie, or will."""
    return results / "strips" / dataset


def scored(results: Place, record: RunRecord) -> Scored | None:
    """A record with its files; None for one without frame scores.

    Raises:
        DataError: a file is damaged; names it.
    """
    if record.status != "done" or not frame_scores_path(results, record).is_file():
        return None
    folder = folder_of(results, record)
    return Scored(record, *read_frame_scores(results, record), read_parts(folder), _pictures(folder / "frames"))


def shown(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The done runs by data set and label: of those that differ in their seed the lowest, the latest record of it."""
    first: dict[str, RunRecord] = {}
    for record in latest(records):
        first.setdefault(all_but_seed(record), record)
    return sorted(first.values(), key=lambda record: (record.dataset, record.recipe, label(record), record.fingerprint))


def labels(records: Iterable[RunRecord]) -> dict[str, str]:
    """Labels of runs by fingerprint; where two runs on a data set have the same, their fingerprints are part of it."""
    found = [(record, label(record)) for record in records]
    often = Counter((record.dataset, name) for record, name in found)
    return {
        record.fingerprint: name if often[record.dataset, name] == 1 else f"{name}, {record.fingerprint}"
        for record, name in found
    }


def chosen_videos(run: Scored, names: Sequence[str] = ()) -> list[str]:
    """The videos of the figure: those that are named, or the paper's, or else the first in which both classes occur.

    Raises:
        ConfigError: a name that is no test video of this run.
    """
    every = sorted(run.scores)
    for name in names:
        if name not in every:
            raise ConfigError(f"--videos: {run.record.dataset}: {unknown('video', name, every)}")
    if names:
        return list(names)
    spec = SPECS.get(run.record.dataset)
    paper = spec.plotted if spec else ()
    if paper and len(every) >= max(paper) and not run.record.partial:
        return [every[number - 1] for number in paper]
    mixed = [name for name in every if 0 < run.labels[name].sum() < len(run.labels[name])]
    return (mixed or every)[:2]


def draw(results: Place, names: Sequence[str] = (), only: RunRecord | None = None) -> list[Place]:
    """Draw all that `results/` suffices for; returns the files.

    Args:
        names: videos of the anomaly curves; by default the paper's.
        only: draw the figures of this record alone.

    Raises:
        ConfigError: as `chosen_videos`.
        DataError: a record or a file of it is damaged, or there is nothing to draw.
        RunError: a file cannot be written.
    """
    records = [only] if only else read_all(results)
    written: list[Place] = []
    for name, figure in _roc([] if only else records, results):
        written += write(results / "figures", name, figure)
    for record in records:
        run = scored(results, record)
        if run is not None:
            for name, figure in of_run(run, names).items():
                written += write(folder_of(results, record), name, figure)
    if not written:
        raise DataError(
            f"{results} has no finished record with frame scores to draw. `amsrc-bench evaluate` makes one."
        )
    return written


def of_run(run: Scored, names: Sequence[str] = ()) -> dict[str, Figure]:
    """The figures of one record that need nothing else, by name."""
    made = {
        "videos": scores.videos(run, chosen_videos(run, names)),
        "epochs": scores.epochs(run.record),
        "fusion": style.fusion(run.record),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def compared(records: Iterable[RunRecord], dataset: str) -> list[RunRecord]:
    """The runs whose ROC curves stand side by side: those on a part of the videos only where there are no others."""
    own = [record for record in shown(records) if record.dataset == dataset]
    return [record for record in own if not record.partial] or own


def roc(results: Place, records: Iterable[RunRecord], dataset: str) -> Figure | None:
    """The ROC curves of a data set, a panel for each run; None where there is nothing to draw."""
    own = compared(records, dataset)
    called, runs = labels(own), [scored(results, record) for record in own]
    return scores.roc({called[run.record.fingerprint]: run for run in runs if run is not None})


def _roc(records: Sequence[RunRecord], results: Place) -> Iterator[tuple[str, Figure]]:
    for dataset in sorted({record.dataset for record in records}):
        figure = roc(results, records, dataset)
        if figure is not None:
            yield f"roc-{dataset}", figure


def write(folder: Place, name: str, figure: Figure) -> list[Place]:
    """Put a figure in place in both forms; returns the files."""
    files = {folder / f"{name}.{kind}": style.render(figure, kind) for kind in KINDS}
    for path, content in files.items():
        write_file(path, content)
    return list(files)


def parts_bytes(parts: Mapping[str, Mapping[str, Floats]]) -> bytes:
    """`parts.npz`: an array `<video>/<part>` each."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {f"{video}/{name}": part for video, own in parts.items() for name, part in own.items()}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def read_parts(folder: Place) -> dict[str, dict[str, Floats]]:
    """Video -> part of the score -> (N,) as `Scored.parts`; empty where no run left them.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / "parts.npz"
    if not path.is_file():
        return {}
    found: dict[str, dict[str, Floats]] = {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            for name in archive.files:
                video, _, part = name.rpartition("/")
                found.setdefault(video, {})[part] = archive[name]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} is damaged ({why(error)}). Delete it; `amsrc-bench figures` makes it again.") from None
    return found


def read_boxes(folder: Place) -> Boxes:
    """Boxes of the pictured frames; empty where no run left them.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / "boxes.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {video: {int(number): rows for number, rows in own.items()} for video, own in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it; `amsrc-bench figures` makes it again.") from None


def read_strip(folder: Place) -> dict[str, dict[int, bytes]]:
    """Video -> number of a frame -> JPEG, of `frames/` or of a data set's strips; empty where there are none."""
    found: dict[str, dict[int, bytes]] = {}
    for path in files_below(folder, "*/*.jpg"):
        if path.stem.isdigit():
            found.setdefault(path.parent.name, {})[int(path.stem)] = path.read_bytes()
    return {video: dict(sorted(frames.items())) for video, frames in found.items()}


def _pictures(folder: Place) -> dict[str, dict[int, Picture]]:
    import cv2

    found: dict[str, dict[int, Picture]] = {}
    for video, frames in read_strip(folder).items():
        for number, content in frames.items():
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            if picture is None:
                raise DataError(
                    f"{folder}/{video}: frame {number} is no picture. `amsrc-bench figures` makes it again."
                )
            found.setdefault(video, {})[number] = picture.astype(np.uint8)
    return found


def pictured(results: Place, record: RunRecord) -> bool:
    """Whether the figures of a record that need pixels are there; every method has `frame`, which is written last."""
    return (folder_of(results, record) / "frame.svg").is_file()


def command(record: RunRecord) -> str:
    """The command that makes what only pixels and network can give, as far as a record knows it."""
    settings = record.experiment["settings"]
    groups = {*settings, "train", "score"}  # which a command must repeat; the others are the store's
    named = record.recipe in RECIPES and record.dataset in DATASETS
    recipe = flatten(build(record.recipe, record.dataset, record.seed)) if named else {}
    found = [each for each in leaves({**record.experiment, **settings}) if each[0].partition(".")[0] in groups]
    fields = "".join(f" --{name} {_as_option(value)}" for name, value in found if recipe.get(name, value) != value)
    return (
        f"amsrc-bench figures --recipe {record.recipe} --dataset {record.dataset} --seed {record.seed}{fields} "
        "--home HOME --root DATA"
    )


def _as_option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
