"""Hosts of a small network, on this machine: each with its own processes, network, name, home, /tmp and ssh server.

A host is a first process in Linux namespaces without names. It ends when its standard input is closed, and the kernel
then ends everything in it: whatever becomes of the tests, nothing stays behind that would have to be tidied up.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(pwd.getpwuid(0).pw_dir)
CHECKOUT = HOME / "amsrc-bench"
SHARED = Path("/srv")
"""The folder that all hosts see, as they would a network file system."""
NETWORK = "10.77.0"
COMMANDS = ("ip", "nsenter", "rsync", "ssh", "ssh-keygen", "sshd", "unshare")
SPACES = {"mount": "mnt", "net": "net", "uts": "uts", "ipc": "ipc", "pid": "pid_for_children"}

# The first process has to reap what is orphaned, which bash does, and `read` ends with the test that started it.
SWITCH = "ip link add lan type bridge && ip link set lan up && echo up && read"

# The machine's files are seen read-only, with folders of the host's own over /tmp and the home, and Python in its
# place. In the checkout's place ~/amsrc-bench is seen, so that the environment made there imports what was brought.
HOST = """
set -e
echo apart
read  # until it is wired
ip link set lo up
ip address add {address}/24 dev eth0
ip link set eth0 up
ip route add default via {network}.1  # there is nobody, but Ray asks for the way out to learn its own address
hostname {name}
mount --bind {files}/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/python
mount --bind {python} /run/python
mount --bind {root}/.venv {files}/home/amsrc-bench/.venv
mount -o remount,bind,ro {files}/home/amsrc-bench/.venv
mount --bind {shared} {mount}
mount --rbind {files}/home {home}
mount --rbind {files}/tmp /tmp
mkdir -p {python} {root}
mount --rbind /run/python {python}
mount --rbind {home}/amsrc-bench {root}
mount -o remount,bind,ro /
{sshd} -f {home}/.ssh/sshd_config -E /tmp/sshd.log
for _ in {{1..500}}; do (: < /dev/tcp/{address}/22) 2> /dev/null && break; sleep 0.02; done
echo up
read
"""

SSHD = f"""
HostKey {HOME}/.ssh/id_ed25519
AuthorizedKeysFile {HOME}/.ssh/id_ed25519.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


def unavailable() -> str | None:
    """Why no hosts can be made here; None where they can."""
    if os.geteuid():
        return "only root can make hosts"
    if missing := [name for name in COMMANDS if not shutil.which(name)]:
        return f"no {', '.join(missing)} here; install openssh-server, rsync, iproute2, util-linux"
    trial = _apart("ip link add lan type bridge && ip link add port type veth && mount -t tmpfs tmpfs /run")
    tried = subprocess.run(trial, capture_output=True, text=True, timeout=60, check=False)
    return f"this machine allows no namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _apart(script: str) -> list[str]:
    spaces = [f"--{kind}" for kind in SPACES]
    return ["unshare", *spaces, "--mount-proc", "--fork", "--kill-child", "bash", "-c", script]


