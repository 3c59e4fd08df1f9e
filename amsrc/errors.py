"""The errors a user can cause. Each message says what is wrong, what is allowed and what to do.

They live in `amsrc` because the store and the cubes raise them too and `amsrc` never imports `bench`.
All are built from one string, so they survive the pickling between Ray processes.
"""


class BenchError(Exception):
    """Root of every error shown to the user without a traceback. `exit_code` is the process's."""

    exit_code = 1


class ConfigError(BenchError):
    """A wrong name, value or combination in what was asked for; found before anything ran."""

    exit_code = 2


class DataError(BenchError):
    """Data that is missing, damaged or of the wrong shape; named with what was expected."""

    exit_code = 2


class RunError(BenchError):
    """Something failed while running: a non-finite loss, a full disk, a dead worker."""

    exit_code = 1


class AwayError(RunError):
    """What the work relies on is away: nodes that do not come, a store that does not answer. No result of a cell."""
