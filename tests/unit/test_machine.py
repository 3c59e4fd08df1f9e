"""How many cells a machine holds, and what each gets of it."""

import pytest

from amsrc.errors import ConfigError
from bench.cluster.machine import Machine, Packing, Workers, machine_of, packing

TWO_CPUS = Machine(((2.0, 0.0),), "AMD EPYC")
FOUR_GPUS = Machine(((4.0, 1.0),) * 4, "A10G", 1.0)
ONE_NODE = Machine(((16.0, 4.0),), "H100")


@pytest.mark.parametrize(
    ("machine", "cells", "expected"),
    [
        (TWO_CPUS, 9, Packing(2, 1, 0)),
        (TWO_CPUS, 1, Packing(1, 2, 0)),
        (TWO_CPUS, 0, Packing(1, 2, 0)),
        (Machine(((8.0, 0.0),), "c"), 3, Packing(3, 2, 0)),
        (Machine(((2.0, 0.0), (2.0, 0.0)), "c"), 1, Packing(1, 2, 0)),  # a cell does not span nodes
        (FOUR_GPUS, 9, Packing(4, 4, 1)),
        (FOUR_GPUS, 2, Packing(2, 4, 1)),
        (ONE_NODE, 9, Packing(4, 4, 1)),
        (Machine(((4.0, 1.0), (8.0, 0.0)), "g"), 9, Packing(1, 4, 1)),  # the head's CPUs hold no cell
        (Machine(((2.0, 8.0),), "g"), 9, Packing(2, 1, 1)),  # fewer CPUs than GPUs
    ],
)
def test_cells_of_one_worker_share_the_machine(machine: Machine, cells: int, expected: Packing) -> None:
    assert packing(machine, cells) == expected


@pytest.mark.parametrize(
    ("machine", "gpus", "cpus", "expected"),
    [
        (ONE_NODE, 0.25, None, Packing(16, 1, 0.25)),
        (ONE_NODE, 0.1, None, Packing(16, 1, 0.1)),  # 40 by GPU, 16 by CPU
        (FOUR_GPUS, 0.3, None, Packing(12, 1, 0.3)),  # three a GPU: what is left of four GPUs does not add up
        (FOUR_GPUS, 0.5, 2, Packing(8, 2, 0.5)),
        (ONE_NODE, 2, None, Packing(2, 8, 2)),
        (TWO_CPUS, None, 2, Packing(1, 2, 0)),
    ],
)
def test_what_a_cell_gets_can_be_said(
    machine: Machine, gpus: float | None, cpus: int | None, expected: Packing
) -> None:
    assert packing(machine, 100, gpus_per_run=gpus, cpus_per_run=cpus) == expected


def test_cells_of_several_workers_take_a_device_each() -> None:
    assert packing(FOUR_GPUS, 9, Workers(2, 2)) == Packing(2, 0, 2, 2)
    assert packing(FOUR_GPUS, 9, Workers(3, 3)) == Packing(1, 0, 3, 3)
    assert packing(Machine(((8.0, 0.0),), "c"), 9, Workers(3, 3)) == Packing(2, 3, 0, 3)


def test_cells_whose_workers_come_and_go_are_packed_at_their_most() -> None:
    assert packing(FOUR_GPUS, 9, Workers(1, 2)) == Packing(2, 0, 2, 2)
    assert packing(FOUR_GPUS, 9, Workers(1, 3)) == Packing(1, 0, 3, 3)
    assert packing(FOUR_GPUS, 9, Workers(2, 8)) == Packing(1, 0, 4, 4)  # what there is
    assert packing(TWO_CPUS, 1, Workers(1, 8)) == Packing(1, 2, 0, 2)


def test_workers_are_a_number_or_a_range() -> None:
    assert [Workers.read(text) for text in ("1", "4", "1:4", "2:2")] == [
        Workers(1, 1),
        Workers(4, 4),
        Workers(1, 4),
        Workers(2, 2),
    ]
    assert [str(Workers.read(text)) for text in ("1", "4", "1:4", "2:2")] == ["1", "4", "1:4", "2"]


@pytest.mark.parametrize("text", ["0", "-1", "", "x", "1.5", "2:1", "0:2", ":2", "1:", "1:2:3", "1-2"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--workers {text}: give a number from 1, or the least and the most, as in"):
        Workers.read(text)


@pytest.mark.parametrize(
    ("machine", "workers", "gpus", "cpus", "message"),
    [
        (TWO_CPUS, 3, None, None, "--workers 3 needs 3 CPUs; there is 1 node with 2 CPUs and 0 GPUs. Ask for fewer"),
        (FOUR_GPUS, 5, None, None, "--workers 5 needs 5 GPUs; there are 4 nodes with 4 CPUs and 1 GPUs"),
        (FOUR_GPUS, (5, 6), None, None, "--workers 5:6 needs 5 GPUs; there are 4 nodes with 4 CPUs and 1 GPUs"),
        (Machine((), "none"), 2, None, None, "needs 2 CPUs; there is no node"),
        (FOUR_GPUS, 1, 2, None, "2 GPUs fits on no node; there are 4 nodes with 4 CPUs and 1 GPUs"),
        (TWO_CPUS, 1, 0.5, None, "--gpus-per-run 0.5: no node has a GPU; there is 1 node with 2 CPUs and 0 GPUs"),
        (TWO_CPUS, 1, 1, None, "--gpus-per-run 1: no node has a GPU; .* pass their --cluster file"),
        (TWO_CPUS, 1, None, 3, "asks for 3 CPUs fits on no node; there is 1 node with 2 CPUs"),
        (FOUR_GPUS, 1, 1, 5, "asks for 5 CPUs and 1 GPUs fits on no node"),
        (ONE_NODE, 1, 1.5, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, 0, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, -1, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, float("nan"), None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, None, 0, "a whole number from 1"),
        (ONE_NODE, 2, 0.5, None, "leave out --gpus-per-run"),
    ],
)
def test_a_cell_that_never_fits_is_refused_with_both_numbers(
    machine: Machine, workers: int | tuple[int, int], gpus: float | None, cpus: int | None, message: str
) -> None:
    wanted = Workers(*workers) if isinstance(workers, tuple) else Workers(workers, workers)
    with pytest.raises(ConfigError, match=message):
        packing(machine, 9, wanted, gpus, cpus)


def test_a_machine_is_made_of_rays_nodes() -> None:
    nodes = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A10G": 1.0}]
    found = machine_of(nodes, "AMD EPYC")
    assert (found.name, found.cpus, found.gpus, found.usd_per_gpu_hour) == ("A10G", 12.0, 2.0, None)
    assert machine_of(nodes[:1], "AMD EPYC").name == "AMD EPYC"
    assert machine_of(nodes[:1], None).name == "CPU"
