"""Arguments and results in Celery's JSON: kombu's format, extended by numbers that JSON parsers would change.

kombu writes dates, decimals, UUIDs, bytes and the like as `{"__type__": …, "__value__": …}` and reads them back. Whole
numbers beyond 64 bits, and NaN and infinity (which JSON does not have) are written the same way here. The ledger keeps
the text, and with it the order of keys and -0.0.
"""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from jobplatform.domain.references import LITERAL, is_marked

#: text that may hold a number which has to be marked
_SUSPICIOUS = re.compile(r"\d{16}|NaN|Infinity")
_EXACT = 2**63


class _Marked:
    """A number that is written as text."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _MarkedInt(_Marked):
    pass


class _MarkedFloat(_Marked):
    pass


_json: Any = kombu_json
_json.register_type(_MarkedInt, "int", lambda marked: str(marked.value), int)
_json.register_type(_MarkedFloat, "float", lambda marked: repr(marked.value), float)


def to_json(value: Any) -> Any:
    """Return a value as JSON values. Raises kombu's `EncodeError` for what Celery's serializer can't write either."""
    try:
        text = _json.dumps(value)
        if _SUSPICIOUS.search(text):
            text = _json.dumps(_mark(value))
        return orjson.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"expected what JSON can hold, got {type(value).__name__}: {error}") from error


def from_json(value: Any) -> Any:
    """Return the value that `to_json` was given, with lists for tuples and text for keys, as in Celery's JSON."""
    return _json.loads(orjson.dumps(value).decode())


def as_literal(value: Any) -> Any:
    """Return JSON values, marked so that they are not read as references of a workflow."""
    return {LITERAL: value} if is_marked(value) else value


def _mark(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else _MarkedFloat(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_EXACT <= value < _EXACT else _MarkedInt(value)
    if isinstance(value, list | tuple):
        return [_mark(item) for item in value]
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    return value
