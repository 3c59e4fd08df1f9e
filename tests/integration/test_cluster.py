"""The sweep on a cluster of two hosts that `clusters/onprem.yaml` describes, started by ssh from a third."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bench.records import read_all
from tests.integration.hosts import HOME, ROOT, SHARED, Host, hosts, unavailable

pytestmark = pytest.mark.timeout(300)

FILE = "clusters/onprem.yaml"
TINY = ("--cube.size", "16", "--model.width", "2", "--train.batch", "128")


@dataclass(frozen=True)
class Cluster:
    """Two hosts in a cluster, and the desk from which it is ruled."""

    desk: Host
    head: Host
    worker: Host

    def ray(self, command: str, *words: str | Path, **options: float) -> "subprocess.CompletedProcess[str]":
        """A command of Ray's cluster launcher, to its end."""
        done = self.desk.run("ray", command, FILE, *words, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The hosts, the checkout on the desk with the cluster's file filled in, and `ray up`."""
    if reason := unavailable():
        pytest.skip(reason)
    with hosts(3, tmp_path_factory.mktemp("hosts")) as (desk, head, worker):
        checkout = desk.home / "amsrc-bench"
        ours = ["rsync", "-a", "--filter=:- .gitignore", f"{ROOT}/", checkout]
        subprocess.run(ours, timeout=60, check=True)
        (checkout / FILE).write_text(filled_in((ROOT / FILE).read_text(), head, worker))
        assert desk.run("ray", "get-auth-token", "--generate").returncode == 0
        made = Cluster(desk, head, worker)
        made.ray("up", "--yes", timeout=200)
        yield made


def filled_in(text: str, head: Host, worker: Host) -> str:
    """The cluster's file as a user fills it in, for hosts of one CPU each."""
    content = yaml.safe_load(text)
    content["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    content["auth"] |= {"ssh_user": "root"}
    content["metadata"] = {"nodes": {"head": {"CPU": 1}, "worker": {"CPU": 1}}}
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        content[name] = [line.replace("ray start", "ray start --num-cpus=1") for line in content[name]]
    return yaml.safe_dump(content)


def test_a_sweep_runs_on_both_hosts_and_its_results_come_home(cluster: Cluster) -> None:
    words = ["--toy", "--datasets", "toy-ped2", "--recipes", "amsrc,baseline", "--train.epochs", "2", *TINY]
    places = ["--home", SHARED / "home", "--results", SHARED / "results"]
    done = cluster.ray(
        "submit", "bench/sweep.py", "--cluster", HOME / "amsrc-bench" / FILE, *words, *places, timeout=250
    )
    print(done.stdout, done.stderr)
    tasks = cluster.ray("exec", "ray list tasks --detail --format=json --limit=1000").stdout
    print(tasks)
