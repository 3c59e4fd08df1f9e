"""One run, one record: `results/records/<recipe>/<dataset>/seed<k>-<fingerprint>.json`, and its frame scores.

Writes and reads everything under `results/` that was measured. Fractions in records, percent only in
tables. A record is written whole or not at all, and finished work is never replaced by accident.
Imports neither torch nor Ray; NumPy and pydantic only where they are used.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from zipfile import BadZipFile

from amsrc.errors import DataError, RunError
from amsrc.files import write_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Scores: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
    Labels: TypeAlias = Mapping[str, npt.NDArray[np.uint8]]

SCHEMA_VERSION = 2
FRACTIONS = ("auroc", "auroc_f", "auroc_p", "macro_auroc", "average_precision")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one cell of the benchmark was, did and measured. Keys with a default may be absent."""

    schema_version: int = SCHEMA_VERSION
    """Version of these keys; older files are brought up to date on reading."""
    recipe: str
    """Name of the table row."""
    dataset: str
    """Name of the data set; `toy-...` for the rendered ones."""
    seed: int
    fingerprint: str
    """12 hex digits of `experiment` (`bench.config.fingerprint`)."""
    run: str | None = None
    """12 hex digits of what training depended on (`bench.config.run_key`); null in records of schema 1."""
    status: Literal["done", "failed"]
    error: str | None = None
    """Why it failed; null when done."""
    rule: str = "paper"
    """Selection rule behind the number. `paper`: the paper's values and the last epoch; no test label used."""
    metrics: dict[str, int | float | None] = field(default_factory=dict)
    """Fractions in [0, 1], null where undefined: `auroc` (pooled, under the experiment's weights), `auroc_f`
    (S_f alone), `auroc_p` (S_p alone), `macro_auroc` (mean over the videos with both classes),
    `average_precision`; and the count `macro_videos`. Empty when failed."""
    epochs: list[dict[str, int | float | str | None]] = field(default_factory=list)
    """One dict an epoch: the line of the training log (`epoch` from 1, `learning_rate`, the mean loss terms,
    `seconds`, `cubes_per_s`, ...) and `auroc`, `auroc_f`, `auroc_p` of the epochs that were scored. Empty for
    recipes that train nothing."""
    counts: dict[str, int] = field(default_factory=dict)
    """`train_cubes`, `test_cubes`, `train_videos`, `test_videos`, `test_frames` (all), `scored_frames` (those
    with a score) and `anomalous_frames` (among the scored ones)."""
    timings_s: dict[str, float | None] = field(default_factory=dict)
    """Wall-clock seconds by stage: `train` (all epochs, without their scoring), `score`, `evaluate`, `cell` (scoring to
    record); null for a stage that found its result finished or does not apply."""
    throughput: dict[str, float | None] = field(default_factory=dict)
    """Cubes per second by stage: `train` (median over the epochs), `score`; null as above."""
    peak_memory_gib: float | None = None
    """Largest memory of one training process: the GPU's where there is one, else resident. Null if unknown."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """`provenance.hardware()` of the machine that wrote the record."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """`provenance.versions()`; null for a package that is not installed."""
    git: dict[str, str | bool | None] = field(default_factory=dict)
    """`provenance.git()` when this was measured: `sha` and `dirty`, null outside a checkout; and `trained`: the
    commits that trained it, in order, null where nothing was trained."""
    labels: str | None = None
    """SHA-256 of the label file it was measured against."""
    store: str | None = None
    """SHA-256 of the sealed cube store's manifest."""
    boxes: str
    """Box provider; one that reads a file adds that file's digest: `file:3f2a...`."""
    flow: str
    """Flow provider, likewise."""
    label_set: str = "official"
    """Which frame labels: `official` (avenue: pixel masks) or `intervals`."""
    partial: bool = False
    """Made from a subset of the data set's videos."""
    videos: list[str] = field(default_factory=list)
    """Test videos present when partial; empty when the data set is whole."""
    workers: int = 1
    """Processes that trained together."""
    restarts: int = 0
    """How often training went on from a checkpoint."""
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC."""
    experiment: dict[str, Any]
    """The whole experiment (`bench.config.dump`): every number of the configuration."""


def path_of(results: Path, record: RunRecord) -> Path:
    """Where a record lives; another experiment has another fingerprint and so another path."""
    return record_path(results, record.recipe, record.dataset, record.seed, record.fingerprint)


def record_path(results: Path, recipe: str, dataset: str, seed: int, fingerprint: str) -> Path:
    """Where the record of an experiment lies, or will; for when there is no record yet."""
    return results / "records" / recipe / dataset / f"seed{seed}-{fingerprint}.json"


def write(record: RunRecord, results: Path, *, replace: bool = False) -> Path:
    """Write a record atomically; finished work is kept unless asked otherwise.

    A failed record gives way to any later one. A done record is never replaced by a failed one: it stays as it
    is. A done record is replaced by another done one only with `replace` (an evaluation run again on purpose).

    Returns:
        The path of the record that stands there now.

    Raises:
        DataError: the record contradicts itself or holds percents.
        RunError: a done record stands there and `replace` is off, or the file cannot be written.
    """
    path = path_of(results, record)
    _check(record, path)
    before = read(path) if path.exists() else None
    if before and before.status == "done":
        if record.status == "failed":
            return path
        if before.store != record.store:
            raise RunError(
                f"{path}: a record measured on other cubes ({str(before.store)[:12]}, not {str(record.store)[:12]}) "
                "stands here. Choose another --results, or move it away."
            )
        if not replace:
            raise RunError(
                f"{path}: a finished record stands here already. Ask for the evaluation again, or remove it."
            )
    text = json.dumps(_plain(asdict(record)), indent=2, allow_nan=False, ensure_ascii=False)
    write_file(path, f"{text}\n".encode())
    return path


def read(path: Path) -> RunRecord:
    """A record of this or an older schema.

    Raises:
        DataError: unreadable, not JSON, of an unknown schema, or with keys that do not fit it; names the file.
    """
    from pydantic import ValidationError

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a readable record ({error}). Restore it from version control or remove it."
        ) from None
    try:
        record = _adapter().validate_python(_migrate(data, path))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: not a record of schema {SCHEMA_VERSION}: {wrong}. Restore or remove it.") from None
    _check(record, path)
    return record  # type: ignore[no-any-return]


def read_all(results: Path) -> list[RunRecord]:
    """Every record under `results`, in the order of their paths.

    Raises:
        DataError: one of them is not a record, or lies where another one belongs; names it.
    """
    found = []
    for path in sorted((results / "records").glob("*/*/*.json")):
        record = read(path)
        if path != path_of(results, record):
            raise DataError(f"{path}: holds the record that belongs at {path_of(results, record)}. Move or remove it.")
        found.append(record)
    return found


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(RunRecord))


def _migrate(data: Any, path: Path) -> dict[str, Any]:
    """The keys of today's schema from those of any earlier one."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version not in (1, SCHEMA_VERSION):
        raise DataError(f"{path}: schema {version!r} is not known; known: 1 to {SCHEMA_VERSION}. Update this program.")
    return _from_1(data) if version == 1 else data


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had the metrics at the top level and knew one rule, no restarts and no key of the run."""
    metrics = {name: data[name] for name in (*FRACTIONS, "macro_videos") if name in data}
    rest = {name: value for name, value in data.items() if name not in metrics}
    return {**rest, "schema_version": 2, "metrics": metrics}


def _check(record: RunRecord, path: Path) -> None:
    """Refuse a record that would put a wrong number into a table."""
    for name in FRACTIONS:
        value = record.metrics.get(name)
        if value is not None and math.isfinite(value) and not 0 <= value <= 1:
            raise DataError(f"{path}: {name} is {value}; records hold fractions from 0 to 1, not percents.")
    for name in ("recipe", "dataset", "seed"):
        inner, outer = record.experiment.get(name), getattr(record, name)
        if inner != outer:
            raise DataError(f"{path}: {name} is {outer!r}, but {inner!r} in its experiment; they must agree.")


def _plain(value: Any) -> Any:
    """Python values for JSON: NumPy scalars unwrapped; NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def frame_scores_path(results: Path, record: RunRecord) -> Path:
    """Where the frame scores of a record live."""
    return results / "scores" / path_of(results, record).relative_to(results / "records").with_suffix(".npz")


