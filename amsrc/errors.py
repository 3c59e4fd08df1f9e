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


def why(error: Exception) -> str:
    """Why a file cannot be read, in the system's words; where it has none, the file itself is at fault.

    What NumPy and torch say then may be advice to load the file unsafely, so it is not passed on.
    """
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return getattr(error, "strerror", None) or "cut short, or of another kind"
