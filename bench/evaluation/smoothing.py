"""Smoothing and rescaling of frame scores, and the AUROC that they alone add.

A study takes one run's frame scores before any smoothing, and two content-free ones, a constant and uniform noise, and
measures the pooled AUROC of all three under each filter, width and padding, with and without rescaling every video to
[0, 1] by its own extremes. `amsrc-bench evaluate --smoothing` writes `results/smoothing/<recipe>/<dataset>/*.json`;
the tables read it. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

from amsrc.fuse import PADDINGS
from bench.records.json_file import as_json, check_fractions, loaded, validated
from bench.records.records import Labels, RunRecord, Scores
from bench.storage.places import Place, files_below, write_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]

SCHEMA_VERSION = 1
MEDIANS = (5, 9, 17, 33, 65)  # frames
GAUSSIANS = (5, 10, 20, 50, 100)  # standard deviation in frames
Filter: TypeAlias = Literal["none", "median", "gaussian"]
FILTERS: list[tuple[Filter, int, str]] = [
    ("none", 0, "reflect"),
    *(("median", width, padding) for width in MEDIANS for padding in PADDINGS),
    *(("gaussian", width, padding) for width in GAUSSIANS for padding in PADDINGS),
]
DRAWS = 20  # of noise


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to smooth, and the AUROCs under it; fractions, null where undefined."""

    filter: Filter
    """Kind of filter."""
    width: int
    """Frames of a median filter, standard deviation in frames of a Gaussian one; 0 for none."""
    padding: str
    """What the filter sees beyond the ends of a video: `zero`, `reflect` or `nearest`."""
    min_max: bool
    """Whether each video was then rescaled to [0, 1]."""
    constant: float | None
    """AUROC of a constant score."""
    noise: float | None
    """AUROC of uniform noise, mean over draws."""
    noise_std: float | None
    """Standard deviation over these draws."""
    run: float | None
    """AUROC of the run's own scores."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What smoothing alone does to the scores of one run. Every key is there."""

    schema_version: int = SCHEMA_VERSION
    """Version of these keys."""
    recipe: str
    """As in the record of the run, like the next four."""
    dataset: str
    """Name of the data set."""
    seed: int
    """Seed of the run."""
    fingerprint: str
    """Fingerprint of the run."""
    label_set: str
    """Which frame labels."""
    choices: list[Choice] = field(default_factory=list)
    """Every filter, width and padding, with and without rescaling."""


def study(record: RunRecord, scores: Scores, labels: Labels) -> Study:
    """Measure every choice.

    Args:
        scores: the run's frame scores before smoothing, by video, (N,).
        labels: by video, (N,), 1 = abnormal.
    """
    return Study(
        recipe=record.recipe,
        dataset=record.dataset,
        seed=record.seed,
        fingerprint=record.fingerprint,
        label_set=record.label_set,
        choices=list(_choices(scores, labels)),
    )


def _choices(scores: Scores, labels: Labels) -> Iterator[Choice]:
    import numpy as np

    rng = np.random.default_rng(0)
    constant = {video: np.ones(len(own)) for video, own in labels.items()}
    noise = [{video: rng.random(len(own)) for video, own in labels.items()} for _ in range(DRAWS)]
    for min_max, (name, width, padding) in product((False, True), FILTERS):
        auroc = partial(_auroc, labels, name, width, padding, min_max)
        drawn = [value for value in map(auroc, noise) if value is not None]
        yield Choice(
            filter=name,
            width=width,
            padding=padding,
            min_max=min_max,
            constant=auroc(constant),
            noise=float(np.mean(drawn)) if drawn else None,
            noise_std=float(np.std(drawn, ddof=1)) if drawn else None,
            run=auroc(scores),
        )


def _auroc(
    labels: Labels, name: Filter, width: int, padding: str, min_max: bool, scores: Mapping[str, npt.ArrayLike]
) -> float | None:
    from bench.evaluation.metrics import pooled_auroc

    smoothed = {video: smooth(own, name, width, padding, min_max=min_max) for video, own in scores.items()}
    return pooled_auroc(smoothed, labels)


def smooth(scores: npt.ArrayLike, name: Filter, width: int, padding: str, *, min_max: bool = False) -> Floats:
    """Scores of one video, (N,), after a filter and, if asked, rescaled to [0, 1] by their own extremes."""
    import numpy as np
    from scipy import ndimage

    values = np.asarray(scores, np.float64)
    if len(values) and name == "median":
        values = ndimage.median_filter(values, width, mode=PADDINGS[padding].scipy)
    elif len(values) and name == "gaussian":
        values = ndimage.gaussian_filter1d(values, width, mode=PADDINGS[padding].scipy)
        values = np.round(values, 9)  # the sums of a constant differ in their last digits, which are no score
    if not min_max or not len(values):
        return values
    span = np.ptp(values)
    return (values - values.min()) / span if span else np.zeros(len(values))


def path_of(results: Place, study: Study) -> Place:
    """Path of a study, built like that of its run's record."""
    return results / "smoothing" / study.recipe / study.dataset / f"seed{study.seed}-{study.fingerprint}.json"


def write(study: Study, results: Place) -> Place:
    """Write a study atomically, in place of the same run's earlier one. Returns its path.

    Raises:
        RunError: the file cannot be written.
    """
    write_file(path_of(results, study), as_json(asdict(study)))
    return path_of(results, study)


def read_all(results: Place) -> list[Study]:
    """Every study under `results`, in the order of their paths.

    Raises:
        DataError: one of them is not a study; names it.
    """
    found = []
    for path in files_below(results / "smoothing", "*/*/*.json"):
        study = validated(Study, loaded(path), path)
        check_fractions({"auroc": [[choice.constant, choice.noise, choice.run] for choice in study.choices]}, "", path)
        found.append(study)
    return found
