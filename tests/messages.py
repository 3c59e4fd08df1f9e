"""What a message must say whatever its wording: the names and numbers in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def names(message: object, *pieces: object) -> None:
    """Assert that each piece occurs in a message or in an error's."""
    text = str(message)
    absent = [piece for piece in map(str, pieces) if piece not in text]
    assert not absent, f"{absent} not in: {text}"


@contextmanager
def error_naming(kind: type[Exception], *pieces: object) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """As `pytest.raises`, with the pieces that the error's message must have."""
    with pytest.raises(kind) as caught:
        yield caught
    names(caught.value, *pieces)
