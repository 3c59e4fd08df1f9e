"""One run, one record: `results/records/<recipe>/<dataset>/seed<k>-<fingerprint>.json`, and its frame scores.

One search, one record: `results/searches/<study>/search.json`; the runs of its trials are like any other, with records
and frame scores below that folder. Writes and reads everything under `results/` that was measured. Fractions in
records, percent only in tables. A record is written whole or not at all, and finished work is never replaced by
accident. Imports neither torch nor Ray; NumPy and pydantic only where they are used.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from zipfile import BadZipFile

from amsrc.errors import DataError, RunError, why
from bench.records.json_file import as_json, check_fractions, loaded, validated
from bench.storage.places import Place, files_below, write_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Scores: TypeAlias = "Mapping[str, npt.NDArray[np.float32]]"
Labels: TypeAlias = "Mapping[str, npt.NDArray[np.uint8]]"

SCHEMA_VERSION = 1
SEARCH_SCHEMA_VERSION = 1
FRACTIONS = (
    *("auroc", "auroc_interval", "macro_auroc", "average_precision"),
    *("eer", "f1_at_eer", "rbdc", "tbdc"),
)
NEEDED = {"settings": (), "train": ("epochs", "held_out"), "score": ("skip_frames", "weights")}
"""Parts of an experiment and what the tables read of them."""
TRIAL = {"number", "state", "params", "values", "fingerprints"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one run was, did and measured.

    Fractions from 0 to 1; anything not finite is null. Keys with a default may be absent.
    """

    schema_version: int = SCHEMA_VERSION
    """Version of these keys; files of any other are refused."""
    recipe: str
    """Name of the table row."""
    dataset: str
    """Name of the data set; `toy-...` for the synthetic ones."""
    seed: int
    """Of the initial weights and the order of the cubes."""
    fingerprint: str
    """12 hex digits of `experiment`."""
    run: str | None = None
    """12 hex digits of what training depended on: the name of the run folder."""
    status: Literal["done", "failed", "pruned"]
    """`pruned`: stopped early by a search; it has the `epochs` until then and no `metrics`."""
    error: str | None = None
    """Why it failed or was pruned; null when done."""
    rule: str = "paper"
    """Selection rule behind `metrics`. `paper`: the experiment's own weights and the last epoch; no test label used."""
    metrics: dict[str, int | float | list[float] | None] = field(default_factory=dict)
    """Null where undefined: `auroc` (pooled, under the experiment's weights: the figure of the tables),
    `auroc_interval` (`[low, high]`, 95 %, over test videos), `macro_auroc` (mean over the videos with both classes) and
    `macro_videos` (their number), `average_precision`, `eer`, `f1_at_eer`, `rbdc`, `tbdc`. Empty unless done."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """AUROC of each part of the method's score alone, by its name, in the order of `experiment.score.weights`; null
    where undefined. Empty unless done."""
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each selection rule reaches, by rule: its `auroc` (null where undefined) and what it chose, `epoch` and
    `weights` (by part, adding up to 1). `crossfit` has `folds` instead of one choice, each with `videos`,
    `selected_auroc` (of the choice, on the videos of the other folds), `epoch`, `weights`. `label-free` adds
    `pseudo_auroc` and `pseudo_auroc_by_kind`. Empty unless done."""
    fusion: dict[str, Any] = field(default_factory=dict)
    """AUROC by the ratio of two parts in the last epoch: `part` (the first, whose share of the weights is varied),
    `share` and `auroc` (lists of 1,001), `best_share` and `best_auroc` (chosen on test labels), `own_share` and
    `own_auroc` (of the experiment's weights). Empty unless the score has two parts and both can be fused."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """One object an epoch: `epoch` (from 1), `phase`, `learning_rate`, the mean loss terms and their sum `loss`,
    `seconds`, `score_seconds`, `cubes_per_s`, `peak_memory_gib`, `precision`, `workers`, `threads`, `restarts`, `code`
    (commit), and `auroc` and `parts` of the epochs that were scored (standardised with a sample of training cubes,
    except in the last epoch). Empty for untrained recipes."""
    counts: dict[str, int] = field(default_factory=dict)
    """`train_videos`, `train_frames`, `train_cubes` (held-out ones included), `test_videos`, `test_frames`,
    `test_cubes`; `scored_frames` (test frames with a score) and `anomalous_frames` (the abnormal ones among them)."""
    timings_s: dict[str, float | None] = field(default_factory=dict)
    """Wall-clock seconds by stage: `train` (all epochs, without their scoring), `score`, `evaluate`. Null for a stage
    whose result was found finished or that does not apply."""
    throughput: dict[str, float | None] = field(default_factory=dict)
    """Cubes per second by stage: `train` (median over the epochs), `score`; null as above."""
    peak_memory_gib: float | None = None
    """Largest memory of the first training process: of the GPU where there is one, else resident, memory-mapped cubes
    included. Null if unknown."""
    hardware: dict[str, Any] = field(default_factory=dict)
    """`cpu`, `cores`, `memory_gib` and `gpus` of the machine that trained the last epoch, else of the one that wrote
    the record."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Python and the packages that can change a number; null for one that is not installed."""
    git: dict[str, str | bool | None] = field(default_factory=dict)
    """`sha`: commit of the code that measured this. `dirty`: whether the code differed from it (changes inside
    `results/` do not count). Both null outside a checkout. `trained`: the commits that trained it, in order, `+changes`
    after one whose code differed; null where nothing was trained."""
    labels: str | None = None
    """SHA-256 of the label file it was measured against."""
    regions: str | None = None
    """SHA-256 of the file of abnormal regions it was measured against; null where the store has none, and under label
    set `intervals`. `prepare` adds them to a store of an older version, the next `evaluate` to the record."""
    store: str | None = None
    """SHA-256 over the digests of all shards of the cube store, as in its manifest."""
    boxes: str
    """Box provider; one that reads a file adds that file's digest: `file:3f2a...`."""
    flow: str
    """Flow provider, likewise."""
    label_set: str = "official"
    """Which frame labels: `official` (Avenue: its pixel masks) or `intervals` (441 frames of Avenue differ)."""
    partial: bool = False
    """Whether only some videos of the data set were used."""
    videos: list[str] = field(default_factory=list)
    """The test videos used when partial; empty when the data set is complete."""
    workers: int = 1
    """Processes that trained the last epoch together."""
    restarts: int = 0
    """How often training resumed from a checkpoint, after a failure or because the number of workers changed."""
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC."""
    learns: bool
    """Whether anything was trained or fitted; false for a trivial baseline."""
    experiment: dict[str, Any]
    """The complete configuration, every number included (`Experiment`)."""

    def metric(self, name: str) -> float | None:
        """One of the `metrics`; None where it is undefined or was not measured."""
        value = self.metrics.get(name)
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """What one search tried and what each selection rule takes from it. Every key is there.

    The runs of its trials have records and frame scores like any other, in the folder of the search.
    """

    schema_version: int = SEARCH_SCHEMA_VERSION
    """Version of these keys."""
    study: str
    """Name of the search, of its folder and of its Optuna study: `amsrc-small-ped2-crossfit-1a2b3c4d`."""
    recipe: str
    """Recipe whose settings the trials change."""
    datasets: list[str]
    """Where each trial is measured: one data set, several when joint."""
    seeds: list[int]
    """Seeds that each trial is run with."""
    joint: bool
    """Whether a trial is one setting for all the data sets together."""
    rule: str
    """Selection rule under which the objectives of the trials were computed."""
    space: dict[str, list[float]]
    """Field -> [low, high], searched on a logarithmic scale."""
    sampler: str
    """What proposed the trials: `TPESampler (seed: trials so far)`."""
    proposals: str
    """One sentence: whether the sampler ever read a test label."""
    reference: list[str]
    """Fingerprints of the runs with the recipe's own values, which are ordinary records."""
    trials: list[dict[str, Any]]
    """By trial: `number`, `state` (`done`, `failed` or `pruned`), `params` (field -> value), `values` (objectives, null
    unless done), `fingerprints` of its runs, whose records are stored in `searches/<study>/`."""
    chosen: dict[str, dict[str, dict[str, Any]]]
    """Data set -> rule -> `auroc` and the choice: `params`, `fingerprints` of its runs, `epoch`, `weights`; under
    `crossfit` one for each of its `folds`, with `videos` and `selected_auroc`."""
    pruning: bool = False
    """Whether trials that fell behind by pseudo-anomalies were stopped early (ASHA)."""
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC; when this was written last."""
    git: dict[str, Any]
    """As in the record of a run, when the search was written."""
    hardware: dict[str, Any]
    """Likewise."""
    versions: dict[str, Any]
    """Likewise."""


def path_of(results: Place, record: RunRecord) -> Place:
    """Path of a record; another experiment has another fingerprint and so another path."""
    return record_path(results, record.recipe, record.dataset, record.seed, record.fingerprint)


def record_path(results: Place, recipe: str, dataset: str, seed: int, fingerprint: str) -> Place:
    """Path of an experiment's record, whether there is one yet or not."""
    return results / "records" / recipe / dataset / f"seed{seed}-{fingerprint}.json"


