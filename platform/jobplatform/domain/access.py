"""API keys: their format, scopes, and patterns of kinds (docs/concepts/access.md)."""

from __future__ import annotations

import re
import secrets
import string
import zlib
from collections.abc import Iterable
from enum import StrEnum

#: `jp_`, 32 random characters of 62 (190 bits), and a checksum of 6 characters. Like GitHub's tokens: a secret scanner
#: recognizes such keys offline, and a mistyped key is refused without reading the ledger
KEY_MARK = "jp_"
RANDOM_CHARACTERS = 32
CHECK_CHARACTERS = 6
#: length of the prefix that identifies a key in lists
PREFIX_CHARACTERS = 10

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FORM = re.compile(rf"{KEY_MARK}[0-9A-Za-z]{{{RANDOM_CHARACTERS + CHECK_CHARACTERS}}}")
_PATTERN = re.compile(r"[A-Za-z0-9_.\-]{1,198}(\.\*)?")


class Scope(StrEnum):
    """What a key may be used for."""

    SUBMIT = "jobs:submit"
    READ = "jobs:read"
    CONTROL = "jobs:control"
    #: the tenant's keys, webhooks and audit log
    ADMIN = "admin"


#: default scopes
USUAL_SCOPES = (Scope.SUBMIT, Scope.READ, Scope.CONTROL)


def new_key() -> str:
    """Return a new API key."""
    body = KEY_MARK + "".join(secrets.choice(_DIGITS) for _ in range(RANDOM_CHARACTERS))
    return body + _check_sum(body)


def is_mistyped(key: str) -> bool:
    """Return whether a key has our format and a wrong checksum."""
    return bool(_FORM.fullmatch(key)) and key[-CHECK_CHARACTERS:] != _check_sum(key[:-CHECK_CHARACTERS])


def _check_sum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECK_CHARACTERS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def is_pattern(text: str) -> bool:
    """Return whether this names a kind, `email.send`, or all kinds below a name, `email.*`."""
    return len(text) <= 200 and _PATTERN.fullmatch(text) is not None


def allows(patterns: Iterable[str] | None, kind: str) -> bool:
    """Return whether one of the patterns matches a kind; None matches all. Mirrors `key_allows` in the ledger."""
    return patterns is None or any(
        kind == pattern or (pattern.endswith(".*") and kind.startswith(pattern[:-1])) for pattern in patterns
    )
