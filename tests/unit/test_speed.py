"""The measured speeds: real code on few cubes, a clock that is made up, files that can be read again."""

import itertools
import json
from pathlib import Path

import cv2
import pytest
import torch

from amsrc import boxes
from amsrc.config import CubeConfig
from amsrc.cubes import moments
from bench import made_up, selection, speed, timing
from bench.cost import read_speed
from bench.timing import CPU


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is measured, in seconds."""
    sizes = {"WIDTHS": (1, 2), "CUBES": 160, "TEST_CUBES": {"ped2": 500}, "FRAMES": 12, "STORED_CUBES": 160}
    for name, value in sizes.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(made_up, "VIDEO", 64)
    monkeypatch.setattr(timing, "QUICK_REPEATS", 2)
    monkeypatch.setattr(timing, "QUICK_REPEAT_S", 0.0)
    monkeypatch.setattr(selection, "SHARES", selection.SHARES[::200])
    without_ray = [stage for stage in speed.STAGES if not stage[1]]
    monkeypatch.setattr(speed, "STAGES", tuple(without_ray))  # the others: tests/integration/test_workers.py


def test_what_is_measured_is_written_and_read_again(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = speed.run(tmp_path, quick=True)
    prepared = [*(f"prepare: {part}" for part in ("decode", "flow", "boxes", "cut", "write")), "prepare"]
    names = ["train", "score", "train", "score", "null", "fusion search"]
    assert [row.stage for row in rows] == [*names, *prepared, *prepared, "store read", "store copy", "tables"]
    assert [row.settings.get("width") for row in rows[:4]] == [1, 1, 2, 2]
    assert all(row.median > 0 and row.spread >= 0 and row.repeats == 2 for row in rows)
    assert {row.unit for row in rows[:5]} == {"cubes/s"} and rows[5].unit == "s"
    assert [row.unit for row in rows[6:12]] == ["frames/s"] * 3 + ["cubes/s"] * 2 + ["frames/s"]
    assert [(row.settings["pixels"], row.settings["channels"]) for row in rows[6:18:6]] == [(86400, 1), (230400, 3)]
    assert [row.unit for row in rows[18:]] == ["MB/s", "MB/s", "s"]
    assert {row.threads for row in rows[6:]} == {1}
    assert read_speed(tmp_path) == rows
    (path,) = tmp_path.glob("*.json")
    about = json.loads(path.read_text())
    assert about["quick"] and about["hardware"]["cores"] and about["versions"]["torch"] and set(about["git"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| ") == 1 + len(rows)
    assert f"## {path.stem}" in text
    assert text in capsys.readouterr().out


def test_a_stage_whose_package_is_absent_is_left_out_and_said(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "STAGES", (("cells", ("no_such_package",), speed.null_row), *speed.STAGES[1:2]))
    assert [row.stage for row in speed.run(tmp_path, quick=True)] == ["null"]
    assert "cells: left out, no_such_package is not installed" in capsys.readouterr().out


def test_a_repeat_lasts_long_enough_and_gives_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], itertools.count(1)

    def call() -> None:
        now[0] += 5.0 if next(calls) == 1 else 0.2  # the first one warms up

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "QUICK_REPEATS", 3)
    monkeypatch.setattr(timing, "QUICK_REPEAT_S", 0.5)
    assert timing.timed(call, True, CPU) == pytest.approx([0.2] * 3)
    assert next(calls) - 1 == 2 + 3 * 3  # three calls of 0.2 s are the fewest that last half a second


def test_a_row_has_median_and_spread_of_the_rates() -> None:
    row = timing.row("train", [1.0, 2.0, 4.0], {"width": 16}, CPU, handled=(8, "cubes"))
    assert (row.median, row.spread, row.repeats, row.unit) == (4.0, 6.0, 3, "cubes/s")
    assert row.threads == torch.get_num_threads()
    row = timing.row("fusion search", [1.0, 2.0, 4.0], {}, CPU, threads=1)
    assert (row.median, row.spread, row.unit, row.threads) == (2.0, 3.0, "s", 1)


def test_made_up_cubes_lie_in_several_videos_and_are_gone_afterwards() -> None:
    with made_up.cubes_of_noise(made_up.VIDEO + 3, CubeConfig(size=8)) as cubes:
        assert len(cubes) == made_up.VIDEO + 3
        assert [shard.cubes for shard in cubes.shards] == [made_up.VIDEO, 3]
        rows = cubes.video[-4:].argsort()
        assert cubes.frames(rows).shape == (4, 5, 3, 8, 8)
        folder = Path(str(cubes._maps["frames"][0].filename))
        assert folder.is_file()
    assert not folder.exists()


@pytest.mark.parametrize(("kind", "shape"), [(kind, size) for kind, (_, size, _) in made_up.SCENES.items()])
def test_a_made_up_video_has_its_size_and_people_who_move(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    video = made_up.video_of_walkers(tmp_path, kind, 12)
    frames = list(video.read())
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {(shape[1], shape[0], 1 if "grey" in kind else 3)}
    boxes_of = boxes.moving(CubeConfig().boxes)
    assert sum(len(boxes_of(moment)) for moment in moments("01", frames)) >= 12


def test_opencv_has_its_threads_back_after_preparing(small: None) -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        stage = speed.preparing(True)
        next(stage)
        assert cv2.getNumThreads() == 1
        stage.close()
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)


def test_a_machine_is_named_by_its_gpus_or_its_cpu() -> None:
    assert speed.machine({"gpus": ["NVIDIA A10G"] * 2, "cpu": "AMD EPYC"}) == "nvidia-a10g-2"
    assert speed.machine({"gpus": [], "cpu": "AMD EPYC (TM)", "cores": 2}) == "amd-epyc-tm-2-cores"
    assert speed.machine({"gpus": [], "cpu": None, "cores": 2}) == "cpu-2-cores"
