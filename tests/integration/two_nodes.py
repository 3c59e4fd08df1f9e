"""A Ray cluster of two nodes with a CPU each on this host, for one scenario: `python two_nodes.py SCENARIO FOLDER`.

A process of its own, since a process has one Ray. Prints a JSON value; the tests say what it must be.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ray.cluster_utils import Cluster  # noqa: E402

from amsrc.errors import BenchError  # noqa: E402
from bench.cluster import connect  # noqa: E402
from bench.cluster.machine import Machine, Packing, Workers  # noqa: E402
from bench.evaluation.evaluate import evaluate  # noqa: E402
from bench.records.run_folder import history, is_trained  # noqa: E402
from bench.sweeps import trials  # noqa: E402
from bench.sweeps.grid import Cell, Trial  # noqa: E402
from bench.sweeps.trials import Job, run_trials  # noqa: E402
from bench.training import ray_train  # noqa: E402
from bench.training.launch import fit  # noqa: E402
from tests.cubes_made import an_experiment, write_store  # noqa: E402

EPOCHS = 70  # two restarts' time at half a second each


@contextmanager
def nodes(number: int = 2) -> Iterator[Cluster]:
    """A head and other nodes, which this process joins."""
    os.environ.pop("RAY_ADDRESS", None)
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = found.address
    try:
        for _ in range(number - 1):
            found.add_node(num_cpus=1)
        connect.connect()
        yield found
    finally:
        import ray

        ray.shutdown()
        found.shutdown()


def wait_until(true: Callable[[], bool], within_s: float = 200) -> bool:
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def elastic(folder: Path) -> Any:
    """The second node dies in the middle of a training and comes back later."""
    ray_train.GROW_EVERY_S = 2.0
    e = an_experiment(train={"epochs": EPOCHS, "batch": 16, "score_every": 0})
    store = write_store(folder, e)
    with nodes() as found:

        def sizes() -> list[int]:
            return [line["workers"] for run in folder.glob("runs/*") for line in history(run)]

        training = threading.Thread(target=fit, args=(e, store, folder), kwargs={"workers": Workers(1, 2)}, daemon=True)
        training.start()
        times = []
        if wait_until(lambda: len(sizes()) >= 3):
            times.append(time.monotonic())
            found.remove_node(found.worker_nodes.copy().pop(), allow_graceful=False)
        if wait_until(lambda: 1 in sizes()):
            times.append(time.monotonic())
            found.add_node(num_cpus=1)
        if wait_until(lambda: sizes()[-1] == 2):
            times.append(time.monotonic())
        training.join(200)
    took = [after - before for before, after in pairwise(times)]
    record = evaluate(e, store, folder, folder / "results")
    (run,) = folder.glob("runs/*")
    return {"lines": history(run), "took_s": took, "record": asdict(record), "weights": is_trained(run)}


def said(call: Callable[[], Any]) -> str:
    """What a user reads of it, or nothing where all is well; and the seconds that it took."""
    try:
        call()
    except BenchError as error:
        return f"{error.exit_code}: {error}"
    return ""


def other_code(folder: Path) -> Path:
    """A checkout with one line more, and another torch beside it."""
    for name in ("amsrc", "bench"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "bench" / "__init__.py").open("a") as file:
        file.write("# later\n")
    about = folder / "torch-1.0.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    return folder


def checks(folder: Path) -> Any:
    """Nodes that cannot work with this one, and nodes that never come."""
    found: dict[str, Any] = {}
    with nodes() as here:
        with connect.shared([folder]) as probe:
            found["fine"] = said(lambda: connect.check_nodes(probe))
        found["unseen"] = said(lambda: connect.check_nodes(partial(connect.unseen, [folder / "home" / "x"], [])))
        silent = here.worker_nodes.copy().pop()
        raylet = silent.all_processes["raylet"][0].process.pid
        os.kill(raylet, signal.SIGSTOP)
        found["silent"] = said(lambda: connect.check_nodes(within_s=5))
        os.kill(raylet, signal.SIGCONT)
        here.remove_node(silent)
        here.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other_code(folder / "other"))})
        found["other"] = said(connect.check_nodes)
        e = an_experiment(train={"epochs": 2})
        store = write_store(folder, e)
        found["late"] = said(lambda: fit(e, store, folder, workers=2))
        ray_train.WAIT_S = trials.WAIT_S = 10
        promised = Machine(((1.0, 0.0), (1.0, 0.0), (1.0, 0.0)), "three")
        before = time.monotonic()
        found["promise"] = said(lambda: fit(e, store, folder, workers=Workers(3, 4), machine=promised))
        found["promise_s"] = time.monotonic() - before
        trial, job = Trial(0, (Cell(e, store.path),)), Job(folder, folder / "results")
        before = time.monotonic()
        found["trial"] = said(lambda: run_trials([trial], 1, job, Packing(1, 1, 1.0), MagicMock(), folder=folder))
        found["trial_s"] = time.monotonic() - before
    return found


SCENARIOS = {"elastic": elastic, "checks": checks}


if __name__ == "__main__":
    try:
        print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
    except BenchError as error:
        print(json.dumps({"error": str(error), "code": error.exit_code}))
