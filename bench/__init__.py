"""AMSRC Bench: a distributed benchmark of AMSRC on Ray. Start at `bench.cli.main`; the stages are its modules."""
