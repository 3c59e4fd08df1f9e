"""How fast the parts of the benchmark are on this machine, on made-up cubes and videos through the real code.

    amsrc-bench speed [--quick] [--out DIR]

Writes `<out>/<machine>.json`, `<out>/table.md` (all machines measured into that folder so far) and the figure of how
costs grow; reads no data set. Next to a row are the plain reference implementation (`bench.speed.reference`), measured
interleaved with it, and what the machine allows. The plan of a sweep takes its hours from these files
(`bench.sweeps.estimate`): measure with nothing else running.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amsrc.files import write_file, write_json
from bench.records import provenance
from bench.records.speeds import Row, read_file
from bench.speed import growth, harness, network, preparing
from bench.storage.places import writable

HEAD = ("stage", "settings", "on", "median", "spread", "repeats", "reference", "times as fast", "limit", "of it")
ABOUT = """Made by `amsrc-bench speed`. Spread: largest minus smallest of the repeats. Reference: the same work as the
field usually writes it (`bench/speed/reference.py`: one cube at a time, fp32, contiguous, one process), interleaved
with the row. Limit: what the rates measured on this machine in the same run allow (`bench/speed/roofline.py`; of
multiplying, the faster of a matrix product and a large convolution).
"""


def run(out: Path, quick: bool) -> list[Row]:
    """Measure this machine, write the files and print its table.

    Args:
        quick: fewer and shorter repeats.
    """
    writable(out, "--out")
    rows: list[Row] = []
    busy = os.getloadavg()[0]
    for name, needs, stage in STAGES:
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name}: left out, {', '.join(missing)} is not installed", flush=True)
            continue
        for found in stage(quick):
            print(" | ".join(_line(found)), flush=True)
            rows.append(found)
    hardware = provenance.hardware()
    path = out / f"{machine(hardware)}.json"
    about = {"measured": provenance.now(), "quick": quick, "load_before": busy}
    about |= {"hardware": hardware, "versions": provenance.versions(), "git": provenance.git()}
    write_json(path, {**about, "rows": [asdict(row) for row in rows]})
    if importlib.util.find_spec("matplotlib") and (figure := growth.draw(rows)):
        from bench.figures.style import render

        write_file(path.with_suffix(".svg"), render(figure, "svg"))
    if absent := [package for package in ("pydantic", "tabulate") if importlib.util.find_spec(package) is None]:
        print(f"table.md: left out, {', '.join(absent)} is not installed\nwritten: {path}")
        return rows
    text = table(out)
    write_file(out / "table.md", text.encode())
    print(f"\n{text}\nwritten: {path}, {out / 'table.md'}")
    return rows


def machine(hardware: Mapping[str, Any]) -> str:
    """What to call this kind of machine in a file's name: its GPUs, else its CPU and cores."""
    gpus = hardware["gpus"]
    name = f"{gpus[0]} {len(gpus)}" if gpus else f"{hardware['cpu'] or 'cpu'} {hardware['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(folder: Path) -> str:
    """All that was measured into a folder, in Markdown, a table a machine.

    Raises:
        DataError: a file there is not one of speeds.
    """
    from tabulate import tabulate

    parts = ["# Measured speeds\n\n" + ABOUT]
    for path in sorted(folder.glob("*.json")):
        about, rows = read_file(path)
        hardware, git = about["hardware"], about["git"]
        has = [*hardware["gpus"], f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"]
        commit = f"commit {git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git["sha"] else "no commit"
        quick = ", quick" if about["quick"] else ""
        lines = tabulate(
            list(map(_line, rows)),
            headers=HEAD,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "left", "left", "right", "right", "right", "right", "right", "left", "right"),
        )
        grows = "; ".join(f"{g.stage} with {g.of}^{g.exponent:.2f}" for g in growth.read(rows))
        when = f"{about['measured'][:10]}, {commit}{quick}; load before {about['load_before']:.1f}"
        said = f"{'; '.join(has)}; torch {about['versions']['torch']}; {when}"
        drawn = f"\nCosts grow: {grows}.\n\n![cost over size]({path.stem}.svg)\n" if grows else ""
        parts.append(f"## {path.stem}\n\n{said}\n\n{lines}\n{drawn}")
    return "\n".join(parts)


def _line(row: Row) -> tuple[str, ...]:
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
    on = "GPU" if row.threads is None else f"{row.threads} CPU thread{'s' if row.threads > 1 else ''}"
    times, part = row.times_reference, row.of_limit
    return (
        row.stage,
        settings,
        on,
        f"{_digits(row.median)} {row.unit}",
        _digits(row.spread),
        str(row.repeats),
        "" if row.reference is None else _digits(row.reference),
        "" if times is None else f"{times:.2f}",
        "" if row.limit is None else f"{_digits(row.limit)}: {row.limited_by}",
        "" if part is None else f"{100 * part:.0f} %",
    )


def _digits(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


STAGES: tuple[tuple[str, tuple[str, ...], Callable[[bool], Iterator[Row]]], ...] = (
    ("machine", (), network.machine),
    ("train and score", (), network.train_and_score),
    ("store to record", ("pandas", "safetensors", "sklearn", "scipy"), network.cell),
    ("packed", (), network.packed),
    ("null", (), harness.null_row),
    ("fusion search", ("scipy",), harness.fusion_search),
    ("AUROC", ("sklearn",), harness.one_auroc),
    ("prepare", (), preparing.preparing),
    ("store", (), preparing.reading),
    ("tables", ("pydantic", "scipy", "tabulate"), harness.making_tables),
    ("start-up", ("pydantic", "scipy", "tabulate"), harness.starting),
    ("cell overhead", ("ray", "mlflow"), harness.cell_overhead),
    ("workers", ("ray",), harness.by_workers),
    ("growth", (), growth.growing),
    ("memory", (), growth.remembering),
)
"""What is measured: its name, the packages that it needs besides torch, and the function."""
