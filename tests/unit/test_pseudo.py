"""Held-out videos and the five kinds of pseudo-anomalies, on arrays small enough to write down."""

from pathlib import Path

import numpy as np
import pytest

from amsrc.errors import ConfigError
from bench.experiment.config import override
from bench.experiment.recipes import build
from bench.training import held_out
from bench.training.held_out import KINDS, anomalies, held_out_videos, kept, normal
from tests.cubes_made import FRAMES, an_experiment, write_store

# -- held-out videos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("videos", "part", "expected"),
    [
        (16, 0.1, [4, 12]),  # 1.6 are 2
        (10, 0.3, [1, 5, 8]),
        (10, 0.1, [5]),
        (20, 0.5, list(range(1, 20, 2))),
        (9, 0.01, [4]),  # one at least
        (2, 0.1, [1]),
        (2, 0.99, [1]),  # never all
        (3, 0.9, [0, 2]),
        (1, 0.9, []),
        (0, 0.9, []),
        (16, 0.0, []),
    ],
)
def test_held_out_videos_are_spaced_evenly(videos: int, part: float, expected: list[int]) -> None:
    assert held_out_videos([f"{i:02d}" for i in range(videos)], part) == expected


@pytest.mark.parametrize("part", [0.05, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("n", [2, 3, 7, 16, 330])
def test_held_out_videos_are_different_ones_with_equal_gaps(n: int, part: float) -> None:
    found = held_out_videos([str(i) for i in range(n)], part)
    assert found == sorted(set(found))
    assert set(found) < set(range(n))
    gaps = np.diff(found)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_as_many_videos_of_every_scene_are_held_out() -> None:
    """Thirty videos of each of eleven scenes, one after the other: three of each."""
    found = held_out_videos([f"{i // 30:02d}_{i % 30:03d}" for i in range(330)], 0.1)
    assert np.bincount(np.array(found) // 30).tolist() == [3] * 11


@pytest.mark.parametrize("value", ["-0.1", "1", "1.5"])
def test_a_part_that_leaves_nothing_to_train_on_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.held_out is {float(value)}; allowed: 0 to below 1"):
        override(build("amsrc", "ped2"), {"train.held_out": value})


def test_kept_cubes_are_those_of_the_other_videos(tmp_path: Path) -> None:
    cubes = write_store(tmp_path, an_experiment()).train  # videos 01 and 02 of 40 cubes
    assert kept(cubes, 0.1).tolist() == list(range(40))
    assert kept(cubes, 0.0).tolist() == list(range(80))


def test_normal_cubes_are_held_out_ones_with_a_whole_history(tmp_path: Path) -> None:
    cubes = write_store(tmp_path, an_experiment()).train
    assert normal(cubes, 0.1).tolist() == list(range(44, 80))
    assert normal(cubes, 0.0).tolist() == []


def test_no_more_cubes_are_taken_than_allowed_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubes = write_store(tmp_path, an_experiment()).train
    monkeypatch.setattr(held_out, "PSEUDO_CUBES", 10)
    found = normal(cubes, 0.1).tolist()
    assert len(set(found)) == 10
    assert found == sorted(found) == normal(cubes, 0.1).tolist()
    assert found != list(range(44, 54))
    assert set(found) <= set(range(44, 80))


# -- kinds ---------------------------------------------------------------------------------------------------


def plain(n: int, t: int, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Cubes whose frame i is 20 n + i throughout, and whose flow i is (100 n + i + 1, half of it)."""
    frames = np.zeros((n, t, 3, side, side), np.uint8)
    frames += (20 * np.arange(n)[:, None] + np.arange(t)).astype(np.uint8)[..., None, None, None]
    flows = np.zeros((n, t - 1, 2, side, side), np.float16)
    flows += (100 * np.arange(n)[:, None] + np.arange(1, t)).astype(np.float16)[..., None, None, None]
    flows[:, :, 1] /= 2
    return frames, flows


def seen(array: np.ndarray) -> list[list[float]]:
    """One number a frame, or the x of a flow; every pixel must agree."""
    first = array[:, :, :1, :1, :1]
    assert (array[:, :, :1] == first).all()
    return first[..., 0, 0, 0].tolist()


def test_every_kind_keeps_shapes_and_types_and_leaves_its_source_alone() -> None:
    frames, flows = plain(6, 5)
    before = frames.copy(), flows.copy()
    found = anomalies(frames, flows)
    assert tuple(found) == KINDS
    for made_frames, made_flows in found.values():
        assert (made_frames.shape, made_frames.dtype) == (frames.shape, np.uint8)
        assert (made_flows.shape, made_flows.dtype) == (flows.shape, np.float16)
    np.testing.assert_array_equal(frames, before[0])
    np.testing.assert_array_equal(flows, before[1])


def test_the_same_cubes_give_the_same_anomalies() -> None:
    one, other = anomalies(*plain(9, 5)), anomalies(*plain(9, 5))
    for kind in KINDS:
        np.testing.assert_array_equal(one[kind][0], other[kind][0])
        np.testing.assert_array_equal(one[kind][1], other[kind][1])


@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_flow_swap_gives_every_cube_the_flow_of_another_one(n: int) -> None:
    frames, flows = plain(n, 5)
    swapped, by = anomalies(frames, flows)["flow-swap"]
    np.testing.assert_array_equal(swapped, frames)
    owner = by[:, 0, 0, 0, 0].astype(int) // 100
    assert sorted(owner) == list(range(n))  # each flow once
    assert (owner != np.arange(n)).all()
    assert (np.abs(owner - np.arange(n)) >= n // 2).all()  # far away
    np.testing.assert_array_equal(by, flows[owner])


@pytest.mark.parametrize(
    ("t", "frames", "flows"),
    [
        (3, [0, 0, 2], [0, 1 + 2]),
        (4, [1, 1, 1, 3], [0, 0, 2 + 3]),
        (5, [0, 0, 0, 2, 4], [0, 0, 1 + 2, 3 + 4]),
        (6, [1, 1, 1, 1, 3, 5], [0, 0, 0, 2 + 3, 4 + 5]),
        (9, [0, 0, 0, 0, 0, 2, 4, 6, 8], [0, 0, 0, 0, 1 + 2, 3 + 4, 5 + 6, 7 + 8]),
    ],
)
def test_skip_takes_every_second_frame_and_adds_up_the_flows_between(
    t: int, frames: list[int], flows: list[int]
) -> None:
    fast, by = anomalies(*plain(2, t))["skip"]
    assert seen(fast)[0] == frames
    assert seen(by)[0] == flows
    assert by[0, -1, 1, 0, 0] == flows[-1] / 2  # y as well


def test_skip_doubles_the_displacement_of_what_moves_steadily() -> None:
    """A bright column that goes right by 3 px a frame goes right by 6, and its flow says so."""
    frames, flows = np.zeros((2, 5, 3, 16, 16), np.uint8), np.zeros((2, 4, 2, 16, 16), np.float16)
    frames[:, np.arange(5), :, :, 3 * np.arange(5)] = 200
    flows[:, :, 0] = 3
    fast, by = anomalies(frames, flows)["skip"]
    column = fast[0, :, 0, 0].argmax(-1)
    assert column.tolist() == [0, 0, 0, 6, 12]
    np.testing.assert_array_equal(np.diff(column), by[0, :, 0, 0, 0])


@pytest.mark.parametrize("t", [3, 4, 5])
def test_shuffle_changes_the_order_of_the_history_alone(t: int) -> None:
    frames, flows = plain(12, t)
    shuffled, by = anomalies(frames, flows)["shuffle"]
    orders = set()
    for cube in range(12):
        order = [int(x) - 20 * cube for x in seen(shuffled)[cube]]
        assert order[-1] == t - 1  # the target stays
        assert sorted(order[:-1]) == list(range(t - 1))
        assert order != list(range(t))
        assert [x - 100 * cube - 1 for x in seen(by)[cube]] == order[:-1]  # flows go along
        orders.add(tuple(order))
    assert len(orders) > 1 or t == 3  # of two frames there is one other order


def test_reverse_turns_time_and_every_flow_around() -> None:
    frames, flows = plain(2, 5)
    back, by = anomalies(frames, flows)["reverse"]
    assert seen(back)[0] == [4, 3, 2, 1, 0]
    assert seen(by)[0] == [-4, -3, -2, -1]
    assert by[0, :, 1, 0, 0].tolist() == [-2, -1.5, -1, -0.5]


def test_patch_puts_a_rectangle_of_another_cube_into_the_target_alone() -> None:
    n, side = 8, 16
    frames = np.random.default_rng(0).integers(0, 256, (n, 5, 3, side, side), np.uint8)
    frames[:, -1] = 20 * np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None]  # each target of one grey
    flows = plain(n, 5, side)[1]
    pasted, by = anomalies(frames, flows)["patch"]
    np.testing.assert_array_equal(by, flows)
    np.testing.assert_array_equal(pasted[:, :-1], frames[:, :-1])
    corners = set()
    for cube in range(n):
        changed = pasted[cube, -1] != frames[cube, -1]
        assert (changed == changed[0]).all()  # all channels
        ys, xs = np.flatnonzero(changed[0].any(1)), np.flatnonzero(changed[0].any(0))
        assert side // 4 <= len(ys) <= side // 2
        assert side // 4 <= len(xs) <= side // 2
        assert changed[0].sum() == len(ys) * len(xs)
        assert changed[0][ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()
        inside = np.unique(pasted[cube, -1][changed])
        assert inside.tolist() == [20 * ((cube + n // 2) % n + 1)]
        corners.add((ys[0], xs[0], len(ys), len(xs)))
    assert len(corners) > n // 2


def test_patch_takes_from_the_other_cube_what_lies_at_the_same_place() -> None:
    frames, flows = plain(2, 5)
    frames[1, -1] = np.arange(64, dtype=np.uint8).reshape(8, 8) + 100
    pasted = anomalies(frames, flows)["patch"][0][0, -1]
    changed = pasted != frames[0, -1]
    np.testing.assert_array_equal(pasted[changed], frames[1, -1][changed])


def test_a_patch_can_lie_anywhere() -> None:
    frames, flows = plain(400, 2)
    frames[:] = 0
    frames[200:, -1] = 255
    changed = anomalies(frames, flows)["patch"][0][:200, -1, 0] == 255
    often = changed.mean(0)
    assert often.min() > 0.01
    sizes = {(int(c.any(1).sum()), int(c.any(0).sum())) for c in changed}
    assert sizes == {(h, w) for h in (2, 3, 4) for w in (2, 3, 4)}


def test_cubes_of_two_frames_have_no_kind_that_needs_a_history() -> None:
    found = anomalies(*plain(4, 2))
    assert list(found) == ["flow-swap", "reverse", "patch"]
    assert seen(found["reverse"][0])[0] == [1, 0]
    assert seen(found["reverse"][1])[0] == [-1]


def test_a_pair_is_of_different_frames(tmp_path: Path) -> None:
    cubes = write_store(tmp_path, an_experiment()).train
    rows = normal(cubes, 0.1)
    other = rows[np.roll(np.arange(len(rows)), -(len(rows) // 2))]
    by = anomalies(cubes.frames(rows), cubes.flows(rows))["flow-swap"][1]
    np.testing.assert_array_equal(by, cubes.flows(other))
    assert (np.abs(cubes.frame[rows] - cubes.frame[other]) >= (FRAMES - 4) // 2).all()