def write(record: RunRecord, results: Place, *, replace: bool = False) -> Place:
    """Write a record atomically; finished work is kept unless asked otherwise.

    A failed or pruned record gives way to any later one. A done record is never replaced by one of these: it stays
    as it is. A done record is replaced by another done one only with `replace` (an evaluation run again on purpose).

    Returns:
        The path of the record that is there now.

    Raises:
        DataError: the record contradicts itself or holds percents.
        RunError: a done record is there and `replace` is off, or the file cannot be written.
    """
    path = path_of(results, record)
    _check(record, path)
    before = read(path) if path.exists() else None
    if before and before.status == "done":
        if record.status != "done":
            return path
        if before.store != record.store:
            raise RunError(
                f"{path}: a record measured on other cubes ({str(before.store)[:12]}, not {str(record.store)[:12]}) "
                "is stored here. Choose another --results, or move it away."
            )
        if not replace:
            raise RunError(
                f"{path}: a finished record is stored here already. Ask for the evaluation again, or remove it."
            )
    if before and before.status == "done":
        frame_scores_path(results, before).unlink(missing_ok=True)  # killed in between, neither belongs to the other
    write_file(path, as_json(asdict(record)))
    return path


def read(path: Place) -> RunRecord:
    """A record of this schema.

    Raises:
        DataError: unreadable, not JSON, of an unknown schema, or with keys that do not fit it; names the file.
    """
    record = validated(RunRecord, _known(loaded(path), SCHEMA_VERSION, path), path)
    _check(record, path)
    return record


