"""The one style of all figures; and those of one record or search alone, drawn wherever `results/` is.

Each function gives a matplotlib figure, or None where its record has nothing to draw; `render` gives its bytes.
Nothing depends on the user's matplotlibrc: equal records give equal bytes, nothing is told by colour
alone, and text is drawn as outlines, so no font needs to be installed.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import combinations
from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from bench.records.names import label as label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from bench.records.records import RunRecord, SearchRecord

Look = dict[str, Any]
P = ParamSpec("P")

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.titlesize": "medium",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "amsrc-bench",  # else the names inside an SVG are drawn by lot
}
WITHOUT_DATE: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
COLOURS = "cividis"  # its lightness grows with the value: also right in grey
BEST: Look = {
    "marker": "*",
    "markersize": 13,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "linestyle": "none",
}
UNFINISHED: dict[str, Look] = {
    "pruned": {"marker": "v", "markerfacecolor": "none", "markeredgecolor": "0.4", "linestyle": "none"},
    "failed": {"marker": "x", "markeredgecolor": "0.4", "linestyle": "none"},
}
LEAST_TRIALS = 3
DRAWING = Lock()


@contextmanager
def _styled() -> Iterator[None]:
    """The one style; held by one thread at a time, because matplotlib's settings belong to the process."""
    with DRAWING, style.context(STYLE, after_reset=True):
        yield


