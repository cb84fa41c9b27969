"""Limit keys: a limit applies to all jobs that name its key (docs/concepts/limits.md).

A key is a name, or `name:value`: `provider:openai`, `domain:example.com`. `tenant` stands for the job's own tenant.
Other characters are percent-encoded (%20), so that a key never needs quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any
from urllib.parse import quote

from jobplatform.errors import ConfigurationError, FieldError, InvalidRequest

#: the job's own tenant; the ledger knows its name
TENANT = "tenant"
MOST_KEYS, MOST_CHARACTERS = 8, 200
MOST_UNITS = 2_000_000_000
#: of a rate and of its period (s)
LEAST = 0.001
_PLAIN = ":@+=.-_~"
_KEY = re.compile(r"[a-z][a-z0-9_.\-]*(:[A-Za-z0-9:@+=.\-_~%]*)?\Z")
_NAME = re.compile(r"[a-z][a-z0-9_.\-]*(:(\*|[A-Za-z0-9:@+=.\-_~%]*))?\Z")
_LOOKS = "a name like 'provider:openai', or 'domain:*' for all keys of a name"

#: a kind's keys: texts in which {field} is the payload's, or a function of the typed payload
KeysOf = Sequence[str] | Callable[[Any], Iterable[str]]
#: what a job takes of each key, of those that have a rate: a number, or a number by the name of a key, or a function of
#: the typed payload that returns one of these
Units = int | Mapping[str, int]
UnitsOf = Units | Callable[[Any], Units]


def key(name: str, value: object = "") -> str:
    """Return a limit key of a name and any value."""
    return f"{name}:{quote(str(value), safe=_PLAIN)}" if value != "" else name


def is_key(key: object) -> bool:
    """Return whether this is a valid limit key."""
    return isinstance(key, str) and bool(_KEY.match(key)) and len(key) <= MOST_CHARACTERS


def check_keys(kind: str, keys: KeysOf, units: UnitsOf, fields: Iterable[str]) -> None:
    """Validate the limit keys that a kind declares. Raises `ConfigurationError`."""
    if isinstance(keys, str):
        raise ConfigurationError(f"kind {kind!r}: expected limit_keys as a list of texts or a function, got {keys!r}")
    if not callable(units):
        _check_units(f"kind {kind!r}", units)
    known = set(fields)
    for item in () if callable(keys) else keys:
        named = {name for _, name, _, _ in Formatter().parse(item) if name is not None}
        if missing := sorted(named - known):
            raise ConfigurationError(
                f"kind {kind!r}: limit key {item!r} names {', '.join(missing)}, which its payload has not: expected of "
                f"{', '.join(sorted(known)) or 'nothing'}"
            )
        if not _KEY.match(item.format_map(dict.fromkeys(named, "x"))):
            raise ConfigurationError(f"kind {kind!r}: expected a limit key like 'provider:openai', got {item!r}")


def keys_of(keys: KeysOf, payload: Any) -> tuple[str, ...]:
    """Return the limit keys of a job, sorted. `payload` is typed; None: it is not known yet, as a step's that refers to
    results: such a job has the keys that don't need it.

    Raises `ConfigurationError` if a kind's function returns an invalid key.
    """
    if callable(keys):
        result = list(keys(payload)) if payload is not None else []
        for item in result:
            if not isinstance(item, str) or not _KEY.match(item):
                raise ConfigurationError(
                    f"limit_keys returned {item!r}: expected texts like 'provider:openai' (jobplatform.limit_key(name, "
                    f"value) makes one of any value)"
                )
    else:
        result = []
        for item in keys:
            names = {name for _, name, _, _ in Formatter().parse(item) if name is not None}
            if names and payload is None:
                continue
            result.append(item.format_map({name: quote(str(getattr(payload, name)), safe=_PLAIN) for name in names}))
    # only the first ones, so that a payload can't displace the keys that a kind names first. Long values are truncated
    return tuple(sorted(list(dict.fromkeys(item[:MOST_CHARACTERS] for item in result))[:MOST_KEYS]))


def units_of(units: UnitsOf, payload: Any, keys: Sequence[str]) -> tuple[int, ...]:
    """Return how many units of each of its keys a job takes; none at all means 1 of each.

    Raises `ConfigurationError` if a kind's function returns invalid units.
    """
    if callable(units):
        if payload is None:
            return ()
        units = units(payload)
        _check_units("limit_units", units)
    if isinstance(units, Mapping):
        result = tuple(units.get(key.partition(":")[0], 1) for key in keys)
    else:
        result = (units,) * len(keys)
    return result if any(item != 1 for item in result) else ()


def _check_units(whose: str, units: object) -> None:
    for item in units.values() if isinstance(units, Mapping) else (units,):
        if not isinstance(item, int) or not 1 <= item <= MOST_UNITS:
            raise ConfigurationError(
                f"{whose}: expected a whole number from 1 to {MOST_UNITS}, or one by the name of a key, got {units!r}"
            )


@dataclass(frozen=True)
class Limit:
    """The limit of a key, or of every key with a prefix (`domain:*`).

    | field | unit | meaning |
    |---|---|---|
    | max_concurrent | jobs | in flight at once |
    | rate_units, rate_seconds | units, s | units per period, taken when a run starts |
    | burst_units | units | capacity of the token bucket; by default rate_units |
    | sliding | | sliding window instead of a bucket: never more than rate_units in any rate_seconds |
    """

    name: str
    max_concurrent: int | None = None
    rate_units: float | None = None
    rate_seconds: float | None = None
    burst_units: float | None = None
    sliding: bool = False

    def check(self) -> None:
        """Raise `InvalidRequest` naming every invalid field."""
        wrong: list[FieldError] = []

        def refuse(field: str, expected: str, got: object) -> None:
            wrong.append(FieldError(field, expected, repr(got)))

        if not _NAME.match(self.name) or len(self.name) > MOST_CHARACTERS:
            refuse("name", _LOOKS, self.name[:MOST_CHARACTERS])
        if self.max_concurrent is not None and not 0 <= self.max_concurrent <= 1_000_000:
            refuse("max_concurrent", "a number of jobs, from 0 (nothing goes) to 1,000,000", self.max_concurrent)
        for field in ("rate_units", "rate_seconds", "burst_units"):
            value = getattr(self, field)
            if value is not None and not LEAST <= value <= MOST_UNITS:
                refuse(field, f"a number from {LEAST} to {MOST_UNITS}", value)
        if self.burst_units is not None and self.burst_units < 1:
            refuse("burst_units", "1 or more: a job takes a whole one", self.burst_units)
        if self.sliding and self.rate_units is not None and self.rate_units < 1:
            refuse("rate_units", "1 or more in a sliding window: a job takes a whole one", self.rate_units)
        if (self.rate_units is None) != (self.rate_seconds is None):
            refuse("rate_units", "rate_units and rate_seconds together", self.rate_units)
        if self.rate_units is None and (self.burst_units is not None or self.sliding):
            refuse("rate_units", "a rate, where there is a burst or a sliding window", None)
        if self.sliding and self.burst_units is not None:
            refuse("burst_units", "none: a sliding window has no burst", self.burst_units)
        if self.max_concurrent is None and self.rate_units is None and not wrong:
            refuse("max_concurrent", "max_concurrent or a rate: this would be no limit", None)
        if wrong:
            raise InvalidRequest("the limit can't work", tuple(wrong))
