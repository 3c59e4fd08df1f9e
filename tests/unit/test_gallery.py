"""`results/figures`: what is drawn from results alone, and where it lies."""

from dataclasses import replace
from pathlib import Path

import pytest

from amsrc.errors import ConfigError, DataError
from bench.cli import main, options
from bench.experiment.config import dump, load, override
from bench.experiment.recipes import build
from bench.figures import files, scores
from bench.page import report, videos
from bench.storage.places import write_file
from tests.object_store import remote, serving
from tests.results_made import a_record, put, put_pictures, scores_of


def a_run(dataset: str = "ped2", **changes: object) -> scores.Scored:
    return scores.Scored(a_record(dataset=dataset, **changes), *scores_of(dataset))


def test_the_command_draws_every_run_and_every_data_set_in_both_forms(tmp_path: Path) -> None:
    records = [a_record(), a_record("null-flow"), a_record(dataset="avenue"), a_record("baseline", status="failed")]
    for record in records:
        put(tmp_path, record)
    assert main.main(["figures", "--results", str(tmp_path)]) == 0
    folder = tmp_path / "figures"
    assert {path.name for path in folder.glob("*.*")} == {
        f"roc-{name}.{kind}" for name in ("ped2", "avenue") for kind in ("svg", "png")
    }
    own = files.folder_of(tmp_path, records[0])
    assert (
        {path.stem for path in own.glob("*.svg")}
        == {path.stem for path in own.glob("*.png")}
        == {
            "videos",
            "epochs",
            "fusion",
        }
    )
    null = next(record for record in records if record.recipe == "null-flow")
    assert {path.name for path in files.folder_of(tmp_path, null).iterdir()} == {"videos.svg", "videos.png"}
    assert not files.folder_of(tmp_path, records[-1]).exists(), "it failed"


