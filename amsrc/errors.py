"""The errors a user can cause. Each message says what is wrong, what is allowed and what to do.

They are in `amsrc` because the store and the cubes raise them too and `amsrc` never imports `bench`.
All are built from one string, so they survive the pickling between Ray processes.
"""

from collections.abc import Iterable
from difflib import get_close_matches


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
    """Something that the work needs is unavailable: nodes, or a store that does not answer. Not a run's own failure."""


def why(error: Exception) -> str:
    """Why a file cannot be read, in the system's words; where it has none, the file itself is at fault.

    What NumPy and torch say then may be advice to load the file unsafely, so it is not passed on.
    """
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return getattr(error, "strerror", None) or "cut short, or of another kind"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known, with the nearest ones or else all of them."""
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean: {', '.join(near)}?" if near else f"known: {', '.join(names)}."
    return f"unknown {kind} {name!r}; {hint}"


MOST_SHOWN = 5
"""Names listed in a message before it breaks off."""


def shorten(names: list[str]) -> str:
    """`a, b, c, d, e, ... (12)`."""
    return ", ".join(names[:MOST_SHOWN]) + (f", ... ({len(names)})" if len(names) > MOST_SHOWN else "")