def read_all(results: Place) -> list[RunRecord]:
    """Every record under `results`, in the order of their paths.

    Raises:
        DataError: one of them is not a record, or is stored where another one belongs; names it.
    """
    records = []
    for path in files_below(results / "records", "*/*/*.json"):
        record = read(path)
        if path != path_of(results, record):
            raise DataError(f"{path}: holds the record that belongs at {path_of(results, record)}. Move or remove it.")
        records.append(record)
    return records


def search_path(results: Place, study: str) -> Place:
    """Path of the record of a search; its folder holds the `records` and `scores` of its trials."""
    return results / "searches" / study / "search.json"


def write_search(search: SearchRecord, results: Place) -> Place:
    """Write a search atomically, at its end or again with more trials; one that found nothing new leaves the old.

    Returns:
        Its path.

    Raises:
        DataError: it holds percents or a trial in an unknown state.
        RunError: one with more finished trials (done or pruned) is there, or the file cannot be written.
    """
    path = search_path(results, search.study)
    _check_search(search, path)
    there = _read_search(path) if path.exists() else None
    before = _finished(there) if there else 0
    if there and (there.trials, there.chosen, there.reference) == (search.trials, search.chosen, search.reference):
        return path
    if before > _finished(search):
        raise RunError(
            f"{path}: a search with {before} finished trials is stored here, this one has {_finished(search)}. "
            "Resume that search, choose another --results, or move it away."
        )
    write_file(path, as_json(asdict(search)))
    return path


def read_searches(results: Place) -> list[SearchRecord]:
    """Every search under `results`, in the order of their names.

    Raises:
        DataError: one of them is not the record of a search, or is stored where another one belongs; names it.
    """
    searches = []
    for path in files_below(results / "searches", "*/search.json"):
        search = _read_search(path)
        if path != search_path(results, search.study):
            raise DataError(f"{path}: holds the search {search.study!r}. Move or remove it.")
        searches.append(search)
    return searches


def _read_search(path: Place) -> SearchRecord:
    search = validated(SearchRecord, _known(loaded(path), SEARCH_SCHEMA_VERSION, path), path)
    _check_search(search, path)
    return search


def _finished(search: SearchRecord) -> int:
    return sum(trial["state"] != "failed" for trial in search.trials)


def _check_search(search: SearchRecord, path: Place) -> None:
    """Refuse a search that would put a wrong number into a table."""
    check_fractions(search.chosen, "chosen", path)
    for trial in search.trials:
        if missing := TRIAL - set(trial):
            raise DataError(f"{path}: a trial lacks {', '.join(sorted(missing))}. Restore or remove it.")
        if trial.get("state") not in ("done", "failed", "pruned"):
            raise DataError(f"{path}: trial {trial.get('number')} is {trial.get('state')!r}; done, failed or pruned.")


def _known(data: dict[str, Any], version: int, path: Place) -> dict[str, Any]:
    """The keys, if they are of the schema that this program reads."""
    found = data.get("schema_version")
    if found != version:
        raise DataError(f"{path}: schema {found!r} is not known; known: {version}. Update this program.")
    return data


