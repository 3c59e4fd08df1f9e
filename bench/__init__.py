"""AMSRC Bench: a distributed benchmark on Ray. `bench.cli.main` is the command line; a package each step."""
