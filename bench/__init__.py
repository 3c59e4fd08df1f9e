"""AMSRC Bench: a distributed benchmark of AMSRC on Ray. Start at `bench.cli`; the stages are its modules."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout; of an installed program the folder that it is installed in, where nothing of the checkout is."""
