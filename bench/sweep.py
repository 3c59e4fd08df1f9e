"""The script that `ray submit clusters/gpu.yaml bench/sweep.py` runs: `amsrc-bench sweep`, from any folder.

    python bench/sweep.py                 recipes x data sets x seeds on the data sets in $AMSRC_DATA (or --root)
    python bench/sweep.py search          Ray Tune and Optuna over settings of a method
    python bench/sweep.py --toy           either on the embedded data sets, in minutes

`python bench/sweep.py --help` has all options.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "bench" / "cli" / "main.py").is_file():  # a checkout; `ray submit` copies this file alone to the head
    sys.path[0] = str(ROOT)  # instead of bench/, whose packages would hide others of their names

if __name__ == "__main__":
    from bench.cli.main import main

    raise SystemExit(main(["sweep", *sys.argv[1:]]))