def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file: a PNG of 150 dots per inch, or an SVG without fonts to look up."""
    content = io.BytesIO()
    with _styled():
        figure.savefig(content, format=kind, metadata=WITHOUT_DATE[kind])
    return content.getvalue()


def drawn(draw: Callable[Concatenate[Figure, P], bool]) -> Callable[P, Figure | None]:
    """Make a function that draws on a figure one that gives the figure, or None when it drew nothing.

    The layout is settled here, once: else each rendering would start from where the one before left it.
    """

    @wraps(draw)
    def settled(*args: P.args, **kwargs: P.kwargs) -> Figure | None:
        with _styled():
            figure = Figure(layout="constrained")
            if not draw(figure, *args, **kwargs):
                return None
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return settled


def wrapped(title: str, width: int) -> str:
    """A title in lines of so many characters, parted between words."""
    return textwrap.fill(title, width, break_on_hyphens=False)


@drawn
def fusion(figure: Figure, record: RunRecord) -> bool:
    """AUROC over the ratio of the two parts of a score, in the last epoch of a cell.

    Args:
        record: nothing is drawn where its `fusion` is empty or its AUROC undefined.
    """
    curve = record.fusion
    shares, aurocs = (np.array(curve.get(name, []), float) for name in ("share", "auroc"))
    if not np.isfinite(aurocs).any():
        return False
    best, own, part = curve["best_share"], curve["own_share"], curve["part"]
    (other,) = record.parts.keys() - {part}
    points: list[tuple[str, float, float, Look]] = [
        (f"best, by the test labels: {best:.3f}", best, curve["best_auroc"], BEST),
        (f"the recipe's own: {own:.3f}", own, curve["own_auroc"], {"marker": "D", "color": "black"}),
        (f"{other} alone", shares[0], aurocs[0], {"marker": "o", "color": "0.4"}),
        (f"{part} alone", shares[-1], aurocs[-1], {"marker": "s", "color": "0.4"}),
    ]
    figure.set_size_inches(5.6, 4.5)
    axes = figure.subplots()
    axes.plot(shares, aurocs, color="0.2", linewidth=1.2)
    for name, share, auroc, look in points:
        label = f"{name}, AUROC {auroc:.4f}"
        axes.plot([share], [auroc], label=label, clip_on=False, zorder=3, **{"linestyle": "none", **look})
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of {part} in the weights")
    axes.set_ylabel("AUROC")
    axes.set_title(wrapped(f"{label_of(record)} on {record.dataset}, seed {record.seed}: last epoch", 66))
    figure.legend(loc="outside lower center")
    return True


@drawn
def importances(figure: Figure, search: SearchRecord) -> bool:
    """How much each parameter of a search tells good trials from the others.

    Source: PED-ANOVA (Watanabe et al., IJCAI 2023) as in Optuna, at its own settings: what sets the best tenth of
    the trials apart, the sum being 1; of a joint search: those nearest to the Pareto front.

    Args:
        search: nothing is drawn for fewer than 3 done trials, a single parameter or trials that are all equally good.
    """
    trials = _done(search)
    if len(trials) < LEAST_TRIALS or len(search.space) < 2 or len({tuple(trial["values"]) for trial in trials}) < 2:
        return False
    found = sorted(_ped_anova(search, trials).items(), key=lambda item: (item[1], item[0]))
    figure.set_size_inches(5.6, 1.2 + 0.35 * len(found))
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in found], [value for _, value in found], color="0.75", edgecolor="black")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("importance (PED-ANOVA)")
    axes.set_title(f"{search.study}: {len(trials)} trials")
    return True


def _ped_anova(search: SearchRecord, trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(*_range(search, name), log=True) for name in search.space
    }
    study = optuna.create_study(directions=[StudyDirection.MAXIMIZE] * len(trials[0]["values"]))
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(params=trial["params"], distributions=distributions, values=trial["values"])
        )
    return dict(optuna.importance.get_param_importances(study))


@drawn
def landscape(figure: Figure, search: SearchRecord) -> bool:
    """The trials of a search over its parameters, on logarithmic axes, the best one marked.

    One parameter: its value below, the objective to the left. More: each pair of parameters, the objective as
    lightness. A joint search has two objectives, side by side.

    Args:
        search: nothing is drawn without a done trial.
    """
    trials = _done(search)
    if not trials:
        return False
    names = list(search.space)
    measure = "AUROC of pseudo-anomalies" if search.rule == "label-free" else "AUROC"
    objectives = [f"mean {measure}", f"worst {measure}"] if search.joint else [measure]
    side = 4.2 if len(names) < 3 else 2.4 * (len(names) - 1)
    figure.set_size_inches(len(objectives) * (side + 0.9), side + 0.9)
    figure.suptitle(f"{search.study}: objectives under the rule {search.rule}", fontsize="medium")
    for index, (part, title) in enumerate(zip(_parts(figure, len(objectives)), objectives, strict=True)):
        if len(names) == 1:
            _curve(part.subplots(), search, names[0], index, title)
        else:
            _pairs(part, search, names, index, title)
    axes = figure.axes[0]
    marks = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    figure.legend(marks, [str(line.get_label()) for line in marks], loc="outside lower center", ncols=len(marks))
    return True


def _parts(figure: Figure, number: int) -> list[SubFigure]:
    return list(figure.subfigures(1, number, squeeze=False).flat)


def _curve(axes: Axes, search: SearchRecord, name: str, index: int, title: str) -> None:
    """One parameter: a line through the done trials; the others, which have no value, along the lower edge."""
    done = sorted(_done(search), key=lambda trial: float(trial["params"][name]))
    best = _best(search, index)
    axes.plot(*_columns(done, name, index), marker="o", markersize=4, color="0.2", linewidth=0.8, label="_done")
    axes.plot([best["params"][name]], [best["values"][index]], label="best", **BEST)
    for state, look in UNFINISHED.items():
        places = [trial["params"][name] for trial in search.trials if trial["state"] == state]
        if places:
            edge = axes.get_xaxis_transform()
            axes.plot(places, [0.02] * len(places), transform=edge, label=state, clip_on=False, **look)
    _log_axis(search, name, axes, "x")
    axes.set_xlabel(name)
    axes.set_ylabel(title)
    axes.set_title(_in_words(best, index))


def _columns(trials: Sequence[Mapping[str, Any]], name: str, index: int) -> tuple[list[float], list[float]]:
    return [trial["params"][name] for trial in trials], [trial["values"][index] for trial in trials]


def _pairs(part: SubFigure, search: SearchRecord, names: Sequence[str], index: int, title: str) -> None:
    """Every pair of parameters, as the lower triangle of their matrix."""
    done = sorted(_done(search), key=lambda trial: float(trial["values"][index]))  # the best on top
    best = _best(search, index)
    size = len(names) - 1
    grid = part.subplots(size, size, squeeze=False, sharex="col", sharey="row")
    for row, column in combinations(range(size), 2):
        grid[row, column].set_visible(False)
    for column, row in combinations(range(len(names)), 2):
        axes, x, y = grid[row - 1, column], names[column], names[row]
        for state, look in UNFINISHED.items():
            ended = [trial["params"] for trial in search.trials if trial["state"] == state]
            if ended:
                axes.plot([params[x] for params in ended], [params[y] for params in ended], label=state, **look)
        across, up, values = zip(*((t["params"][x], t["params"][y], t["values"][index]) for t in done), strict=True)
        shown = axes.scatter(across, up, c=values, cmap=COLOURS, s=28, edgecolors="black", linewidths=0.6, zorder=2)
        axes.plot([best["params"][x]], [best["params"][y]], label="best", zorder=3, **BEST)
        _log_axis(search, x, axes, "x")
        _log_axis(search, y, axes, "y")
        if row == size:
            axes.set_xlabel(x)
        if column == 0:
            axes.set_ylabel(y)
    grid[0, 0].set_title(_in_words(best, index))
    part.colorbar(shown, ax=list(grid.flat), label=title)


def _log_axis(search: SearchRecord, name: str, axes: Axes, which: Literal["x", "y"]) -> None:
    low, high = _range(search, name)
    margin = (high / low) ** 0.04
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / margin, high * margin)})


def _range(search: SearchRecord, name: str) -> tuple[float, float]:
    """The searched range of a parameter, widened to what was tried: a trial may be given by hand."""
    values = [*search.space[name], *(trial["params"][name] for trial in search.trials)]
    return min(values), max(values)


def _done(search: SearchRecord) -> list[dict[str, Any]]:
    """The trials with numbers, in their order."""
    return [
        trial
        for trial in search.trials
        if trial["state"] == "done" and trial["values"] and all(map(math.isfinite, trial["values"]))
    ]


def _best(search: SearchRecord, index: int) -> dict[str, Any]:
    """The first of the best trials."""
    return max(_done(search), key=lambda trial: float(trial["values"][index]))


def _in_words(trial: Mapping[str, Any], index: int) -> str:
    return f"best: {trial['values'][index]:.4f}, trial {trial['number']}"
