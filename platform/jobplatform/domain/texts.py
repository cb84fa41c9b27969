"""Text that Postgres can't store: U+0000 in text and jsonb (Postgres' documentation, "JSON Types")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobplatform.errors import FieldError

NUL = "\x00"
#: its JSON escape; a text may contain these characters literally, so a match only means that a check is needed
ESCAPED = b"\\u0000"
REPLACEMENT = "\ufffd"


def find_null(value: Any) -> tuple[str, ...] | None:
    """Return the path to a text with U+0000 in a JSON value; None when there is none. Takes any depth."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            if NUL in value:
                return path
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if NUL in str(key):
                    return (*path, str(key).replace(NUL, REPLACEMENT))
                waiting.append(((*path, str(key)), inner))
        elif isinstance(value, list | tuple):
            waiting.extend(((*path, str(number)), inner) for number, inner in enumerate(value))
    return None


def null_error(value: Any) -> FieldError | None:
    """Return what is wrong with a JSON value that has U+0000, with the path to it; None when there is none."""
    path = find_null(value)
    return None if path is None else FieldError(".".join(path), "text without U+0000", "text with it")


def without_nulls(value: Any) -> Any:
    """Return a JSON value with U+0000 replaced by U+FFFD in every text."""
    if isinstance(value, str):
        return value.replace(NUL, REPLACEMENT)
    if isinstance(value, Mapping):
        return {str(key).replace(NUL, REPLACEMENT): without_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nulls(inner) for inner in value]
    return value


def printable(text: str, limit: int = 2000) -> str:
    """Return text that can be stored and sent: no U+0000, no lone surrogates, at most `limit` characters."""
    return text.replace(NUL, REPLACEMENT).encode("utf-8", "replace").decode("utf-8")[:limit]