Drawn = tuple[Path, dict[str, bytes]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A results folder of one run, and the content of its figures by name. Not to be changed."""
    results = tmp_path_factory.mktemp("drawn")
    put(results, a_record())
    put_pictures(results, a_record())
    return results, {path.name: path.read_bytes() for path in files.draw(results)}


def test_results_in_an_object_store_are_drawn_and_reported_there_with_the_same_bytes(drawn: Drawn) -> None:
    here, figures = drawn
    assert len(figures) == 8
    with serving() as port:
        results = remote(port, "results")
        for path in (path for path in here.rglob("*") if path.is_file()):
            write_file(results / path.relative_to(here).as_posix(), path.read_bytes())
        assert {path.name: path.read_bytes() for path in files.draw(results)} == figures
        page, size = report.write(results, results / "report", {})
        content = page.read_bytes()
    assert len(content) == size
    assert content.decode() == report.build(here)
    assert b'"01":{"4":"' in content, "the strips of its videos"


def test_figures_look_nothing_up_to_be_shown(drawn: Drawn) -> None:
    texts = [content.decode() for name, content in drawn[1].items() if name.endswith(".svg")]
    assert len(texts) == 4
    for text in texts:
        assert "<text" not in text, "letters are outlines"
        assert 'href="http' not in text


def changed(**fields: str) -> dict[str, object]:
    """The experiment of `a_record` with other settings, as its fields."""
    return dump(override(build("amsrc", "ped2"), {name.replace("__", "."): value for name, value in fields.items()}))


def test_runs_with_other_settings_are_not_mixed_under_one_name(tmp_path: Path) -> None:
    slow, fast = a_record(), a_record(fingerprint="fast", experiment=changed(train__learning_rate="1e-3"))
    again = replace(fast, fingerprint="again", finished="2026-01-01T00:00:00+00:00")
    other = replace(fast, fingerprint="other", boxes="file:1234")
    part = replace(a_record(fingerprint="part", partial=True, videos=["02", "03"]), experiment=changed(partial="true"))
    records = [slow, fast, again, other, part]
    assert [record.fingerprint for record in files.shown(records)] == [slow.fingerprint, "part", "again", "other"]
    for record in records:
        put(tmp_path, record)
    listed = [(run["id"], run["label"]) for run in videos.runs(tmp_path, records)]
    name = "amsrc, train.learning_rate=0.001"
    assert listed == [
        (slow.fingerprint, "amsrc, seed 0"),
        ("part", "amsrc, partial data, seed 0"),
        ("again", f"{name}, again, seed 0"),
        ("other", f"{name}, other, seed 0"),
    ]
    figure = files.roc(tmp_path, records, "ped2")
    assert figure is not None
    titles = [axes.get_title().rpartition("\n")[0].replace("\n", " ") for axes in figure.axes if axes.get_visible()]
    assert titles == ["amsrc", f"{name}, again", f"{name}, other"], "not the one on other videos"


def test_one_run_a_recipe_is_shown_the_lowest_seed_and_the_latest_of_it() -> None:
    records = [a_record(seed=1), a_record(seed=0), a_record("null-flow"), a_record("baseline", status="failed")]
    later = replace(a_record(seed=0), fingerprint="later", finished="2026-01-01T00:00:00+00:00")
    shown = [(record.recipe, record.fingerprint) for record in files.shown([later, *records])]
    assert shown == [("amsrc", "later"), ("null-flow", a_record("null-flow").fingerprint)]


def test_videos_are_the_papers_or_those_that_are_named_or_those_with_both_classes() -> None:
    assert files.chosen_videos(a_run()) == ["02", "06"]
    assert files.chosen_videos(a_run("avenue")) == ["04", "09"]
    assert files.chosen_videos(a_run("shanghaitech")) == ["02", "03"], "there is no 97th here"
    assert files.chosen_videos(a_run(partial=True)) == ["02", "03"], "the 6th is another one"
    assert files.chosen_videos(a_run(), ["05"]) == ["05"]
    with pytest.raises(ConfigError, match=r"ped2: unknown video '7'"):
        files.chosen_videos(a_run(), ["7"])


def test_what_a_run_left_beside_its_record_is_read_again(tmp_path: Path) -> None:
    record = a_record()
    put(tmp_path, record)
    put_pictures(tmp_path, record)
    run = files.scored(tmp_path, record)
    assert run is not None
    assert list(run.parts["02"]) == list(record.parts)
    assert run.parts["02"][next(iter(record.parts))] == pytest.approx(run.scores["02"] / 2)
    strip = files.read_strip(files.strips_of(tmp_path, "ped2"))
    assert list(strip["02"]) == list(range(4, 120, 12))
    assert files.read_boxes(files.folder_of(tmp_path, record))["02"][16][0] == [0.1, 0.2, 0.3, 0.6, 1.6]


@pytest.mark.parametrize("name", ["parts.npz", "boxes.json"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    record = a_record()
    put(tmp_path, record)
    put_pictures(tmp_path, record)
    path = files.folder_of(tmp_path, record) / name
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        (files.read_parts if name == "parts.npz" else files.read_boxes)(path.parent)


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["figures", "--results", str(tmp_path)]) == DataError.exit_code
    assert "no finished record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [(["--videos", "02"], "--videos needs"), (["--recipe", "amsrc"], "--recipe needs")]
)
def test_what_is_of_one_run_needs_a_data_set(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["figures", *words]) == ConfigError.exit_code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        ("amsrc", {"train.epochs": "4", "train.held_out": "0", "loss.consistency": "2.5", "score.weights": "0.5,2"}),
        ("conv-ae", {"model.width": "8", "model.input": "flows"}),
    ],
)
def test_the_command_for_what_is_missing_leads_to_the_same_run(recipe: str, fields: dict[str, str]) -> None:
    e = override(build(recipe, "ped2", 3), fields)
    record = replace(a_record(recipe, seed=3), experiment=dump(e))
    words = files.command(record).split()
    _, found = options.overrides(words)
    assert override(build(recipe, "ped2", 3), found) == load(record.experiment)
    assert words[:8] == ["amsrc-bench", "figures", "--recipe", recipe, "--dataset", "ped2", "--seed", "3"]


def test_a_run_is_pictured_once_its_frame_is_drawn(tmp_path: Path) -> None:
    record = a_record()
    assert not files.pictured(tmp_path, record)
    write_file(files.folder_of(tmp_path, record) / "frame.svg", b"")
    assert files.pictured(tmp_path, record)
