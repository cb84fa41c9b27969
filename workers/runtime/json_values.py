"""Conversion of a handler's result to JSON values that the ledger can store."""

from __future__ import annotations

from typing import Any

import orjson

from jobplatform.domain.texts import printable, without_nulls

#: characters of the repr of a value that is not JSON
WORDS = 4_000


def to_json_values(value: Any) -> Any:
    """Return a value as JSON values, or its repr when it has none: the outcome must be recorded in any case."""
    try:
        return without_nulls(orjson.loads(orjson.dumps(value, default=str)))
    except (TypeError, ValueError):
        return printable(repr(value), WORDS)