def _check(record: RunRecord, path: Place) -> None:
    """Refuse a record that would put a wrong number into a table."""
    check_fractions({name: record.metrics.get(name) for name in FRACTIONS}, "", path)
    check_fractions({"auroc": list(record.parts.values())}, "parts", path)
    check_fractions(record.rules, "rules", path)
    check_fractions(record.fusion, "fusion", path)
    for part, names in NEEDED.items():
        found = record.experiment.get(part)
        if not (isinstance(found, dict) and found.keys() >= set(names)):
            wanted = f"{part} with {', '.join(names)}" if names else part
            raise DataError(f"{path}: its experiment has no {wanted}. Restore or remove it.")
    ends = record.metrics.get("auroc_interval")
    if ends is not None and not (isinstance(ends, list) and len(ends) == 2):
        raise DataError(f"{path}: auroc_interval is {ends!r}, not two ends. Restore or remove it.")
    for name in ("recipe", "dataset", "seed"):
        inner, outer = record.experiment.get(name), getattr(record, name)
        if inner != outer:
            raise DataError(f"{path}: {name} is {outer!r}, but {inner!r} in its experiment; they must agree.")


# Frame scores.


def frame_scores_path(results: Place, record: RunRecord) -> Place:
    """Where the frame scores of a record are stored: a NumPy archive with all test videos, one after the other.

        videos      text (V,)       names of the test videos, sorted
        lengths     int64 (V,)      scored frames of each
        scores      float32 (N,)    score of each scored frame, after smoothing; higher = more abnormal
        labels      uint8 (N,)      1 = abnormal
        crossfit    float32 (N,)    ranks that rule `crossfit` pooled, higher = more abnormal

    Entry i of a video is its frame i + `score.skip_frames`. `read_frame_scores` and `read_crossfit` give them by video;
    any metric can be computed from them without the model.
    """
    name = f"seed{record.seed}-{record.fingerprint}.npz"
    return results / "scores" / record.recipe / record.dataset / name


def write_frame_scores(
    results: Place, record: RunRecord, scores: Scores, labels: Labels, crossfit: Scores | None = None
) -> Place:
    """Keep the scored frames of a run, so that any metric can be computed again without the model.

    The same scores give the same bytes. Entry i of a video is its frame i + `score.skip_frames`.

    Args:
        scores: by video, float32 (N,), finite; higher = more abnormal.
        labels: by video, uint8 (N,); 1 = abnormal.
        crossfit: the quantile ranks that rule `crossfit` pooled, by video, float32 (N,); higher = more abnormal.

    Raises:
        DataError: videos or lengths differ, or a score or rank is not finite.
        RunError: the file cannot be written.
    """
    import numpy as np

    path = frame_scores_path(results, record)
    videos, ranks = sorted(scores), {} if crossfit is None else {"crossfit": crossfit}
    for kind, found in {"scores": scores, **ranks}.items():
        if videos != sorted(labels) or videos != sorted(found):
            raise DataError(f"{path}: {kind} and labels name different videos; they must be the same ones.")
        for video in videos:
            shapes = found[video].shape, labels[video].shape
            if shapes[0] != shapes[1] or len(shapes[0]) != 1:
                raise DataError(f"{path}: video {video} has {shapes[0]} {kind} and {shapes[1]} labels.")
            if not np.isfinite(found[video]).all():
                raise DataError(f"{path}: video {video} has a score that is not finite; every scored frame needs one.")

    def joined(found: Scores | Labels, kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, kind), *(found[video] for video in videos)]).astype(kind)

    arrays: dict[str, Any] = {
        "videos": np.array(videos, dtype=np.str_),
        "lengths": np.array([len(scores[video]) for video in videos], np.int64),
        "scores": joined(scores, np.float32),
        "labels": joined(labels, np.uint8),
        **{kind: joined(found, np.float32) for kind, found in ranks.items()},
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_file(path, buffer.getvalue())
    return path


def read_frame_scores(results: Place, record: RunRecord) -> tuple[Scores, Labels]:
    """Scores and labels by video, as `write_frame_scores` got them.

    Raises:
        DataError: the file is missing or damaged; names it.
    """
    scores, labels = _read_by_video(frame_scores_path(results, record), "scores", "labels")
    return scores, labels


def read_crossfit(results: Place, record: RunRecord) -> Scores:
    """The ranks by video that rule `crossfit` pooled, as `write_frame_scores` got them.

    Raises:
        DataError: the file is missing or damaged, or was written without them; names it.
    """
    (ranks,) = _read_by_video(frame_scores_path(results, record), "crossfit")
    return ranks


def _read_by_video(path: Place, *kinds: str) -> list[dict[str, Any]]:
    """Arrays of a frame-score file, each split into its videos."""
    import numpy as np

    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            ends = np.cumsum(file["lengths"])[:-1]
            videos = file["videos"].tolist()
            return [dict(zip(videos, np.split(file[kind], ends), strict=True)) for kind in kinds]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: no readable frame scores ({why(error)}). Run the evaluation again.") from None
