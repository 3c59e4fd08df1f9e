"""A data set is its specification and the values of its recipes; a new one needs nothing else."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from amsrc.errors import ConfigError
from bench.cli import main, options
from bench.data import datasets, download, toy
from bench.experiment.config import check
from bench.experiment.recipes import PAPER, build
from bench.experiment.specs import DATASETS, LABEL_SETS, SPECS, TOYS, Spec, is_toy, original, spec_of, title_of
from bench.figures import files, scores
from bench.page import report
from bench.records.records import write
from bench.tables import tables
from tests.results_made import a_record, scores_of

KITCHEN = Spec(
    title="Kitchen",
    folders=("kitchen",),
    places={"train": ("training",), "test": ("testing",)},
    videos={"train": 1, "test": 1},
    frames={"train": 6, "test": 6},
    per_video={"train": {}, "test": {}},
    size=(64, 48),
    abnormal={"official": 3},
    masks=(),
    note="Nobody cooks in these kitchens.",
    plotted=(2, 5),
    page="https://kitchen.example",
    by_hand="\n    training/01/000.jpg ...",
    citation="A. Cook. Kitchens. 2020.",
)


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data set that nothing but a specification and the values of a recipe tells of."""
    monkeypatch.setitem(SPECS, "kitchen", KITCHEN)
    monkeypatch.setitem(PAPER, "kitchen", PAPER["ped2"])
    DATASETS.append("kitchen")
    yield "kitchen"
    DATASETS.remove("kitchen")


def test_a_new_data_set_has_recipes_and_is_found_on_disk(kitchen: str, tmp_path: Path) -> None:
    check(build("amsrc-small", kitchen))
    for split in ("training", "testing"):
        (tmp_path / "kitchen" / split / "01").mkdir(parents=True)
        for frame in range(6):
            cv2.imwrite(str(tmp_path / "kitchen" / split / "01" / f"{frame:03d}.jpg"), np.zeros((48, 64, 3), np.uint8))
    assert datasets.present(tmp_path) == [kitchen]
    assert [video.frames for video in datasets.find(kitchen, tmp_path).test] == [6]


def test_a_new_data_set_is_a_column_with_its_note_and_has_its_own_videos_plotted(kitchen: str, tmp_path: Path) -> None:
    record = a_record(dataset=kitchen)
    write(record, tmp_path)
    table = tables.build(tmp_path)["table1.md"]
    assert " Kitchen |" in table and f"- {KITCHEN.note}" in table
    assert "Kitchen" in report.about([record], [])["Data sets"]
    scored = scores.Scored(record, *scores_of("ped2"))
    assert files.chosen_videos(scored) == ["02", "05"]


def test_a_new_data_set_that_cannot_be_downloaded_says_where_to_ask(kitchen: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)https://kitchen.example.*looks like this:\n    training/01") as raised:
        download.fetch(kitchen, tmp_path)
    assert f"data verify --dataset kitchen --root {tmp_path}" in str(raised.value)


def test_every_data_set_has_values_and_those_that_say_so_a_scene() -> None:
    assert set(PAPER) == set(SPECS)
    assert set(TOYS) == set(toy.LAYOUTS)
    assert all(spec.archives or spec.by_hand for spec in SPECS.values())


def test_a_toy_set_has_the_specification_of_its_original_and_a_name_of_its_own() -> None:
    assert is_toy("toy-avenue") and not is_toy("avenue")
    assert original("toy-avenue") == original("avenue") == "avenue"
    assert spec_of("toy-avenue") is SPECS["avenue"]
    assert (title_of("avenue"), title_of("toy-avenue"), title_of("kitchen")) == ("Avenue", "toy-avenue", "kitchen")
    with pytest.raises(ConfigError, match=r"unknown data set 'avenu'; did you mean: avenue"):
        spec_of("avenu")


def test_the_command_line_names_the_data_sets_and_label_sets_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert LABEL_SETS[0] == "official"
    with pytest.raises(SystemExit):
        main.main(["prepare", "--help"])
    assert " ".join(options.DATASET_HELP.split()) in " ".join(capsys.readouterr().out.split())
