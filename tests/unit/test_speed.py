"""The measured speeds: real code on few cubes, a clock that is made up, files that can be read again."""

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

import cv2
import pytest
import torch

from amsrc import boxes
from amsrc.config import CubeConfig, ModelConfig
from amsrc.cubes import moments
from amsrc.model import AMSRC
from bench.evaluation import selection
from bench.records.speeds import Row, read_file, read_speed
from bench.speed import growth, harness, preparing, roofline, run, synthetic, timing
from bench.speed import network as speed_network
from bench.speed.timing import CPU
from bench.training.scoring import arithmetic


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is measured, in seconds."""
    sizes: dict[ModuleType, dict[str, object]] = {
        speed_network: {"WIDTHS": (1, 2), "CUBES": 160, "CELL_CUBES": (40, 40), "CELL_EPOCHS": 1},
        harness: {"TEST_CUBES": {"ped2": 500}},
        preparing: {"FRAMES": 12, "STORED_CUBES": 160},
        growth: {
            "FRAMES": (6, 12),
            "BOXES": (1, 2),
            "CUBES": (128, 256),
            "WIDTH": 1,
            "STORED": (160, 16384),
            "SCORED": 16384,
        },
        roofline: {"SIDE": {"cpu": 32}, "CONV_BATCH": {"cpu": 2}, "CHANNELS": 8, "COPIED_BYTES": {"cpu": 1000}},
    }
    for module, values in sizes.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    speed_network._compute.cache_clear()
    speed_network._copy.cache_clear()
    monkeypatch.setattr(synthetic, "VIDEO", 64)
    monkeypatch.setattr(timing, "QUICK_REPEATS", 2)
    monkeypatch.setattr(timing, "QUICK_REPEAT_S", 0.0)
    monkeypatch.setattr(selection, "SHARES", selection.SHARES[::200])
    quick = [stage for stage in run.STAGES if "ray" not in stage[1] and stage[0] not in ("packed", "memory")]
    monkeypatch.setattr(run, "STAGES", tuple(quick))  # the others: below, and tests/integration/test_workers.py


@pytest.mark.slow
def test_what_is_measured_is_written_and_read_again(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run.run(tmp_path, quick=True)
    prepared = [*(f"prepare: {part}" for part in ("decode", "flow", "boxes", "cut", "write")), "prepare"]
    precisions = len({"fp32", arithmetic("auto", CPU)[0]})
    expected = [*["machine: matmul", "machine: convolution"] * precisions, "machine: copy"]
    expected += ["train", "score"] * 2 + ["store to record"] * 2 + ["null", "fusion search", "AUROC"] + prepared * 2
    expected += ["store read", "store copy", "tables", "start-up", "start-up"]
    expected += [f"growth: {name}" for name in ("prepare", "cut", "train", "score") for _ in range(2)]
    assert [row.stage for row in rows] == expected
    assert all(row.median > 0 and row.spread >= 0 and row.repeats == 2 for row in rows)
    by_stage = {row.stage: row for row in rows}
    units = {"train": "cubes/s", "fusion search": "s", "prepare": "frames/s", "prepare: cut": "cubes/s"}
    units |= {"machine: matmul": "GFLOP/s", "machine: copy": "GB/s", "store read": "MB/s", "store to record": "s"}
    assert {stage: by_stage[stage].unit for stage in units} == units
    compared = {row.stage for row in rows if row.reference}
    assert compared == {"train", "score", "store to record", "AUROC", "prepare"}
    assert {row.stage for row in rows if row.limit} == {"train", "score", "prepare"}
    pixels = [(row.settings["pixels"], row.settings["channels"]) for row in rows if row.stage == "prepare"]
    assert pixels == [(86400, 1), (230400, 3)]
    assert read_speed(tmp_path) == rows
    (path,) = tmp_path.glob("*.json")
    assert path.with_suffix(".svg").read_text().count("<svg") == 1
    about = json.loads(path.read_text())
    assert about["quick"] and about["hardware"]["cores"] and about["versions"]["torch"] and set(about["git"])
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n| ") == 1 + len(rows)
    assert f"## {path.stem}" in text
    assert text in capsys.readouterr().out


def test_a_stage_whose_package_is_absent_is_left_out_and_said(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (null,) = (stage for stage in run.STAGES if stage[0] == "null")
    monkeypatch.setattr(run, "STAGES", (("cells", ("no_such_package",), harness.null_row), null))
    assert [row.stage for row in run.run(tmp_path, quick=True)] == ["null"]
    assert "cells: left out, no_such_package is not installed" in capsys.readouterr().out


BARE = """
import importlib.util, sys
from pathlib import Path

absent = {"ray", "mlflow", "optuna", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow", "tabulate", "pydantic"}

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Nothing())
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in absent else there(name, package)
from bench.speed import network, run, timing

