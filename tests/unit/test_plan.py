"""The plan of a sweep: which cells there are, and how many of them a machine holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from amsrc.errors import ConfigError
from bench.config import fingerprint
from bench.plan import Machine, Packing, Workers, machine_of, matrix, packing, parse_axes, read_cluster

ROOT = Path(__file__).resolve().parents[2]
TWO_CPUS = Machine(((2.0, 0.0),), "AMD EPYC")
FOUR_GPUS = Machine(((4.0, 1.0),) * 4, "A10G", 1.0)
ONE_NODE = Machine(((16.0, 4.0),), "H100")


# Cells


def test_a_matrix_is_data_sets_by_recipes_by_axes_by_seeds() -> None:
    axes = {"loss.consistency": ["0.1", "10"], "train.epochs": ["2", "3"]}
    found = matrix(["ped2", "avenue"], ["amsrc", "no-gate-add"], 2, {"train.batch": "32"}, axes)
    assert len({fingerprint(e) for e in found}) == len(found) == 2 * 2 * 4 * 2
    seen = [(e.dataset, e.recipe, e.loss.consistency, e.train.epochs, e.seed) for e in found]
    assert seen[:5] == [
        ("ped2", "amsrc", 0.1, 2, 0),
        ("ped2", "amsrc", 0.1, 2, 1),
        ("ped2", "amsrc", 0.1, 3, 0),
        ("ped2", "amsrc", 0.1, 3, 1),
        ("ped2", "amsrc", 10.0, 2, 0),
    ]
    assert seen == sorted(seen, key=lambda cell: cell[0], reverse=True)
    assert {e.train.batch for e in found} == {32}


def test_without_axes_a_matrix_has_one_cell_a_data_set_recipe_and_seed() -> None:
    found = matrix(["ped2"], ["amsrc", "null-flow"], 3, {}, {})
    assert [(e.recipe, e.seed) for e in found] == [(r, s) for r in ("amsrc", "null-flow") for s in range(3)]


@pytest.mark.parametrize(
    ("recipes", "changes", "axes", "named"),
    [
        (["amsrc", "amsrc"], {}, {}, "amsrc on ped2"),
        (["amsrc", "baseline"], {}, {"loss.consistency": ["1", "10"]}, "baseline on ped2"),  # it has no such loss
        (["null-flow"], {}, {"train.epochs": ["1", "2"]}, "null-flow on ped2"),
        (["amsrc", "no-gate-add"], {}, {"model.fusion": ["gate", "add"]}, "amsrc on ped2, no-gate-add on ped2"),
        (["amsrc"], {}, {"loss.consistency": ["1", "1.0"]}, "amsrc on ped2"),
    ],
)
def test_a_network_that_would_be_trained_twice_is_refused(
    recipes: list[str], changes: dict[str, str], axes: dict[str, list[str]], named: str
) -> None:
    with pytest.raises(ConfigError, match="one network would be trained twice: " + named):
        matrix(["ped2"], recipes, 1, changes, axes)


def test_a_bad_value_on_an_axis_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs is 0"):
        matrix(["ped2"], ["amsrc"], 1, {}, {"train.epochs": ["4", "0"]})


def test_a_field_cannot_be_set_and_an_axis() -> None:
    with pytest.raises(ConfigError, match=r"loss\.gradient: set to one value and an axis"):
        matrix(["ped2"], ["amsrc"], 1, {"loss.gradient": "2"}, {"loss.gradient": ["1", "2"]})


def test_axes_are_read_from_text_in_their_order() -> None:
    assert parse_axes([]) == {}
    assert parse_axes(["loss.consistency=0.1,1,10", "model.fusion=gate,add", "cube.frames=5,7"]) == {
        "loss.consistency": ["0.1", "1", "10"],
        "model.fusion": ["gate", "add"],
        "cube.frames": ["5", "7"],
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["loss.consistency"], "write a field and its values"),
        (["=1,2"], "write a field and its values"),
        (["loss.consistancy=1,2"], "did you mean: loss.consistency"),
        (["recipe=amsrc"], "unknown field 'recipe'"),
        (["loss.consistency=1,,2"], "a value is empty"),
        (["loss.consistency="], "a value is empty"),
        (["loss.consistency=1,2,1"], "1 is repeated"),
        (["loss.consistency=1", "loss.consistency=2"], "given twice"),
        (["model.flow_scale=1,2"], "a list itself"),
        (["score.weight_f=0,1"], r"--axis score\.weight_f: .* train no other network"),
    ],
)
def test_a_wrong_axis_is_refused_with_the_reason(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_axes(texts)


# Packing


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
    assert packing(machine, 100, gpus_per_cell=gpus, cpus_per_cell=cpus) == expected


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
        (TWO_CPUS, 1, 0.5, None, "--gpus-per-cell 0.5: no node has a GPU; there is 1 node with 2 CPUs and 0 GPUs"),
        (TWO_CPUS, 1, 1, None, "--gpus-per-cell 1: no node has a GPU; .* pass their --cluster file"),
        (TWO_CPUS, 1, None, 3, "asks for 3 CPUs fits on no node; there is 1 node with 2 CPUs"),
        (FOUR_GPUS, 1, 1, 5, "asks for 5 CPUs and 1 GPUs fits on no node"),
        (ONE_NODE, 1, 1.5, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, 0, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, -1, None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, float("nan"), None, "a part below 1, or a whole number"),
        (ONE_NODE, 1, None, 0, "a whole number from 1"),
        (ONE_NODE, 2, 0.5, None, "leave out --gpus-per-cell"),
    ],
)
def test_a_cell_that_never_fits_is_refused_with_both_numbers(
    machine: Machine, workers: int | tuple[int, int], gpus: float | None, cpus: int | None, message: str
) -> None:
    wanted = Workers(*workers) if isinstance(workers, tuple) else Workers(workers, workers)
    with pytest.raises(ConfigError, match=message):
        packing(machine, 9, wanted, gpus, cpus)


# Machines


def test_a_machine_is_made_of_rays_nodes() -> None:
    nodes = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 2.0, "accelerator_type:A10G": 1.0}]
    found = machine_of(nodes, "AMD EPYC")
    assert (found.name, found.cpus, found.gpus, found.usd_per_gpu_hour) == ("A10G", 12.0, 2.0, None)
    assert machine_of(nodes[:1], "AMD EPYC").name == "AMD EPYC"
    assert machine_of(nodes[:1], None).name == "CPU"


def test_the_cluster_file_describes_its_machine_and_its_price() -> None:
    found = read_cluster(ROOT / "clusters" / "gpu.yaml")
    assert sorted(found.nodes) == [(4.0, 0.0)] + [(4.0, 1.0)] * 4
    assert found.name == "A10G"
    assert found.usd_per_gpu_hour and 0 < found.usd_per_gpu_hour < 10
    assert packing(found, 9) == Packing(4, 4, 1)


CLUSTER = """
max_workers: {most}
head_node_type: head
metadata: {{usd_per_hour: {{{prices}}}, gpu: {{big: H100}}}}
available_node_types:
  head: {{resources: {{CPU: 2}}}}
  small: {{resources: {{CPU: 4, GPU: 1}}, max_workers: 3}}
  big: {{resources: {{CPU: 16, GPU: 4}}, max_workers: 2}}
