"""The study of smoothing: each filter by hand, and that what knows nothing is shown to be worth something."""

import json

import numpy as np
import pytest

from amsrc.config import ScoreConfig
from amsrc.errors import DataError
from amsrc.fuse import PADDINGS, Statistics, frame_scores
from bench.evaluation import smoothing
from bench.evaluation.metrics import pooled_auroc
from bench.tables import smoothing as smoothing_tables
from bench.tables import tables
from tests.results_made import a_record


@pytest.mark.parametrize(("padding", "ends"), [("zero", (0.0, 1.0)), ("reflect", (5.0, 1.0)), ("nearest", (5.0, 1.0))])
def test_a_median_sees_beyond_the_ends_what_it_is_told(padding, ends):
    found = smoothing.smooth([5.0, 0.0, 9.0, 1.0], "median", 3, padding)
    assert found.tolist() == [ends[0], 5.0, 1.0, ends[1]]


def test_a_gaussian_keeps_a_constant_unless_zeros_surround_it():
    for padding in ("reflect", "nearest"):
        assert smoothing.smooth(np.ones(50), "gaussian", 20, padding).tolist() == [1.0] * 50
    bent = smoothing.smooth(np.ones(50), "gaussian", 5, "zero")
    assert bent[0] < 0.6 < 0.99 < bent[25]
    assert bent[25] == bent.max()


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_median_of_the_study_is_the_one_of_the_protocol(padding):
    scores = np.random.default_rng(3).normal(size=40)
    config = ScoreConfig(skip_frames=0, median_frames=9, median_padding=padding)
    known = {"part": Statistics(mean=0.0, sd=1.0, minimum=0.0, p999=1.0, maximum=1.0)}
    (fused,) = frame_scores({"part": scores}, np.zeros(40, np.int64), np.arange(40), [40], known, config)
    np.testing.assert_allclose(smoothing.smooth(scores, "median", 9, padding), fused)


def test_min_max_rescales_each_video_and_leaves_a_constant_at_nothing():
    assert smoothing.smooth([2.0, 4.0, 3.0], "none", 0, "reflect", min_max=True).tolist() == [0.0, 1.0, 0.5]
    assert smoothing.smooth(np.full(4, 7.0), "gaussian", 5, "nearest", min_max=True).tolist() == [0.0] * 4
    for name in ("none", "median", "gaussian"):
        assert len(smoothing.smooth([], name, 5, "zero", min_max=True)) == 0


@pytest.fixture(scope="module")
def case():
    """Abnormal in the middle of each video, as in many test sets; and scores that know it."""
    rng = np.random.default_rng(1)
    labels = {f"{n}": (np.abs(np.arange(60) - 30) < 10 + n).astype(np.uint8) for n in range(5)}
    scores = {video: (own + rng.normal(0, 1, 60)).astype(np.float32) for video, own in labels.items()}
    return scores, labels


@pytest.fixture(scope="module")
def study(case):
    return smoothing.study(a_record(), *case)


def test_every_filter_width_padding_and_rescaling_is_there_once(study):
    kinds = {(c.filter, c.width, c.padding, c.min_max) for c in study.choices}
    assert len(kinds) == len(study.choices) == 2 * (1 + 3 * 5 + 3 * 5)


def test_what_knows_nothing_is_worth_a_half_until_zeros_surround_it(study, case):
    by_kind = {(c.filter, c.width, c.padding, c.min_max): c for c in study.choices}
    plain = by_kind["none", 0, "reflect", False]
    assert (plain.constant, plain.run) == (0.5, pooled_auroc(*case))
    assert plain.noise == pytest.approx(0.5, abs=0.05)
    assert by_kind["gaussian", 20, "reflect", True].constant == 0.5
    assert by_kind["gaussian", 20, "zero", True].constant > 0.9
    assert by_kind["gaussian", 20, "zero", False].noise > 0.8


def test_a_study_comes_back_and_gets_a_table_of_its_own(study, tmp_path):
    assert list(smoothing_tables.tables(tmp_path, toy=False)) == []
    path = smoothing.write(study, tmp_path)
    assert smoothing.read_all(tmp_path) == [study]
    assert path == tmp_path / "smoothing" / "amsrc" / "ped2" / f"seed0-{study.fingerprint}.json"
    assert list(smoothing_tables.tables(tmp_path, toy=True)) == []
    tables.write(tmp_path)
    assert tables.check(tmp_path) == []
    text = (tmp_path / "tables" / "smoothing.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| Gaussian 20, zero "))
    by_kind = {(c.filter, c.width, c.padding, c.min_max): c for c in study.choices}
    plain, rescaled = (by_kind["gaussian", 20, "zero", min_max] for min_max in (False, True))
    assert [cell.strip() for cell in row.split("|")[2:6]] == [
        "Ped2",
        f"{100 * plain.constant:.1f}",
        f"{100 * plain.noise:.1f} ± {100 * plain.noise_std:.1f}",
        f"{100 * plain.run:.1f}",
    ]
    assert f"{100 * rescaled.constant:.1f}" in row
    lines = (tmp_path / "tables" / "smoothing.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * len(study.choices) // 2


@pytest.mark.parametrize("change", [{"run": 91.0}, {"filter": "mean"}, {"width": None}])
def test_what_is_no_study_is_named(study, tmp_path, change):
    path = smoothing.write(study, tmp_path)
    data = json.loads(path.read_text())
    data["choices"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=path.name):
        smoothing.read_all(tmp_path)


def test_one_class_alone_has_no_figures():
    scores, labels = {"a": np.arange(5.0)}, {"a": np.ones(5, np.uint8)}
    assert {c.run for c in smoothing.study(a_record(), scores, labels).choices} == {None}
