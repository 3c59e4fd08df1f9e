"""AMSRC Bench: a distributed benchmark of AMSRC on Ray. Start at `bench.cli`; the stages are its modules."""
