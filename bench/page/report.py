"""`results/` -> one HTML page: what was run, tables, figures, videos, protocol, provenance of every number, failures.

The page holds all it shows: it opens from a disk or a mail, asks no server for anything, and works without a mouse.
Its template, style and script lie in `bench/page`. Needs neither torch nor Ray; the same results give the same page.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amsrc.errors import DataError
from bench import ROOT
from bench.experiment.config import leaves
from bench.experiment.recipes import recipe_of
from bench.experiment.rules import RULES
from bench.experiment.specs import DATASETS, SPECS, TOY
from bench.experiment.specs import title_of as named
from bench.figures import files, style
from bench.page import videos
from bench.records.names import by_part, changes, label, latest, percent
from bench.records.records import RunRecord, SearchRecord, read_all, read_searches
from bench.storage.places import Place, write_file
from bench.tables import tables

PAGE = Path(__file__).resolve().parent
PROTOCOL = "PROTOCOL.md"  # in a folder of results
OWN_PROTOCOL = ROOT / "results" / PROTOCOL
LARGEST = 9_500_000  # bytes: what a mail takes
CAPTIONS = {
    "videos": "Scores over test videos, standardised by the training cubes; shaded: abnormal by the ground truth",
    "errors": "Target, predictions and squared errors of cubes that no score chose; all errors on one scale",
    "features": "Where the features of a normal and an abnormal cube are zero",
    "frame": "The frame of the highest score, its boxes by their score, next to the curve of its video",
    "epochs": "AUROC over the epochs: what choosing the epoch by test labels would gain",
    "fusion": "AUROC over the ratio of the two parts of the score, the recipe's own ratio marked",
    "roc": "ROC curves with 95 % intervals over resampled videos; dashed: a trivial baseline",
    "importances": "How much each parameter of the search tells good trials from the others",
    "landscape": "The trials of the search over its parameters, the best one marked",
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    source: str
    """`data:` address."""
    alt: str
    caption: str


def write(results: Place, out: Place, logged: Mapping[str, str]) -> tuple[Place, int]:
    """Write the page as `index.html`; returns its path and size in bytes.

    Args:
        logged: MLflow's run ids by fingerprint, as far as they are known.

    Raises:
        DataError: a record or a file of it is damaged, there is no record, or the page would be too large.
        RunError: the page cannot be written.
    """
    content = build(results, logged).encode()
    path = out / "index.html"
    write_file(path, content)
    return path, len(content)


def build(results: Place, logged: Mapping[str, str] | None = None) -> str:
    """The page; arguments and errors as for `write`."""
    records, searches = read_all(results), read_searches(results)
    if not records:
        raise DataError(f"{results} has no records to report. `amsrc-bench sweep --toy` makes some in minutes.")
    names = in_order(record.dataset for record in records)
    browsed = sorted(videos.runs(results, records), key=lambda run: names.index(run["dataset"]))
    strips = videos.strips(results, records)
    page = {
        "about": about(records, searches),
        "findings": list(findings(records)),
        "tables": tables.gathered(results, records),
        "runs": every_run(records),
        "searches": [_search(search) for search in searches],
        "galleries": list(_galleries(results, records)),
        "protocol": protocol(results),
        "records": [_provenance(record, (logged or {}).get(record.fingerprint)) for record in records],
        "failures": list(failures(records, searches)),
        "make_frames": _make_frames(records, sorted(strips)),
    }
    data = videos.as_script(browsed, {})
    without = len(_rendered({**page, "data": data, "left_out": ""}).encode())
    if without > LARGEST:
        raise DataError(_too_large(without, {"figures": page.pop("galleries"), "scores and boxes": data, **page}))
    small, left_out = videos.thinned(strips, LARGEST - without)
    return _rendered({**page, "data": videos.as_script(browsed, small), "left_out": left_out})


def _too_large(size: int, page: Mapping[str, Any]) -> str:
    """Why a page cannot be, with the three parts of it that take the most room."""
    sizes = {name: len(json.dumps(part, default=str)) for name, part in page.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    parts = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in largest)
    return (
        f"The page would take {size / 1e6:.1f} MB without any frame of a video, more than the {LARGEST / 1e6} that can "
        f"be sent: {parts}. Report fewer records: --results with a part of them."
    )


def _rendered(page: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    assets = {name: (PAGE / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template("page.html").render(page, **assets)


# -- what was run --------------------------------------------------------------------------------------------


def about(records: Sequence[RunRecord], searches: Sequence[SearchRecord]) -> dict[str, str]:
    """What was run, in a few lines: name of the line and text."""
    states = Counter(record.status for record in records)
    sets = Counter(record.dataset for record in records)
    missing = [spec.title for name, spec in SPECS.items() if not sets.keys() & {name, TOY + name}]
    days = sorted(record.finished[:10] for record in records)
    commits = sorted({_commit(record) for record in records})
    trials = sum(len(search.trials) for search in searches)
    return {
        "Runs": ", ".join(f"{number} {state}" for state, number in sorted(states.items())),
        "Data sets": ", ".join(f"{named(name)} ({sets[name]})" for name in in_order(sets)),
        "Not measured": ", ".join(missing) or "nothing is missing",
        "Seeds": ", ".join(map(str, sorted({record.seed for record in records}))),
        "Searches": f"{len(searches)} with {trials} trials" if searches else "none",
        "Measured": days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        "Machines": "; ".join(sorted({_machine(record) for record in records})),
        "Code": f"{len(commits)} commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}",
    }


def in_order(names: Iterable[str]) -> list[str]:
    """Data sets as the tables have them: those of the paper in its order, then all others."""
    return sorted(set(names), key=lambda name: (DATASETS.index(name) if name in DATASETS else len(DATASETS), name))


def _commit(record: RunRecord) -> str:
    sha = record.git.get("sha")
    return f"{str(sha)[:10]}{' with changes' if record.git.get('dirty') else ''}" if sha else "unknown"


def _machine(record: RunRecord) -> str:
    found = record.hardware
    gpus = ", ".join(
        str(gpu.get("name", gpu)) if isinstance(gpu, dict) else str(gpu) for gpu in found.get("gpus") or []
    )
    return f"{found.get('cpu', 'unknown processor')}, {found.get('cores', '?')} cores, {gpus or 'no GPU'}"


def findings(records: Sequence[RunRecord]) -> Iterator[str]:
    """For each data set the best trained run next to the best trivial baseline.

    Runs on a part of a data set do not count, and of one run recorded twice the later record does.
    """
    measured = [r for r in latest(records) if not r.partial and r.metrics.get("auroc") is not None]
    for dataset in in_order(record.dataset for record in measured):
        own = [record for record in measured if record.dataset == dataset]
        learned = [record for record in own if record.learns]
        nulls = [record for record in own if not record.learns]
        best = [
            f"the best {kind} (of {len(runs)}) is {label(run)}, seed {run.seed}: {percent(run.metric('auroc'))}"
            for kind, runs in (("trained run", learned), ("trivial baseline", nulls))
            if (run := _best(runs))
        ]
        if not (learned and nulls):
            best.append(f"there is {'no trivial baseline' if learned else 'nothing trained'} to compare it with")
        chosen = "AUROC in percent; the best are chosen by it, on the test labels"
        yield f"{named(dataset)}: {'; '.join(best)} ({chosen})."


def _best(records: Sequence[RunRecord]) -> RunRecord | None:
    return max(records, key=lambda record: float(_single(record.metrics["auroc"])), default=None)


def _single(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -1.0


def every_run(records: Sequence[RunRecord]) -> dict[str, Any]:
    """One line a record, with every metric that any of them has; trivial baselines and failures included."""
    keys = list(dict.fromkeys(key for record in records for key in record.metrics))
    lines = []
    for record in records:
        name = ", ".join([record.recipe, *changes(record)])
        kind = "trained" if record.learns else "learns nothing"
        cells = [
            named(record.dataset),
            str(record.seed),
            kind,
            record.boxes.partition(":")[0],
            record.status + (", partial data" if record.partial else ""),
        ]
        lines.append(
            {
                "name": name,
                "id": record.fingerprint,
                "cells": cells,
                "figures": [*(shown(record.metrics.get(key)) for key in keys), by_part(record.parts, percent) or "-"],
            }
        )
    heads = [key.replace("_", " ").replace("auroc", "AUROC") for key in keys]
    return {"metrics": [*heads, "parts alone"], "lines": lines}


def shown(value: Any) -> str:
    """A value of a record for people: fractions in percent, counts as they are, intervals as two figures."""
    if isinstance(value, list | tuple):
        return " to ".join(map(shown, value)) if value else "-"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return percent(value) if isinstance(value, float) else str(value)


# -- text --------------------------------------------------------------------------------------------------


def protocol(results: Place) -> str:
    """Protocol and numbered deviations as HTML: those of these results, or else the project's own."""
    from markdown_it import MarkdownIt

    for path in (results / PROTOCOL, OWN_PROTOCOL):
        if path.is_file():
            _, *sections = re.split(r"(?m)^## ", path.read_text(encoding="utf-8"))
            if sections:
                renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
                return str(renderer.render("\n".join(f"### {section}" for section in sections)))
    return f"<p>These results have no {PROTOCOL} that says how they were measured.</p>"


