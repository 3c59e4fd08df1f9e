"""Figures: that they show what the record says, and that equal records give equal bytes."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.experiment.recipes import build
from bench.figures import style
from bench.records.records import RunRecord, SearchRecord
from tests.results_made import record_of

SPACE = {
    "loss.consistency": [0.01, 100.0],
    "loss.intensity": [0.1, 10.0],
    "loss.gradient": [0.1, 10.0],
    "train.learning_rate": [5e-5, 2e-3],
}
FUSION = {
    "part": "consistency",
    "share": [0.0, 0.25, 0.5, 0.75, 1.0],
    "auroc": [0.7, 0.8, 0.9, 0.85, 0.6],
    "best_share": 0.5,
    "best_auroc": 0.9,
    "own_share": 0.75,
    "own_auroc": 0.85,
}


def a_record(**fusion: object) -> RunRecord:
    return record_of(build("amsrc", "ped2"), parts={"consistency": 0.6, "prediction": 0.7}, fusion=fusion)


def a_search(
    number: int = 2, trials: int = 12, *, joint: bool = False, value: Callable[[float], float] | None = None
) -> SearchRecord:
    """Trials spread at random; trial 1 failed, trial 2 was pruned, the consistency weight decides: best at 1."""
    value = value or (lambda consistency: 0.9 - 0.01 * math.log10(consistency) ** 2)
    draw = np.random.default_rng(0)
    space = dict(list(SPACE.items())[:number])
    rows = []
    for index in range(trials):
        params = {name: float(np.exp(draw.uniform(*np.log(ends)))) for name, ends in space.items()}
        state = {1: "failed", 2: "pruned"}.get(index, "done")
        values = [value(params["loss.consistency"])] if state == "done" else None
        if values and joint:
            values = [values[0], 1 - values[0]]  # what is best on average is worst in the worst
        rows.append({"number": index, "state": state, "params": params, "values": values, "fingerprints": []})
    return SearchRecord(
        study="amsrc-ped2-crossfit-12345678",
        recipe="amsrc",
        datasets=["ped2"],
        seeds=[0],
        joint=joint,
        rule="crossfit",
        space=space,
        sampler="QMCSampler(seed=0)",
        proposals="",
        reference=[],
        trials=rows,
        chosen={},
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:00:00+00:00",
        git={},
        hardware={},
        versions={},
    )


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def points(figure: Figure, start: str, panel: int = 0) -> list[tuple[float, float]]:
    """Where the marks whose label starts so are in a panel."""
    found = [line for line in figure.axes[panel].lines if str(line.get_label()).startswith(start)]
    return [(float(x), float(y)) for line in found for x, y in zip(*line.get_data(), strict=True)]


def a_figure_of_each_kind() -> dict[str, Figure]:
    return {
        "fusion": drawn(style.fusion(a_record(**FUSION))),
        "importances": drawn(style.importances(a_search(3))),
        "line": drawn(style.landscape(a_search(1))),
        "pair": drawn(style.landscape(a_search(2, joint=True))),
    }


def test_equal_records_give_equal_bytes_whatever_was_rendered_before_and_whatever_the_user_set() -> None:
    first = {name: style.render(figure, "svg") for name, figure in a_figure_of_each_kind().items()}
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "none", "savefig.dpi": 10, "axes.grid": False}):
        again = a_figure_of_each_kind()
        pictures = {name: style.render(figure, "png") for name, figure in again.items()}
        assert {name: style.render(figure, "svg") for name, figure in again.items()} == first
    for name, figure in a_figure_of_each_kind().items():
        assert style.render(figure, "png") == pictures[name]
        assert pictures[name].startswith(b"\x89PNG")


def test_figures_drawn_at_the_same_time_do_not_disturb_each_other_or_the_users_settings() -> None:
    record = a_record(**FUSION)
    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        rendered = set(pool.map(lambda _: style.render(drawn(style.fusion(record)), "svg"), range(8)))
    assert len(rendered) == 1
    assert dict(matplotlib.rcParams) == before


def test_another_process_gives_the_same_bytes_and_makes_no_state_of_pyplot() -> None:
    here = style.render(drawn(style.fusion(a_record(**FUSION))), "svg")
    code = (
        "import sys\nfrom importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('made', {__file__!r})\n"
        "made = module_from_spec(spec)\nspec.loader.exec_module(made)\n"
        "figure = made.style.fusion(made.a_record(**made.FUSION))\n"
        "sys.stdout.buffer.write(made.style.render(figure, 'svg'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, env=os.environ | {"PYTHONHASHSEED": "7"}
    )
    assert there.returncode == 0, there.stderr.decode()
    assert there.stdout == here


def test_an_svg_needs_no_font_and_holds_no_date() -> None:
    for figure in a_figure_of_each_kind().values():
        text = style.render(figure, "svg").decode()
        assert "<text" not in text
        assert "font-family" not in text
        assert "<dc:date>" not in text


def test_fusion_shows_the_curve_its_best_the_recipes_own_weights_and_both_ends() -> None:
    figure = drawn(style.fusion(a_record(**FUSION)))
    (axes,) = figure.axes
    curve = axes.lines[0].get_data()
    assert [list(values) for values in curve] == [FUSION["share"], FUSION["auroc"]]
    assert points(figure, "best") == [(0.5, 0.9)]
    assert points(figure, "the recipe's own") == [(0.75, 0.85)]
    assert points(figure, "prediction alone") == [(0, 0.7)]
    assert points(figure, "consistency alone") == [(1, 0.6)]
    assert "consistency" in axes.get_xlabel(), "the part whose share is varied"
    assert len({line.get_marker() for line in axes.lines[1:]}) == 4, "told apart without colour"
    (legend,) = figure.legends
    assert legend.texts[0].get_text() == "best, by the test labels: 0.500, AUROC 0.9000"


@pytest.mark.parametrize("fusion", [{}, FUSION | {"auroc": [None] * 5, "best_auroc": None, "own_auroc": None}])
def test_a_cell_without_a_curve_has_no_figure(fusion: dict[str, object]) -> None:
    assert style.fusion(a_record(**fusion)) is None


def test_the_parameter_that_alone_decides_is_the_most_important() -> None:
    (axes,) = drawn(style.importances(a_search(3, 60))).axes
    widths = [bar.get_width() for bar in axes.patches]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "loss.consistency", "the longest bar is at the top"
    assert widths == sorted(widths)
    assert sum(widths) == pytest.approx(1)
    assert widths[-1] > 0.5
    assert "58 trials" in axes.get_title()


@pytest.mark.parametrize(
    "search",
    [
        a_search(2, 4),  # two of them done
        a_search(1, 12),  # one parameter has all the importance there is
        a_search(2, 12, value=lambda consistency: 0.5),
    ],
)
def test_importances_that_would_say_nothing_are_not_drawn(search: SearchRecord) -> None:
    assert style.importances(search) is None


@pytest.mark.parametrize(("number", "panels"), [(2, 1), (3, 3), (4, 6)])
def test_the_landscape_shows_every_pair_once_with_the_best_trial_marked(number: int, panels: int) -> None:
    search = a_search(number)
    done = [trial for trial in search.trials if trial["state"] == "done"]
    best = max(done, key=lambda trial: trial["values"][0])["params"]
    figure = drawn(style.landscape(search))
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.collections and axes.get_xscale() == "log"]
    assert len(shown) == panels
    places = set()
    for axes in shown:
        (star,) = (line for line in axes.lines if line.get_label() == "best")
        (x,), (y,) = star.get_data()
        (pair,) = ((a, b) for a in best for b in best if (best[a], best[b]) == (x, y))
        places.add(frozenset(pair))
        (dots,) = axes.collections
        seen = {(*place, value) for place, value in zip(map(tuple, dots.get_offsets()), dots.get_array(), strict=True)}
        assert seen == {(t["params"][pair[0]], t["params"][pair[1]], t["values"][0]) for t in done}
    assert len(places) == panels


def test_failed_and_pruned_trials_have_marks_of_their_own() -> None:
    for number in (1, 2):
        search = a_search(number)
        figure = drawn(style.landscape(search))
        for index, state in enumerate(("failed", "pruned"), 1):
            ((x, _),) = points(figure, state)
            assert x == search.trials[index]["params"]["loss.consistency"]
        names = [text.get_text() for text in figure.legends[0].texts]
        assert sorted(names) == ["best", "failed", "pruned"]


def test_the_landscape_of_one_parameter_is_a_line_from_low_to_high() -> None:
    search = a_search(1)
    figure = drawn(style.landscape(search))
    done = sorted((t["params"]["loss.consistency"], t["values"][0]) for t in search.trials if t["state"] == "done")
    assert points(figure, "_done") == done
    assert points(figure, "best") == [max(done, key=lambda point: point[1])]
    assert figure.axes[0].get_xscale() == "log"


def test_a_joint_search_marks_the_best_of_each_objective() -> None:
    search = a_search(1, joint=True)
    figure = drawn(style.landscape(search))
    done = [trial for trial in search.trials if trial["values"]]
    for panel, title in enumerate(("mean AUROC", "worst AUROC")):
        best = max(done, key=lambda trial: trial["values"][panel])
        assert points(figure, "best", panel) == [(best["params"]["loss.consistency"], best["values"][panel])]
        assert figure.axes[panel].get_ylabel() == title
    assert points(figure, "best", 0) != points(figure, "best", 1)


def test_a_trial_given_by_hand_outside_the_space_is_in_the_picture_and_counts() -> None:
    search = a_search(2, 30)
    search.trials[5]["params"]["loss.consistency"] = 1000.0
    (low, high) = drawn(style.landscape(search)).axes[0].get_xlim()
    assert low < 0.01 < 1000 < high
    assert style.importances(search) is not None


def test_a_search_without_a_finished_trial_has_no_landscape() -> None:
    assert style.landscape(a_search(2, 0)) is None
    search = a_search(2, 3)
    search.trials[0]["state"] = "failed"
    assert style.landscape(search) is None
