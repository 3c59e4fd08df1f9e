"""What a cluster file says of its machine: nodes, GPUs, price."""

from pathlib import Path

import pytest

from amsrc.errors import ConfigError
from bench.cluster.launcher_files import read_cluster
from bench.cluster.machine import Machine, Packing, packing

ROOT = Path(__file__).resolve().parents[2]


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