def write_frame_scores(results: Path, record: RunRecord, scores: Scores, labels: Labels) -> Path:
    """Keep the scored frames of a run, so that any metric can be computed again without the model.

    The same scores give the same bytes. Entry i of a video is its frame i + `score.skip_frames`.

    Args:
        scores: by video, float32 (N,), finite; higher = more abnormal.
        labels: by video, uint8 (N,); 1 = abnormal.

    Raises:
        DataError: videos or lengths differ, or a score is not finite.
        RunError: the file cannot be written.
    """
    import numpy as np

    path = frame_scores_path(results, record)
    videos = sorted(scores)
    if videos != sorted(labels):
        raise DataError(f"{path}: scores and labels name different videos; they must be the same ones.")
    for video in videos:
        if scores[video].shape != labels[video].shape or scores[video].ndim != 1:
            raise DataError(f"{path}: video {video} has {scores[video].shape} scores and {labels[video].shape} labels.")
        if not np.isfinite(scores[video]).all():
            raise DataError(f"{path}: video {video} has a score that is not finite; every scored frame needs one.")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        videos=np.array(videos, dtype=np.str_),
        lengths=np.array([len(scores[video]) for video in videos], np.int64),
        scores=np.concatenate([np.zeros(0, np.float32), *(scores[video] for video in videos)]).astype(np.float32),
        labels=np.concatenate([np.zeros(0, np.uint8), *(labels[video] for video in videos)]).astype(np.uint8),
    )
    write_file(path, buffer.getvalue())
    return path


def read_frame_scores(results: Path, record: RunRecord) -> tuple[Scores, Labels]:
    """Scores and labels by video, as `write_frame_scores` got them.

    Raises:
        DataError: the file is missing or damaged; names it.
    """
    import numpy as np

    path = frame_scores_path(results, record)
    try:
        with np.load(path, allow_pickle=False) as file:
            ends = np.cumsum(file["lengths"])[:-1]
            videos = file["videos"].tolist()
            scores, labels = (np.split(file[name], ends) for name in ("scores", "labels"))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: no readable frame scores ({error}). Run the evaluation again.") from None
    return dict(zip(videos, scores, strict=True)), dict(zip(videos, labels, strict=True))
