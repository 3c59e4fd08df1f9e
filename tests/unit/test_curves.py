"""Figures of frame scores: that they show the numbers they are given."""

import numpy as np
import pytest

from bench.evaluation import metrics
from bench.experiment.config import dump, override
from bench.experiment.recipes import build
from bench.figures import scores as curves
from bench.figures import style
from bench.figures.scores import Scored
from bench.records.names import label
from tests.results_made import FRAMES, SKIP, a_record, scores_of


def a_run(recipe: str = "amsrc", **more: object) -> Scored:
    return Scored(a_record(recipe), *scores_of("ped2"), **more)  # type: ignore[arg-type]


def runs(*runs: Scored) -> dict[str, Scored]:
    """By the names of their recipes."""
    return {run.record.recipe: run for run in runs}


def test_the_roc_curve_has_the_area_of_the_metric_and_lies_within_its_interval() -> None:
    scores, labels = scores_of("ped2")
    found = curves.roc_of(scores, labels)
    assert found is not None
    assert found.auroc == pytest.approx(metrics.pooled_auroc(scores, labels), abs=1e-12)
    assert found.interval[0] < found.auroc < found.interval[1]
    assert (found.low <= found.high).all()
    inside = np.interp(curves.GRID, found.fpr, found.tpr)
    assert (found.low <= inside + 1e-9).mean() > 0.95
    assert (inside <= found.high + 1e-9).mean() > 0.95


def test_equal_scores_are_one_step_of_the_roc_curve() -> None:
    scores = {"01": np.zeros(4, np.float32), "02": np.ones(4, np.float32)}
    labels = {"01": np.array([0, 1, 0, 1], np.uint8), "02": np.array([1, 1, 0, 1], np.uint8)}
    found = curves.roc_of(scores, labels)
    assert found is not None
    assert found.fpr.tolist() == [0, 1 / 3, 1]
    assert found.tpr.tolist() == [0, 0.6, 1]
    assert found.auroc == pytest.approx(metrics.pooled_auroc(scores, labels))


def test_the_interval_is_over_videos_and_not_over_frames() -> None:
    """Every frame a hundred times tells nothing new about another video."""
    scores, labels = scores_of("ped2")
    often = [{name: np.repeat(values, 100) for name, values in found.items()} for found in (scores, labels)]
    once, many = curves.roc_of(scores, labels), curves.roc_of(*often)
    assert once is not None
    assert many is not None
    assert many.interval == pytest.approx(once.interval)


def test_one_class_alone_has_no_roc_curve() -> None:
    scores, labels = scores_of("ped2")
    normal = {name: np.zeros_like(label) for name, label in labels.items()}
    assert curves.roc_of(scores, normal) is None
    assert curves.roc(runs(Scored(a_record(), scores, normal))) is None
    assert curves.roc({}) is None


def test_each_run_has_a_panel_and_what_learns_nothing_is_in_all_of_them() -> None:
    figure = curves.roc(runs(a_run(), a_run("baseline"), a_run("null-flow")))
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split("\n")[0] for title in titles] == ["amsrc", "baseline", "null-flow"]
    dashed = [any("learns nothing" in str(line.get_label()) for line in axes.lines) for axes in figure.axes]
    assert dashed == [True, True, False]


def test_settings_that_differ_from_the_recipe_are_in_the_titles() -> None:
    experiment = dump(override(build("amsrc", "ped2"), {"train.learning_rate": "1e-3", "train.held_out": "0"}))
    record = a_record(experiment=experiment, partial=True)
    name = "amsrc, train.held_out=0, train.learning_rate=0.001, partial data"
    assert label(record) == name
    figure = curves.roc({name: a_run()})
    assert figure is not None
    wrapped = ["amsrc, train.held_out=0,", "train.learning_rate=0.001, partial", "data"]
    assert figure.axes[0].get_title().split("\n")[:3] == wrapped
    run = Scored(record, *scores_of("ped2"))
    for drawn in (curves.videos(run, ["02"]), curves.epochs(record), style.fusion(record)):
        assert drawn is not None
        title = drawn.get_suptitle() or drawn.axes[0].get_title()
        assert title.replace("\n", " ").startswith(name)


def test_a_setting_of_the_method_has_the_name_of_its_option() -> None:
    experiment = dump(override(build("amsrc", "ped2"), {"model.width": "32"}))
    assert label(a_record(experiment=experiment)) == "amsrc, model.width=32"


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_each_column_has_numbers_below_its_last_panel(number: int) -> None:
    figure = curves.roc({str(index): a_run() for index in range(number)})
    assert figure is not None
    seen = [axes for axes in figure.axes if axes.get_visible()]
    columns = len({round(axes.get_position().x0, 3) for axes in seen})
    for index, axes in enumerate(seen):
        lowest = index + columns >= number
        assert bool(axes.get_xlabel()) == lowest
        assert any(label.get_visible() and label.get_text() for label in axes.get_xticklabels()) == lowest


