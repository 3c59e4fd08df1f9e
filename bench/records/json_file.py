"""JSON of dataclasses: in, checked against the class; out, readable line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from amsrc.errors import DataError
from bench.experiment.config import strict
from bench.storage.places import Place

Record = TypeVar("Record")
FRACTIONS = ("auroc", "average_precision", "eer", "rbdc", "tbdc")
"""What the names of fractions contain."""


def loaded(path: Place) -> dict[str, Any]:
    """The object in a file.

    Raises:
        DataError: unreadable, not JSON (NaN and infinity are not), or not an object; names the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a readable record ({error}). Restore it from version control or remove it."
        ) from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: not a record but a {type(data).__name__}. Restore or remove it.")
    return data


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not a finite number")


def validated(cls: type[Record], data: dict[str, Any], path: Place) -> Record:
    """The record that these keys make.

    Raises:
        DataError: a key is missing, unknown or of another type; names the file.
    """
    from pydantic import ValidationError

    try:
        return strict(cls).validate_python(data)  # type: ignore[arg-type, no-any-return]
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path}: not a {cls.__name__}: {wrong}. Restore or remove it.") from None


def check_fractions(values: Mapping[str, Any], prefix: str, path: Place) -> None:
    """Refuse percents in keys named after a fraction, and in all that is nested in these.

    Raises:
        DataError: names the file, the number and the keys that lead to it.
    """
    for name, value in _numbers(values, prefix):
        named = any(word in name for word in FRACTIONS)
        if named and math.isfinite(value) and not 0 <= value <= 1:
            raise DataError(f"{path}: {name} is {value}; records hold fractions from 0 to 1, not percents.")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Every number of nested values, with the dotted names of the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, name)
    elif value is not None and not isinstance(value, str | bool):
        yield name, value


def as_json(value: dict[str, Any]) -> bytes:
    """A record as it is written to its file: NumPy values unwrapped, NaN and infinity null."""
    return f"{_text(_plain(value))}\n".encode()


def _text(value: Any, indent: str = "") -> str:
    """JSON with an entry a line, but a list of numbers on one: a curve of a thousand would bury every difference."""
    inner = f"{indent}  "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(str(key), ensure_ascii=False)}: {_text(part, inner)}" for key, part in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list) and any(isinstance(part, dict | list | str) for part in value):
        lines = [_text(part, inner) for part in value]
        opening, closing = "[]"
    else:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    body = ",\n".join(f"{inner}{line}" for line in lines)
    return f"{opening}\n{body}\n{indent}{closing}"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
