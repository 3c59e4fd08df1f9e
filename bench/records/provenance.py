"""Where a number came from: code, machine and library versions, as the record keeps them.

Reads git, /proc and package metadata; writes nothing. Call `git` where the checkout is
(the driver) and `hardware` where training runs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import ROOT

PACKAGES = ("torch", "numpy", "opencv-python-headless", "ray", "mlflow", "optuna")


def git(root: Path = ROOT) -> dict[str, str | bool | None]:
    """The commit of the code and whether the working tree differs from it.

    `results/` does not count as a difference: writing a record there must not make the next one dirty.
    Files that git ignores do not count either; other untracked files do.

    Returns:
        `sha` (40 hex digits) and `dirty`; both None when `root` is not the top of a checkout or git is missing.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    sha = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)results")
    if top is None or sha is None or changes is None or Path(top).resolve() != root.resolve():
        return {"sha": None, "dirty": None}
    return {"sha": sha, "dirty": changes != ""}


def code(root: Path = ROOT) -> str:
    """`git` in a word: the commit's hash, with `+changes` where the tree differs; `unknown` outside a checkout."""
    found = git(root)
    return f"{found['sha']}{'+changes' if found['dirty'] else ''}" if found["sha"] else "unknown"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, str | int | float | list[str] | None]:
    """This machine: `cpu` (model), `cores` (usable by this process), `memory_gib`, `gpus` (names).

    GPUs are listed only when torch is already imported: finding them is no reason to import it.
    """
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu(), "cores": cores, "memory_gib": round(gib, 1), "gpus": _gpus()}


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or None


def _gpus() -> list[str]:
    if "torch" not in sys.modules:
        return []
    torch = importlib.import_module("torch")  # it is there; this waits where another thread is still importing it
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a number; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def identity() -> dict[str, str | None]:
    """What must be the same on every node that works on a run: Python, the packages that compute, this source code.

    Returns:
        `python`, `torch`, `numpy` and `ray` (versions) and `amsrc and bench` (a digest); None for what is missing.
    """
    sources = [found for name in ("amsrc", "bench") if (found := importlib.util.find_spec(name)) and found.origin]
    digest = hashlib.sha256()
    for folder in (Path(str(found.origin)).parent for found in sources):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder.parent).as_posix()}\n".encode() + path.read_bytes())
    versions = {name: _version(name) for name in ("torch", "numpy", "ray")}
    named = {name: found and found.partition("+")[0] for name, found in versions.items()}  # +cpu on a head, +cu128 else
    code = digest.hexdigest()[:12] if len(sources) == 2 else None
    return {"python": platform.python_version(), **named, "amsrc and bench": code}


def differences(theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> str:
    """`torch 2.12.0 instead of 2.13.0, ...` of two identities; empty where they are the same."""
    return ", ".join(
        f"{name} {theirs.get(name) or 'is missing'} instead of {value}"
        for name, value in ours.items()
        if theirs.get(name) != value
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
