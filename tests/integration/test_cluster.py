"""The sweep on a cluster of two hosts that `clusters/onprem.yaml` describes, ruled by ssh from a third.

The tests share the cluster and build on each other, from `ray up` to `ray down`: workers die, a host is cut off, the
head is lost.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.records.records import read_all
from bench.records.run_folder import history
from tests.integration.conftest import files, planned, wait_until
from tests.integration.hosts import CHECKOUT, HOME, ROOT, SHARED, Host, hosts, unavailable
from tests.integration.test_sweep import TINY, at_work, unlogged

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FILE = "clusters/onprem.yaml"
EPOCHS = 20  # of a cell that is struck in the middle
MANY = 130  # of a training whose workers come and go
RESULTS = SHARED / "results"

# Half a minute of silence makes a host dead, and itself give up, where it would take minutes.
QUICK = {
    "RAY_health_check_period_ms": 1000,
    "RAY_health_check_timeout_ms": 5000,
    "RAY_health_check_failure_threshold": 3,
    "RAY_gcs_rpc_server_reconnect_timeout_s": 5,
    "RAY_grpc_client_keepalive_time_ms": 5000,
    "RAY_grpc_client_keepalive_timeout_ms": 5000,
}


@dataclass
class Cluster:
    """Two hosts in a cluster, the desk from which it is ruled, and a host to put in the head's place."""

    desk: Host
    head: Host
    worker: Host
    spare: Host

    def up(self) -> None:
        """Fill in the cluster's file, start it, and wait for the worker, which `ray up` leaves to the head."""
        text = filled_in((ROOT / FILE).read_text(), self.head, self.worker)
        (self.desk.home / CHECKOUT.name / FILE).write_text(text)
        self.ray("up", "--yes", timeout=200)
        end = time.monotonic() + 200
        while sum(node["state"] == "ALIVE" for node in self.listed("nodes")) < 2:
            assert time.monotonic() < end, "the worker did not join"
            time.sleep(1)

    @contextmanager
    def sweeping(self, output: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`ray submit` beside the test; all that it prints goes to a file."""
        process = self.desk.start("ray", "submit", FILE, *sweep(*words), output=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait(timeout=60)

    def ray(self, command: str, *words: str | Path, timeout: float = 120) -> str:
        """A command of Ray's cluster launcher, to its end; gives what it printed."""
        done = self.desk.run("ray", command, FILE, *words, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def listed(self, kind: str, *words: str) -> list[dict[str, Any]]:
        """What the cluster says of its `nodes` or `tasks`."""
        done = self.head.run("env", "RAY_AUTH_MODE=token", "ray", "list", kind, "--format=json", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    @property
    def shared(self) -> Path:
        """Where the folder that all hosts see lies on this machine."""
        return self.desk.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The hosts, the checkout on the desk with the cluster's file filled in, and `ray up`."""
    if reason := unavailable():
        pytest.skip(reason)
    with hosts(4, tmp_path_factory.mktemp("hosts")) as (desk, head, worker, spare):
        copy = ["rsync", "-a", "--filter=:- .gitignore", f"{ROOT}/", desk.home / CHECKOUT.name]
        subprocess.run(copy, timeout=60, check=True)
        assert desk.run("ray", "get-auth-token", "--generate").returncode == 0
        assert "No module named 'bench'" in imported(head)
        made = Cluster(desk, head, worker, spare)
        made.up()
        yield made


def imported(host: Host) -> str:
    """What the environment says of the package there: the same as in ~/amsrc-bench, or that there is none."""
    code = (
        f"import bench; from pathlib import Path; print(Path(bench.__file__).samefile('{CHECKOUT}/bench/__init__.py'))"
    )
    done = host.run("env", "--chdir=/", "python", "-c", code)
    return done.stdout + done.stderr


def filled_in(text: str, head: Host, worker: Host) -> str:
    """The cluster's file as a user fills it in, for hosts of one CPU each that soon miss each other."""
    content = yaml.safe_load(text.replace("/shared", str(SHARED)))
    content["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    content["auth"] |= {"ssh_user": "root"}
    content["metadata"] = {"nodes": {"head": {"CPU": 1}, "worker": {"CPU": 1}}}
    start = " ".join(f"{name}={value}" for name, value in QUICK.items()) + " ray start --num-cpus=1"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        content[name] = [line.replace("ray start", start) for line in content[name]]
    return yaml.safe_dump(content)


def sweep(*words: str) -> list[str | Path]:
    """The words of `ray submit` for a sweep over two recipes, on what the file says that both hosts have."""
    where = ["--results", RESULTS, *unlogged(SHARED)]  # the file sets the other defaults
    return ["bench/sweep.py", "--toy", "--datasets", "toy-ped2", "--recipes", "amsrc,baseline", *where, *TINY, *words]


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> str:
    """What a sweep of two cells printed."""
    return cluster.ray("submit", *sweep("--train.epochs", "2"), timeout=250)


def test_a_sweep_runs_on_both_hosts_and_its_results_come_home(cluster: Cluster, first: str) -> None:
    assert "2 runs: 2 done" in first
    assert [imported(host) for host in (cluster.head, cluster.worker)] == ["True\n"] * 2
    tasks = cluster.listed("tasks", "--detail", "--limit=1000")
    addresses = {task["profiling_data"]["node_ip_address"] for task in tasks if task["name"] == "_work.train"}
    assert addresses == {cluster.head.address, cluster.worker.address}

    cluster.ray("rsync-down", f"{RESULTS}/", f"{HOME}/brought/")
    brought = cluster.desk.home / "brought"
    records = read_all(brought)
    assert {record.recipe: record.status for record in records} == {"amsrc": "done", "baseline": "done"}
    tables = {path.name: path.read_text() for path in (brought / "tables").iterdir()}
    for path in (brought / "tables").iterdir():
        path.unlink()
    made = cluster.desk.run("amsrc-bench", "tables", "--results", HOME / "brought")
    assert made.returncode == 0, made.stdout + made.stderr
    assert {path.name: path.read_text() for path in (brought / "tables").iterdir()} == tables
    assert tables["table2.md"].count("| measured |") == 2


def test_nobody_joins_without_the_token(cluster: Cluster) -> None:
    refused = cluster.head.run("env", "RAY_AUTH_MODE=disabled", "ray", "status")
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr


def test_cells_of_a_host_that_is_cut_off_are_run_on_the_other(cluster: Cluster, first: str, tmp_path: Path) -> None:
    """Those that were finished are not, and the host is taken in again when it returns."""
    results = cluster.shared / "results"
    runs = {run: files(run) for run in (cluster.shared / "home" / "runs").iterdir()}
    before = files(results / "records", results / "scores")
    output = tmp_path / "printed.txt"
    with cluster.sweeping(output, "--axis", f"train.epochs=2,{EPOCHS}") as process:
        wait_until(
            lambda: bool(struck := runs_of(cluster.worker, cluster.shared)) and history(struck[0]) != [], process
        )
        (struck,) = runs_of(cluster.worker, cluster.shared)
        with cut_off(cluster.worker):
            assert process.wait(timeout=200) == 0, output.read_text()
    assert planned(output.read_text())[1:] == (2, 2)
    records = {record.run: record for record in read_all(results)}
    assert [record.status for record in records.values()] == ["done"] * 4
    assert {name for name, record in records.items() if record.restarts} == {struck.name}
    assert [line["epoch"] for line in history(struck)] == list(range(1, EPOCHS + 1))
    assert {name: content for name, content in files(results).items() if name in before} == before
    assert {run: files(run) for run in runs} == runs

    end = time.monotonic() + 100
    while alive(cluster) != {cluster.head.address, cluster.worker.address}:
        assert time.monotonic() < end, "it did not come back"


@contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """Without its network for a while."""
    host.cut()
    try:
        yield
    finally:
        host.join()


def test_training_over_both_hosts_goes_on_when_a_worker_dies_and_when_a_host_is_cut_off(
    cluster: Cluster, first: str, tmp_path: Path
) -> None:
    """On what is left, from the last checkpoint; when the host returns, with both again."""
    output, runs = tmp_path / "printed.txt", cluster.shared / "home" / "runs"
    before = set(runs.iterdir())
    words = ["--recipes", "baseline", "--workers", "1:2", "--train.epochs", str(MANY), "--name", "elastic"]

    def log() -> list[dict[str, Any]]:
        return [line for run in set(runs.iterdir()) - before for line in history(run)]

    def shows(workers: int, restarts: int) -> Callable[[], bool]:
        """Whether an epoch was trained by so many workers after so many restarts at least."""
        return lambda: any(line["workers"] == workers and line["restarts"] >= restarts for line in log())

    with cluster.sweeping(output, *words) as process:
        wait_until(shows(2, 0), process)
        (victim,) = train_workers_of(cluster.worker)
        os.kill(victim, signal.SIGKILL)
        wait_until(shows(2, 1), process)
        with cut_off(cluster.worker):
            so_far = log()[-1]["restarts"]
            wait_until(shows(1, so_far + 1), process)
        so_far = log()[-1]["restarts"]
        wait_until(shows(2, so_far + 1), process)
        assert process.wait(timeout=500) == 0, output.read_text()
    lines = log()
    assert [line["epoch"] for line in lines] == list(range(1, MANY + 1))
    (record,) = [record for record in read_all(cluster.shared / "results") if len(record.epochs) == MANY]
    assert (record.status, record.workers) == ("done", 2)
    assert record.restarts == lines[-1]["restarts"] >= 3


def train_workers_of(host: Host) -> list[int]:
    """The processes of Ray Train that train on a host, by the machine's number."""
    return [pid for pid in host.processes() if "RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_sweep_goes_on_from_storage_when_the_head_is_lost(cluster: Cluster, first: str, tmp_path: Path) -> None:
    """Another host in its place, and the same command: what was finished is not run again."""
    results, runs = cluster.shared / "results", cluster.shared / "home" / "runs"
    words = ["--axis", f"train.epochs=2,{EPOCHS + 1}"]
    before = files(results / "records", results / "scores")
    known = set(runs.iterdir())
    with cluster.sweeping(tmp_path / "printed.txt", *words) as process:
        wait_until(lambda: any(len(history(run)) >= 2 for run in set(runs.iterdir()) - known), process)
        cluster.head.kill()
    cluster.head = cluster.spare
    cluster.up()
    printed = cluster.ray("submit", *sweep(*words), timeout=250)
    assert planned(printed)[1:] == (2, 2)
    assert {name: content for name, content in files(results).items() if name in before} == before
    records = {str(record.run): record for record in read_all(results)}
    started = [records[run.name] for run in set(runs.iterdir()) - known]
    assert [record.status for record in started] == ["done"] * 2
    assert sum(record.restarts for record in started) >= 1
    for record in started:
        assert [line["epoch"] for line in history(runs / str(record.run))] == list(range(1, EPOCHS + 2))


def runs_of(host: Host, shared: Path) -> Sequence[Path]:
    """The runs that a process of the host is at work on."""
    inside = host.processes()
    return [lock.parent for lock in shared.glob("home/runs/*/.lock") if at_work(lock.parent) in inside]


def alive(cluster: Cluster) -> set[str]:
    return {node["node_ip"] for node in cluster.listed("nodes") if node["state"] == "ALIVE"}


def test_nothing_runs_after_ray_down(cluster: Cluster) -> None:
    cluster.ray("down", "--yes")
    ssh = cluster.desk.run(
        "ssh", "-o", "StrictHostKeyChecking=no", cluster.worker.address, "amsrc-bench/.venv/bin/ray stop"
    )
    assert ssh.returncode == 0, ssh.stdout + ssh.stderr
    end = time.monotonic() + 60
    while (left := {*cluster.head.processes().values(), *cluster.worker.processes().values()}) != {"bash", "sshd"}:
        assert time.monotonic() < end, f"besides what every host runs: {left}"
        time.sleep(0.2)
