"""The table of the studies of smoothing (`bench.evaluation.smoothing`)."""

from __future__ import annotations

from collections.abc import Iterator

from bench.evaluation.smoothing import DRAWS, Study, read_all
from bench.experiment.specs import is_toy, title_of
from bench.storage.places import Place
from bench.tables.typeset import GAP, Cell, Column, Entry, Row, Table

CAPTION = "What smoothing alone adds: frame-level AUROC in percent, all test frames of a data set together."
NOTES = (
    "Constant: the same score for every frame before smoothing. Noise: uniform, mean ± standard deviation over "
    f"{DRAWS} draws. Neither has seen a picture: what they reach beyond 50 is owed to filter, padding and rescaling.",
    "Run: the frame scores of the run in the heading before its median filter, its first frames dropped as always.",
    "Zero, reflect, nearest: what the filter sees beyond a video's ends. Gaussian: its standard deviation in frames.",
    "Min-max: then every video rescaled to [0, 1] by its own smallest and largest score, as much published code does. "
    "This project does not: its protocol is median 17, reflect, without min-max.",
)


def tables(results: Place, toy: bool) -> Iterator[Table]:
    """The table of all studies; none without a study.

    Raises:
        DataError: as for `read_all`.
    """
    rows = [row for study in read_all(results) if is_toy(study.dataset) == toy for row in _rows(study)]
    if rows:
        yield Table("smoothing", "Smoothing", CAPTION, _columns(), rows, NOTES, by="score", for_paper=False)


def _rows(study: Study) -> Iterator[Row]:
    """A row for each filter, the figures without and with rescaling next to each other."""
    by_filter: dict[str, dict[str, Cell | None]] = {}
    for choice in study.choices:
        how = "None" if choice.filter == "none" else f"{choice.filter.capitalize()} {choice.width}, {choice.padding}"
        cells = by_filter.setdefault(how, {})
        after = ", min-max" if choice.min_max else ""
        cells[f"constant{after}"] = _cell(choice.constant)
        cells[f"noise{after}"] = _cell(choice.noise, choice.noise_std)
        cells[f"run{after}"] = _cell(choice.run)
    for how, cells in by_filter.items():
        yield Row(
            group=f"{study.recipe}, seed {study.seed}, {study.fingerprint}, labels {study.label_set}",
            method=how,
            source="measured",
            recipe=study.recipe,
            dataset=study.dataset,
            cells=cells,
        )


def _cell(fraction: float | None, std: float | None = None) -> Cell | None:
    return None if fraction is None else Cell(mean=100 * fraction, std=None if std is None else 100 * std)


def _columns() -> list[Column]:
    def figure(cell: Cell | None) -> Entry:
        if cell is None:
            return GAP
        return Entry(f"{cell.mean:.1f}" + ("" if cell.std is None else f" ± {cell.std:.1f}"), value=cell.mean)

    kinds = [f"{kind}{after}" for after in ("", ", min-max") for kind in ("constant", "noise", "run")]
    return [
        ("Smoothing", "method", str),
        ("Data set", "dataset", title_of),
        *((kind.capitalize(), kind, figure) for kind in kinds),
    ]
