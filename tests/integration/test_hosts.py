"""The hosts that other tests rely on: wired, apart from each other and from this machine, and gone without a trace."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import ROOT, SHARED, Host, hosts, unavailable

SSH = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR")
IMPATIENT = (*SSH, "-o", "ConnectTimeout=2")

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def possible() -> None:
    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Host]]:
    with hosts(2, tmp_path) as made:
        yield made


def test_hosts_reach_each_other_unless_they_are_cut_off(pair: list[Host]) -> None:
    one, two = pair
    assert one.run(*SSH, two.address, "hostname").stdout == f"{two.name}\n"
    two.cut()
    assert one.run(*IMPATIENT, two.address, "hostname").returncode == 255
    two.join()
    assert one.run(*SSH, two.name, "hostname").stdout == f"{two.name}\n"
    two.kill()
    assert two.processes() == {}
    assert one.run(*IMPATIENT, two.address, "hostname").returncode == 255


def test_a_host_writes_to_folders_of_its_own_and_to_the_shared_one(pair: list[Host]) -> None:
    one, two = pair
    for path in ("~/file", "/tmp/file", "/dev/shm/file", f"{SHARED}/file"):
        assert one.run("bash", "-c", f"echo {one.name} > {path}").returncode == 0
    seen = two.run("bash", "-c", f"cat ~/file /tmp/file /dev/shm/file {SHARED}/file")
    assert seen.stdout == f"{one.name}\n"
    assert seen.stderr.count("No such file") == 3
    assert not Path("/dev/shm/file").exists()
    for path in ("/etc/file", "/usr/file", f"{ROOT}/.venv/file"):
        assert "Read-only file system" in one.run("touch", path).stderr


def test_processes_end_with_their_host(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hosts(2, tmp_path) as made:
        for host in made:
            host.run("bash", "-c", "setsid sleep 600 < /dev/null > /dev/null 2>&1 &")
        soon(lambda: [sorted(host.processes().values()) for host in made] == [["bash", "sleep", "sshd"]] * 2)
        _ = 1 / 0
    assert [host.processes() for host in made] == [{}, {}]
    assert made[0].switch.processes() == {}


def test_hosts_end_with_the_process_that_made_them(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from tests.integration.hosts import hosts
with hosts(2, Path(sys.argv[1])) as made:
    print(*(pid for host in made for pid in host.processes()), flush=True)
    time.sleep(600)
"""
    words = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = process.stdout.readline().split()
        process.kill()
    assert len(pids) >= 4
    soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def soon(true: Callable[[], bool]) -> None:
    """Look until it is true."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