def test_of_several_that_learn_nothing_the_best_is_set_beside_the_others() -> None:
    worse = a_record("null-noise")
    scores, labels = scores_of("ped2")
    noise = {name: np.zeros_like(score) for name, score in scores.items()}
    figure = curves.roc(runs(a_run(), Scored(worse, noise, labels), a_run("null-flow")))
    assert figure is not None
    dashed = [
        [str(line.get_label()) for line in axes.lines if "nothing" in str(line.get_label())] for axes in figure.axes
    ]
    assert dashed == [["null-flow, learns nothing"], ["null-flow, learns nothing"], []]


def test_a_curve_lies_at_its_frames_with_the_ground_truth_behind_it() -> None:
    run = a_run()
    figure = curves.videos(run, ["02", "no such video"])
    assert figure is not None
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == "score S"]
    x, y = line.get_data()
    assert np.asarray(x).tolist() == list(range(SKIP, FRAMES))
    assert np.asarray(y) == pytest.approx(run.scores["02"] / 1.01)  # ped2's weights: 1 and 0.01
    (shaded,) = axes.patches
    start = SKIP + 42 - 0.5
    assert shaded.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx((start, SKIP + 79.5))
    (peak,) = [line for line in axes.lines if line.get_label() == "highest score"]
    assert peak.get_xdata()[0] == SKIP + np.argmax(run.scores["02"])  # type: ignore[index]


def test_thin_lines_and_thumbnails_are_there_when_a_run_left_them() -> None:
    low, high = a_run().extremes("02")
    picture = np.zeros((9, 16, 3), np.uint8)
    scores = scores_of("ped2")[0]["02"]
    parts = dict.fromkeys(a_record().parts, scores)
    run = a_run(parts={"02": parts}, frames={"02": {high + SKIP: picture}})
    assert low != high
    figure = curves.videos(run, ["02"])
    assert figure is not None
    above, below = figure.axes
    assert [len(inset.images) for inset in above.child_axes] == [1]
    assert {*parts, "score S"} <= {str(line.get_label()) for line in below.lines}


@pytest.mark.parametrize("parts", [["only"], ["a", "b"], [*"abcdef"]])
def test_several_parts_are_drawn_under_their_names_and_a_single_one_is_the_score_itself(parts: list[str]) -> None:
    scores, labels = scores_of("ped2")
    epochs = [{"epoch": n, "auroc": 0.8, "parts": dict.fromkeys(parts, 0.7)} for n in (1, 2)]
    record = a_record(parts=dict.fromkeys(parts, 0.7), epochs=epochs)
    run = Scored(record, scores, labels, {"02": dict.fromkeys(parts, scores["02"])})
    looks = curves.looks(record)
    assert list(looks) == (parts if len(parts) > 1 else [])
    assert len({str(look) for look in looks.values()}) == len(looks), "each looks its own way"
    if len(parts) == 2:
        assert looks["a"]["linestyle"] != looks["b"]["linestyle"], "told apart without colour"
    for figure, name in ((curves.videos(run, ["02"]), "{}"), (curves.epochs(record), "{} alone")):
        assert figure is not None
        labelled = {str(line.get_label()) for line in figure.axes[0].lines}
        assert {name.format(part) for part in parts} & labelled == {name.format(part) for part in looks}


def test_scores_are_in_the_unit_of_what_standardises_them() -> None:
    for standardise, unit in (("z-score", "s.d."), ("min-max", "range")):
        experiment = dump(override(build("amsrc", "ped2"), {"score.standardise": standardise}))
        figure = curves.videos(Scored(a_record(experiment=experiment), *scores_of("ped2")), ["02"])
        assert figure is not None
        assert figure.axes[0].get_ylabel() == f"score ({unit})"


def test_epochs_say_what_the_choice_by_test_labels_adds() -> None:
    figure = curves.epochs(a_record())
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title().endswith("adds 4.0 points")
    assert "best epoch: 1, AUROC 0.8800" in {str(line.get_label()) for line in axes.lines}
    labels = {str(line.get_label()) for line in axes.lines}
    assert {part for part in a_record().parts if f"{part} alone" in labels} == {"consistency"}, "of the other no AUROC"


def test_a_single_epoch_leaves_nothing_to_choose() -> None:
    assert curves.epochs(a_record(epochs=[{"epoch": 1, "auroc": 0.5}])) is None
    assert curves.epochs(a_record("null-flow")) is None


def test_equal_scores_give_equal_bytes() -> None:
    for draw in (
        lambda: curves.roc(runs(a_run())),
        lambda: curves.videos(a_run(), ["02"]),
        lambda: curves.epochs(a_record()),
    ):
        once, again = draw(), draw()
        assert once is not None
        assert again is not None
        assert style.render(once, "svg") == style.render(again, "svg")
        assert style.render(once, "png") == style.render(again, "png")
