"""A payload as JSON that the ledger can store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from jobplatform.domain.texts import ESCAPED, null_error
from jobplatform.errors import FieldError, InvalidPayload


def encode_payload(payload: Any, tags: Sequence[str] = (), *, field: str = "payload") -> bytes:
    """Return a payload's JSON. `field` is its name for the caller.

    Raises `InvalidPayload` for values that orjson can't write (it stops at 254 levels), and for NUL characters, which
    Postgres can't store; tags are checked for them too.
    """
    try:
        encoded = orjson.dumps(payload)
    except TypeError as error:
        wrong = FieldError(field, "JSON of at most 250 levels", str(error))
        raise InvalidPayload(f"the {field} can't be written as JSON", (wrong,)) from None
    if ESCAPED in encoded or tags:
        wrong_text = null_error({field: orjson.loads(encoded) if ESCAPED in encoded else None, "tags": list(tags)})
        if wrong_text:
            raise InvalidPayload("the job has a NUL character", (wrong_text,))
    return encoded
