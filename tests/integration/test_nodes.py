"""Nodes that die and come back, that cannot work with the others, that never come: scenarios of `two_nodes.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hosts import unavailable
from tests.integration.two_nodes import EPOCHS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def played(scenario: str, folder: Path) -> Any:
    """What a scenario found out, in a process of its own."""
    script = Path(__file__).with_name("two_nodes.py")
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), scenario, str(folder)]
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(unavailable() is None, reason="two hosts can be had here: test_cluster does it with these")
def test_training_goes_on_with_the_workers_that_are_left_and_grows_again(tmp_path: Path) -> None:
    found = played("elastic", tmp_path)
    lines = found["lines"]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    changes = [(line["workers"], line["restarts"]) for line in lines]
    assert list(dict.fromkeys(changes)) == [(2, 0), (1, 1), (2, 2)]
    assert (found["record"]["status"], found["record"]["workers"], found["record"]["restarts"]) == ("done", 2, 2)
    assert found["weights"]
    died, grew = found["took_s"]
    assert died < 150, "from the death of a node to the next epoch"
    assert grew < 150


def test_what_cannot_work_is_said_with_its_reason_and_nothing_waits_for_ever(tmp_path: Path) -> None:
    found = played("checks", tmp_path)
    assert found["fine"] == ""
    for name, nodes, reason in (
        ("unseen", 2, f"{tmp_path}/home is not the same folder"),
        ("silent", 1, "did not answer within 5 s"),
        ("other", 1, "torch 1.0 instead of "),
    ):
        assert found[name].startswith(f"2: {nodes} of 2 nodes cannot work with "), found[name]
        assert found[name].count(f": {reason}") == nodes
        assert "Mend these nodes, or take them out of the cluster" in found[name]
    assert ", amsrc and bench " in found["other"]
    assert found["late"].startswith("2: ")
    assert " has torch 1.0 instead of " in found["late"]
    assert "--workers 3:4 needs 3 CPUs; the cluster has 2 CPUs and 0 GPUs." in found["promise"]
    assert found["promise"].startswith("1: waited ")
    assert found["promise_s"] < 60
    assert found["trial"].startswith("1: waited ")
    assert "a run asks for 1 CPUs and 1 GPUs; the cluster has 2 CPUs and 0 GPUs." in found["trial"]
    assert found["trial_s"] < 60
