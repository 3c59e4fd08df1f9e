"""AMSRC Bench: a distributed benchmark on Ray. `bench.cli.main` is the command line; a package each step."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout; of an installed program the folder that it is installed in, where nothing of the checkout is."""
