"""Which run is meant, where nothing but small files is needed to say it."""

import json
from pathlib import Path

import pytest

from amsrc.errors import ConfigError, DataError
from bench.experiment.config import dump
from bench.experiment.recipes import build
from bench.records import run_folder
from bench.records.find import find_run
from bench.records.records import write
from tests.results_made import a_record


def a_folder(home: Path, recipe: str, *, trained: bool = True) -> Path:
    """The folder of a run, with weights if it is trained."""
    e = build(recipe, "ped2")
    folder = run_folder.folder_of(e, home)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"experiment": dump(e), "store": "0" * 64}))
    if trained:
        run_folder.weights(folder).write_bytes(b"weights")
    return folder


def a_written_record(results: Path, recipe: str) -> str:
    """Its fingerprint."""
    record = a_record(recipe)
    write(record, results)
    return record.fingerprint


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"experiment": 5, "store": ""}', b"\xff", '{"experiment": {"seed": "x"}, "store": "0"}'],
)
def test_a_damaged_run_is_named(tmp_path: Path, content: str | bytes) -> None:
    folder = a_folder(tmp_path, "amsrc")
    (folder / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"{folder.name}/run\.json .*[Tt]rain again"):
        find_run(folder.name, tmp_path, [])


def test_a_run_that_is_damaged_is_not_claimed(tmp_path: Path) -> None:
    (a_folder(tmp_path, "amsrc") / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        run_folder.claim(build("amsrc", "ped2"), None, tmp_path)  # type: ignore[arg-type]  # the store is not looked at


def test_an_unknown_run_is_answered_with_what_is_trained_here_alone(tmp_path: Path) -> None:
    home, results = tmp_path / "home", tmp_path / "results"
    a_folder(home, "amsrc")
    started = a_folder(home, "no-gate-concat", trained=False)
    unrecorded = a_folder(home, "no-gate-add")
    null = a_folder(home, "null-flow", trained=False)
    usable = a_written_record(results, "amsrc")
    elsewhere = [a_written_record(results, recipe) for recipe in ("null-flow", "no-gate-concat", "baseline")]
    with pytest.raises(ConfigError, match="is no run under") as caught:
        find_run("nonsense", home, [results])
    text = str(caught.value)
    assert f"trained: {usable} (amsrc on ped2, seed 0), {unrecorded.name}." in text
    assert not [name for name in (*elsewhere, started.name, null.name) if name in text]
