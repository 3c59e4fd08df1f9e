"""The order in which training sees its cubes, alone and with other workers."""

import numpy as np
import pytest

from bench.training.loop import batches


@pytest.mark.parametrize(("cubes", "batch"), [(80, 16), (81, 16), (83, 16), (7, 16), (16, 16)])
def test_an_epoch_shows_every_cube_once(cubes: int, batch: int) -> None:
    shown = [rows for rows, part in batches(cubes, batch, 0, 1) if part == 1]
    rows = np.concatenate(shown)
    lost = cubes % batch if cubes % batch == 1 else 0  # BatchNorm cannot work on one cube
    assert len(np.unique(rows)) == len(rows) == cubes - lost
    assert set(rows.tolist()) <= set(range(cubes))
    assert {len(some) for some in shown[:-1]} <= {batch}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([rows for rows, _ in batches(64, 16, seed, epoch)]).tolist()

    orders = [order(seed, epoch) for seed in (0, 1, 2) for epoch in (1, 2, 3)]
    assert orders == [order(seed, epoch) for seed in (0, 1, 2) for epoch in (1, 2, 3)]
    assert len({tuple(one) for one in orders}) == 9
    assert list(range(64)) not in orders


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("cubes", [64, 65, 66, 67, 71, 78])
def test_workers_share_every_batch_of_one(cubes: int, world: int) -> None:
    alone = [rows for rows, _ in batches(cubes, 16, 5, 2)]
    shares = [list(batches(cubes, 16, 5, 2, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    for whole, *parts in zip(alone, *shares, strict=False):
        sizes = [len(rows) for rows, _ in parts]
        assert sorted(np.concatenate([rows for rows, _ in parts])) == sorted(whole)
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 0
        assert [part for _, part in parts] == [size / len(whole) for size in sizes]
    left = alone[len(shares[0]) :]
    assert [len(some) for some in left] == ([cubes % 16] if 1 < cubes % 16 < world else [])