# -- figures -------------------------------------------------------------------------------------------------


def _galleries(results: Place, records: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    """The figures of each data set: its ROC curves, and those of one run that is looked into."""
    for dataset in in_order(record.dataset for record in records):
        own = [record for record in files.shown(records) if record.dataset == dataset]
        compared = files.compared(records, dataset)
        names = files.labels(compared)
        reached = " ".join(f"{names[record.fingerprint]}: {_reached(record)}." for record in compared)
        pictures = [_drawn("roc", named(dataset), files.roc(results, records, dataset), reached)]
        run = _looked_into(results, own)
        if run is not None:
            about = f"{label(run)} on {named(dataset)}, seed {run.seed}"
            reached = f"The run has {_reached(run)}."
            pictures += [*_of_pixels(results, run, about, reached), *_of_scores(results, run, about, reached)]
        yield {
            "title": named(dataset),
            "run": run and f"{label(run)}, seed {run.seed}, {run.fingerprint}",
            "pictures": [picture for picture in pictures if picture],
            "command": files.command(run) if run and run.learns and not files.pictured(results, run) else "",
        }


def _reached(record: RunRecord) -> str:
    """What a run reached, for those who do not see its figure."""
    ends = record.metrics.get("auroc_interval")
    interval = f", 95 % interval {shown(ends)}" if ends else ""
    return f"AUROC {percent(record.metric('auroc'))}{interval}"


def _looked_into(results: Place, records: Sequence[RunRecord]) -> RunRecord | None:
    """The run whose figures the page shows: one with pictures of its cubes, else a method's own recipe, else any."""

    def rank(record: RunRecord) -> tuple[bool, bool, bool]:
        own = recipe_of(record.recipe).kind == "method"
        return record.learns and files.pictured(results, record), own, record.learns

    return max(records, key=rank, default=None)


def _of_scores(results: Place, record: RunRecord, about: str, reached: str) -> Iterator[Picture | None]:
    run = files.scored(results, record)
    if run is not None:
        for name, figure in files.of_run(run).items():
            yield _drawn(name, about, figure, reached)


def _of_pixels(results: Place, record: RunRecord, about: str, reached: str) -> Iterator[Picture]:
    for name in files.FROM_PIXELS:
        path = files.folder_of(results, record) / f"{name}.svg"
        if path.is_file():
            yield _picture(name, about, path.read_bytes(), reached)


def _drawn(name: str, about: str, figure: Any, reached: str = "") -> Picture | None:
    return None if figure is None else _picture(name, about, style.render(figure, "svg"), reached)


def _picture(name: str, about: str, content: bytes, reached: str = "") -> Picture:
    source = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
    return Picture(source, f"{about}. {CAPTIONS[name]}. {reached}".strip(), f"{CAPTIONS[name]} ({about}).")


def _make_frames(records: Sequence[RunRecord], there: Sequence[str]) -> list[str]:
    """Commands that make the frames of videos which the browser lacks."""
    lacking = [record for record in files.shown(records) if record.dataset not in there]
    first = {record.dataset: record for record in reversed(lacking)}
    return [files.command(record) for _, record in sorted(first.items())]


def _search(search: SearchRecord) -> dict[str, Any]:
    drawn = {"importances": style.importances(search), "landscape": style.landscape(search)}
    chosen = [
        [named(dataset), *(percent(found.get(rule, {}).get("auroc")) for rule in RULES)]
        for dataset, found in search.chosen.items()
    ]
    trials = [
        [
            str(trial["number"]),
            str(trial["state"]),
            *(f"{trial['params'].get(name, math.nan):.4g}" for name in search.space),
            *(percent(value) for value in trial.get("values") or [None]),
        ]
        for trial in search.trials
    ]
    return {
        "study": search.study,
        "about": f"{search.sampler}; objective under rule {search.rule}. {search.proposals}",
        "rules": list(RULES),
        "chosen": chosen,
        "head": ["trial", "state", *search.space, *(["mean", "worst"] if search.joint else ["objective"])],
        "trials": trials,
        "pictures": [p for name, figure in drawn.items() if (p := _drawn(name, f"Search {search.study}", figure))],
    }


# -- provenance and failures ---------------------------------------------------------------------------------


def _provenance(record: RunRecord, run_id: str | None) -> dict[str, Any]:
    """Everything that a record says of its origin."""
    left_out = {"metrics", "parts", "rules", "fusion", "epochs", "experiment", "recipe", "dataset", "seed", "error"}
    facts = {name: value for name, value in leaves(asdict(record)) if name.partition(".")[0] not in left_out}
    return {
        "id": record.fingerprint,
        "title": f"{record.recipe} on {named(record.dataset)}, seed {record.seed}",
        "status": record.status,
        "facts": {
            **{name.replace("_", " "): _text(value) for name, value in facts.items()},
            "MLflow run": run_id or "not known; give --home or --mlflow to look for it",
        },
        "rules": [
            [
                rule,
                percent(found.get("auroc")),
                _text(found.get("epoch")),
                by_part(found.get("weights") or {}, _text) or "-",
            ]
            for rule, found in record.rules.items()
        ],
        "experiment": json.dumps(record.experiment, indent=1),
    }


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def failures(records: Iterable[RunRecord], searches: Iterable[SearchRecord]) -> Iterator[dict[str, str]]:
    """What gave no number, and why."""
    for record in records:
        where = f"{record.recipe} on {named(record.dataset)}, seed {record.seed}"
        if record.status != "done":
            yield {
                "what": where,
                "state": record.status,
                "why": record.error or "no reason recorded",
                "id": record.fingerprint,
            }
        elif record.metrics.get("auroc") is None:
            yield {
                "what": where,
                "state": "undefined",
                "why": "the scored frames are of one class",
                "id": record.fingerprint,
            }
    for search in searches:
        for trial in search.trials:
            if trial["state"] != "done":
                params = ", ".join(f"{name} {value:.4g}" for name, value in trial["params"].items())
                what = f"{search.study}, trial {trial['number']}"
                yield {"what": what, "state": trial["state"], "why": params, "id": ""}