network.WIDTHS, network.CUBES = (1,), 160
timing.QUICK_REPEATS, timing.QUICK_REPEAT_S = 1, 0.0
run.STAGES = [stage for stage in run.STAGES if stage[1] or stage[0] in ("train and score", "null")]
run.run(Path(sys.argv[1]), True)
"""


@pytest.mark.slow
def test_a_machine_with_torch_numpy_and_opencv_alone_can_be_measured(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BARE, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    assert [row.stage for row in read_file(path)[1]] == ["train", "score", "null"]
    assert "table.md: left out, pydantic, tabulate is not installed" in done.stdout


def test_a_repeat_lasts_long_enough_and_gives_the_time_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], itertools.count(1)

    def call() -> None:
        now[0] += 1.0 if next(calls) == 1 else 0.2  # the first one warms up

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


def test_several_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "QUICK_REPEATS", 2)
    one, other = timing.in_turns([partial(call, "a", 1.0), partial(call, "b", 3.0)], True, CPU, at_least_s=2.0)
    assert (one, other) == (pytest.approx([1.0] * 2), pytest.approx([3.0] * 2))
    assert "".join(order) == "aa" + "bb" + "aab" * 2  # warm up and count, then two calls of 1 s for each of 3 s
    order.clear()
    timing.in_turns([partial(call, "c", 7.0)], True, CPU, at_least_s=2.0)
    assert order == ["c"] * 3  # long as it is, it is not called to be counted


def test_a_row_says_how_many_times_as_fast_and_what_part_of_the_limit() -> None:
    rate = timing.row("train", [1.0], {}, CPU, handled=(8, "cubes"), reference=[4.0], limit=(16.0, "compute"))
    assert (rate.reference, rate.times_reference, rate.of_limit, rate.limited_by) == (2.0, 4.0, 0.5, "compute")
    seconds = timing.row("AUROC", [2.0], {}, CPU, reference=[6.0], limit=(1.0, "a sort"))
    assert (seconds.times_reference, seconds.of_limit) == (3.0, 0.5)
    alone = timing.row("AUROC", [2.0], {}, CPU)
    assert (alone.times_reference, alone.of_limit) == (None, None)


def test_a_limit_is_the_smaller_of_compute_and_memory() -> None:
    assert roofline.limit(2e9, 1e6, 4e9, 1e9)[0] == 2.0
    assert roofline.limit(2e9, 1e9, 4e9, 1e9) == (1.0, "1e+03 MB moved a cube")


@pytest.mark.parametrize("fusion", ["gate", "none"])
def test_work_is_that_of_the_convolutions(fusion: Literal["gate", "none"]) -> None:
    config, cube = ModelConfig(width=2, fusion=fusion), CubeConfig(size=16)
    scored, bytes_scored = roofline.work(config, cube, "fp32", training=False)
    network, flop, first, values = AMSRC(config, cube), 0.0, 0.0, 0

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal flop, first, values
        pixels = (inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output)[0, 0].numel()
        flop += 2 * pixels * next(layer.parameters()).numel()
        first += 0 if inputs[0].requires_grad else 2 * pixels * next(layer.parameters()).numel()
        values += output[0].numel()

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    network(torch.rand(2, 12, 16, 16), torch.rand(2, 8, 16, 16))
    assert (scored, bytes_scored) == (flop, 2 * 4 * values)
    trained, bytes_trained = roofline.work(config, cube, "bf16", training=True)
    assert trained == 3 * flop - first  # nobody asks for the gradient of the network's input
    assert bytes_trained == 5 * 2 * values


def test_the_exponent_of_a_cost_is_fitted() -> None:
    def measured(size: int, seconds: float) -> Row:
        return timing.row("growth: cut", [seconds], {"of": "boxes", "size": size}, CPU)

    (found,) = growth.read([measured(4, 32.0), measured(2, 8.0), measured(8, 128.0)])
    assert (found.stage, found.of, found.sizes) == ("cut", "boxes", (2, 4, 8))
    assert found.exponent == pytest.approx(2)
    assert growth.draw([]) is None


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(small: None) -> None:
    few, many = growth.remembering(True)
    assert (few.settings["cubes"], many.settings["cubes"]) == (160, 16384)
    assert few.unit == "MB" and 100 < few.median < 4000
    assert (
        abs(many.median - few.median) < 400
    )  # all 520 MB of cubes were read, 64 MB between letting go, and pages around


@pytest.mark.slow
def test_cells_that_train_at_once_are_counted_together(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    rows = list(speed_network.packed(True))
    assert [row.settings["cells"] for row in rows] == [1, 2]
    assert all(row.stage == "train packed" and row.median > 0 and row.repeats == 2 for row in rows)


def test_made_up_cubes_lie_in_several_videos_and_are_gone_afterwards() -> None:
    with synthetic.cubes_of_noise(synthetic.VIDEO + 3, CubeConfig(size=8)) as cubes:
        assert len(cubes) == synthetic.VIDEO + 3
        assert [shard.cubes for shard in cubes.shards] == [synthetic.VIDEO, 3]
        rows = cubes.video[-4:].argsort()
        assert cubes.frames(rows).shape == (4, 5, 3, 8, 8)
        folder = Path(str(cubes._maps["frames"][0].filename))
        assert folder.is_file()
    assert not folder.exists()


@pytest.mark.parametrize(("kind", "shape"), [(kind, size) for kind, (_, size, _) in synthetic.SCENES.items()])
def test_a_made_up_video_has_its_size_and_people_who_move(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    video = synthetic.video_of_walkers(tmp_path, kind, 12)
    frames = list(video.read())
    assert len(frames) == 12
    assert {frame.shape for frame in frames} == {(shape[1], shape[0], 1 if "grey" in kind else 3)}
    boxes_of = boxes.moving(CubeConfig().boxes)
    assert sum(len(boxes_of(moment)) for moment in moments("01", frames)) >= 12


def test_opencv_has_its_threads_back_after_preparing(small: None) -> None:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        stage = preparing.preparing(True)
        next(stage)
        assert cv2.getNumThreads() == 1
        stage.close()
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(threads)


def test_a_machine_is_named_by_its_gpus_or_its_cpu() -> None:
    assert run.machine({"gpus": ["NVIDIA A10G"] * 2, "cpu": "AMD EPYC"}) == "nvidia-a10g-2"
    assert run.machine({"gpus": [], "cpu": "AMD EPYC (TM)", "cores": 2}) == "amd-epyc-tm-2-cores"
    assert run.machine({"gpus": [], "cpu": None, "cores": 2}) == "cpu-2-cores"
