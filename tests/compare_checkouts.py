"""Run the same commands in two checkouts and compare the numbers; for changes that must not move any.

    python tests/compare_checkouts.py OLD NEW --data ../shared/data --work /tmp/compare

Each checkout has its own `.venv`. On real Ped2: null-flow, null-area and `amsrc-small` for two epochs with seed 0, all
scores of its cubes, every rule and the fusion curve to 1e-6; on the toy data: Table 1 and Table 2. What a checkout has
computed under `--work` is not computed again. Exit code 1 where a number differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

TOLERANCE = 1e-6
PARTS = {"s_f": "consistency", "s_p": "prediction"}
"""Columns of the scores before they were named by part."""
TOY = ("amsrc", "no-gate-add", "baseline", "null-flow", "null-frame-index")


def main() -> int:
    """Compare and print a line a number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ped2/ with its boxes")
    parser.add_argument("--work", type=Path, required=True, help="where both checkouts work")
    args = parser.parse_args()
    old, new = (
        measured(checkout.resolve(), args.data.resolve(), (args.work / name).resolve())
        for name, checkout in (("old", args.old), ("new", args.new))
    )
    differ = 0
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before is None or after is None or np.shape(before) != np.shape(after):
            print(f"DIFFERS  {name}: only in one checkout, or of another shape")
            differ += 1
            continue
        gap = float(np.max(np.abs(np.asarray(before) - np.asarray(after)), initial=0.0))
        same = gap <= TOLERANCE
        differ += not same
        about = f"{before:.6f}" if np.ndim(before) == 0 else f"{len(before):,} values"
        print(f"{'equal   ' if same else 'DIFFERS '} {name}: {about}, largest difference {gap:.1e}")
    print(f"{len({*old, *new}) - differ} equal, {differ} different")
    return 1 if differ else 0


def measured(checkout: Path, data: Path, work: Path) -> dict[str, float | np.ndarray]:
    """Every number of one checkout by name."""
    home, results = work / "home", work / "results"
    ped2 = ["--dataset", "ped2", "--home", home, "--boxes", f"file:{data}/ped2/boxes_{{split}}.npz"]
    small = ["--recipe", "amsrc-small", "--train.epochs", "2", "--seed", "0", *ped2]
    if not (work / "done").is_file():
        run(checkout, "prepare", *ped2, "--root", data)
        for recipe in ("null-flow", "null-area"):
            run(checkout, "evaluate", "--recipe", recipe, *ped2, "--results", results)
        run(checkout, "train", *small)
        run(checkout, "evaluate", *small, "--results", results)
        toy = ["--toy", "--recipes", ",".join(TOY), "--home", work / "toy", "--results", work / "toy-results"]
        run(checkout, "sweep", *toy)
        (work / "done").touch()
    found: dict[str, float | np.ndarray] = {}
    for path in sorted((results / "records").glob("*/*/*.json")):
        record = json.loads(path.read_text())
        found[f"ped2 {record['recipe']} auroc"] = record["metrics"]["auroc"]
        for rule, chosen in record["rules"].items():
            for number in ("auroc", "epoch"):
                if chosen.get(number) is not None:
                    found[f"ped2 {record['recipe']} rule {rule} {number}"] = float(chosen[number])
        if record["fusion"]:
            found[f"ped2 {record['recipe']} fusion auroc"] = np.array(record["fusion"]["auroc"], np.float64)
        if record["recipe"] == "amsrc-small":
            table = pd.read_parquet(home / "runs" / record["run"] / "cubes.parquet").rename(columns=PARTS)
            for split, rows in table.groupby("split"):
                for part in PARTS.values():
                    found[f"ped2 amsrc-small {part} of all {split} cubes"] = rows[part].to_numpy(np.float64)
    for table in ("table1", "table2"):
        with (work / "toy-results" / "tables" / f"{table}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for number in ("mean", "low", "high"):
                    if row[number]:
                        found[f"toy {table} {row['recipe']} {row['dataset']} {number}"] = float(row[number])
    return found


def run(checkout: Path, *words: str | Path) -> None:
    """One command of a checkout, in its folder."""
    command = [checkout / ".venv" / "bin" / "python", "-m", "bench", *words]
    print("$", *map(str, words), file=sys.stderr, flush=True)
    # One thread: two that spin lose most of their time on a busy machine, and sums keep their order.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}
    subprocess.run(list(map(str, command)), cwd=checkout, check=True, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    raise SystemExit(main())