"""


def write_cluster(folder: Path, most: int = 9, prices: str = "small: 1, big: 9") -> Path:
    path = folder / "cluster.yaml"
    path.write_text(CLUSTER.format(most=most, prices=prices))
    return path


def test_a_price_is_that_of_all_workers_a_gpu(tmp_path: Path) -> None:
    found = read_cluster(write_cluster(tmp_path))
    assert (found.gpus, found.cpus) == (3 * 1 + 2 * 4, 2 + 3 * 4 + 2 * 16)
    assert found.usd_per_gpu_hour == (3 * 1 + 2 * 9) / 11
    assert found.name == "H100, unnamed GPU"


def test_the_limit_of_all_workers_counts(tmp_path: Path) -> None:
    found = read_cluster(write_cluster(tmp_path, most=2))
    assert sorted(found.nodes) == [(2.0, 0.0), (16.0, 4.0), (16.0, 4.0)]
    assert found.usd_per_gpu_hour == 9 / 4


def test_a_worker_without_a_price_leaves_no_price(tmp_path: Path) -> None:
    assert read_cluster(write_cluster(tmp_path, prices="big: 9")).usd_per_gpu_hour is None


def test_the_file_of_hosts_that_are_there_says_what_they_have(tmp_path: Path) -> None:
    found = read_cluster(ROOT / "clusters" / "onprem.yaml")
    assert found == Machine(((8.0, 1.0), (8.0, 0.0)), "A10G")
    path = tmp_path / "cluster.yaml"
    path.write_text(HOSTS.format(workers="a, b, c, d"))
    assert read_cluster(path) == Machine(((4.0, 2.0),) * 4 + ((2.0, 0.0),), "H100", 1.5)
    path.write_text(HOSTS.format(workers=""))
    assert read_cluster(path) == Machine(((2.0, 0.0),), "CPU")


HOSTS = """
provider: {{type: local, head_ip: h, worker_ips: [{workers}]}}
metadata:
  nodes: {{head: {{CPU: 2}}, worker: {{CPU: 4, GPU: 2}}}}
  usd_per_hour: {{worker: 3}}
  gpu: {{worker: H100}}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a readable cluster file"),
        ("just words", "the file must be a table"),
        ("", "the file must be a table"),
        ("kind: Pod\n---\nkind: RayJob\nspec: {rayClusterSpec: {}}", "not a complete RayJob .*headGroupSpec"),
        ("provider: {type: aws}", "node types"),
        ("provider: local", "provider must be a table"),
        ("provider: {type: local}", "worker_ips must be a list"),
        ("provider: {type: local, worker_ips: [a]}", "metadata.nodes"),
        ("provider: {type: local, worker_ips: [a]}\nmetadata: {nodes: {head: {CPU: 1}}}", "worker.resources"),
        ("available_node_types: {w: {}}", "w.resources"),
        ("available_node_types: {w: {resources: {CPU: 0}}}", "no node has a CPU or GPU"),
        ("available_node_types: {w: {resources: {CPU: many}}}", "w.resources.CPU must be a number"),
        ("available_node_types: {worker: {resources: {CPU: 1}}}\nmetadata: {gpu: {workr: x}}", "did you mean: worker"),
        ("available_node_types: {w: {resources: {GPU: 1}}}\nmetadata: {usd_per_hour: {w: -1}}", "must be a number"),
    ],
)
def test_a_cluster_file_that_says_too_little_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_cluster(path)


def test_a_missing_cluster_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: not a readable cluster file"):
        read_cluster(tmp_path / "absent.yaml")


def test_planning_imports_neither_torch_nor_ray() -> None:
    script = "import sys, bench.plan, bench.cost; print([n for n in ('torch', 'ray', 'mlflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