class Space:
    """Namespaces and the processes in them, which end with the first one, the script's."""

    def __init__(self, script: str) -> None:
        pipe = subprocess.PIPE
        self.first = subprocess.Popen(_apart(script), stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self.of = Path(f"/proc/{self.first.pid}/ns")
        self.id: Path | None = None

    def await_word(self, word: str) -> None:
        """Wait until the script says so; it says nothing else."""
        assert self.first.stdout
        assert self.first.stdout.readline() == f"{word}\n", "it could not be set up; what it said is above"
        self.id = (self.of / SPACES["pid"]).readlink()

    def go_on(self) -> None:
        """Let a `read` of the script return."""
        assert self.first.stdin
        print(file=self.first.stdin, flush=True)

    def command(self, words: Sequence[str | Path]) -> list[str | Path]:
        """What runs a command in here."""
        return ["nsenter", *(f"--{kind}={self.of / name}" for kind, name in SPACES.items()), "--wd=/", *words]

    def processes(self) -> dict[int, str]:
        """Names of everything that lives in here, by the machine's number for it."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "ns" / "pid").readlink() == self.id:
                    found[int(path.name)] = (path / "comm").read_text().strip()
            except OSError:  # it has just ended
                continue
        return found

    def kill(self) -> None:
        """End the first process by the end of its input; the kernel ends all others before it lets go of it."""
        try:
            self.first.communicate(timeout=60)
        finally:
            self.first.kill()


@dataclass(frozen=True)
class Host:
    """One host. All of them accept each other's ssh key for root."""

    name: str
    address: str
    files: Path
    """Where its own folders lie on the machine: `home`, `tmp`."""
    space: Space
    switch: Space

    @property
    def home(self) -> Path:
        """Where its ~ lies on the machine."""
        return self.files / "home"

    @property
    def shared(self) -> Path:
        """Where the folder that all hosts see lies on the machine."""
        return self.files.parent / "shared"

    def processes(self) -> dict[int, str]:
        """Names of all its own, by the machine's number for each."""
        return self.space.processes()

    def run(self, *words: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command there, in ~/amsrc-bench and with its environment, and wait for it."""
        return subprocess.run(
            self._command(words), env=self._environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, *words: str | Path, output: Path) -> subprocess.Popen[str]:
        """Start a command there; all that it prints goes to a file."""
        with output.open("w") as file:
            return subprocess.Popen(
                self._command(words),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
            )

    def cut(self) -> None:
        """Take it off the network; its processes live on."""
        self._plug("down")

    def join(self) -> None:
        """Put it back on the network."""
        self._plug("up")

    def kill(self) -> None:
        """Switch it off, with everything that runs there."""
        self.space.kill()

    def _plug(self, state: str) -> None:
        subprocess.run(self.switch.command(["ip", "link", "set", self.name, state]), timeout=60, check=True)

    def _command(self, words: Sequence[str | Path]) -> list[str | Path]:
        return self.space.command(["env", f"--chdir={CHECKOUT}", *words])

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(HOME),
            "PATH": f"{ROOT}/.venv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }


@contextmanager
def hosts(number: int, folder: Path) -> Iterator[list[Host]]:
    """Hosts that are up and wired, each reachable at its address and by its name.

    Their ~/amsrc-bench holds the checkout's `.venv` alone, which saves minutes; the code has to be brought.

    Args:
        folder: an empty one, for all that they write.
    """
    addresses = {f"host{n}": f"{NETWORK}.{n}" for n in range(2, number + 2)}
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], timeout=60, check=True)
    (folder / "shared").mkdir()
    with ExitStack() as stack:
        switch = _space(SWITCH, stack)
        switch.await_word("up")
        made = []
        for name, address in addresses.items():
            files = folder / name
            _furnish(files, key, addresses)
            space = _space(_script(name, address, files), stack)
            space.await_word("apart")
            _wire(switch, space, name)
            space.go_on()
            made.append(Host(name, address, files, space, switch))
        for host in made:
            host.space.await_word("up")
        yield made


def _space(script: str, stack: ExitStack) -> Space:
    space = Space(script)
    stack.callback(space.kill)
    return space


def _script(name: str, address: str, files: Path) -> str:
    return HOST.format(
        name=name,
        address=address,
        network=NETWORK,
        files=files,
        home=HOME,
        root=ROOT,
        shared=files.parent / "shared",
        mount=SHARED,
        python=sys.base_prefix,
        sshd=shutil.which("sshd"),
    )


def _furnish(files: Path, key: Path, addresses: Mapping[str, str]) -> None:
    """A host's own folders, and what stands there from the beginning."""
    (files / "tmp").mkdir(parents=True)
    (files / "tmp").chmod(0o1777)
    (files / "home" / "amsrc-bench" / ".venv").mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (files / "hosts").write_text("\n".join(lines) + "\n")
    ssh = files / "home" / ".ssh"
    ssh.mkdir(mode=0o700)
    for path in (key, key.with_suffix(".pub")):
        shutil.copy(path, ssh)
    (ssh / "sshd_config").write_text(SSHD)


def _wire(switch: Space, space: Space, name: str) -> None:
    """A cable from the switch to a host."""
    ends = ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(space.first.pid)]
    # The switch's network with this machine's processes: the cable's other end is named by one of them.
    at_switch = ["nsenter", f"--net={switch.of / 'net'}"]
    for words in (ends, ["ip", "link", "set", name, "master", "lan"], ["ip", "link", "set", name, "up"]):
        subprocess.run([*at_switch, *words], timeout=60, check=True)
