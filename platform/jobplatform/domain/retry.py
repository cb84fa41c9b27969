"""Retry policies: the delay before the next attempt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol

from jobplatform.errors import ConfigurationError


class RetryPolicy(Protocol):
    """Computes the delay before the next attempt."""

    def delay_seconds(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the delay (s) after attempt number `attempt` (from 1) failed."""
        ...


@dataclass(frozen=True)
class Exponential:
    """Exponential back-off with full jitter: uniform between 0 and min(cap, base · factor^(attempt-1)).

    Full jitter spreads a thundering herd best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    `floor_seconds` is the minimum delay.
    """

    base_seconds: float = 5.0
    factor: float = 2.0
    cap_seconds: float = 3600.0
    floor_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.base_seconds <= 0 or self.factor < 1 or not 0 <= self.floor_seconds <= self.cap_seconds:
            raise ConfigurationError(
                f"expected base_seconds > 0, factor >= 1 and 0 <= floor_seconds <= cap_seconds, got {self}"
            )

    def delay_seconds(self, attempt: int, random: Callable[[], float]) -> float:
        """See `RetryPolicy`. The exponent is bounded so that attempt 10,000 does not overflow."""
        ceiling = min(self.cap_seconds, self.base_seconds * self.factor ** min(max(attempt, 1) - 1, 64))
        return max(self.floor_seconds, ceiling * random())


@dataclass(frozen=True)
class Fixed:
    """A constant delay, varied by `jitter` (0.1: ten per cent)."""

    seconds: float = 10.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds < 0 or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"expected seconds >= 0 and jitter from 0 to 1, got {self}")

    def delay_seconds(self, attempt: int, random: Callable[[], float]) -> float:
        """See `RetryPolicy`."""
        return _jittered(self.seconds, self.jitter, random)


@dataclass(frozen=True)
class Steps:
    """A list of delays; the last one repeats. `Steps(1, 10, 60)`."""

    seconds: tuple[float, ...]
    jitter: float = 0.0

    def __init__(self, *seconds: float, jitter: float = 0.0) -> None:
        object.__setattr__(self, "seconds", seconds)
        object.__setattr__(self, "jitter", jitter)
        if not seconds or min(seconds) < 0 or not 0 <= jitter <= 1:
            raise ConfigurationError(f"expected at least one wait, none below 0, and jitter from 0 to 1, got {self}")

    def delay_seconds(self, attempt: int, random: Callable[[], float]) -> float:
        """See `RetryPolicy`."""
        return _jittered(self.seconds[min(max(attempt, 1), len(self.seconds)) - 1], self.jitter, random)


def _jittered(seconds: float, jitter: float, random: Callable[[], float]) -> float:
    return seconds * (1 - jitter + 2 * jitter * random())


def read_retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds of a Retry-After header; None if it is absent or invalid.

    Accepts both formats (RFC 9110, 10.2.3): seconds, or an HTTP-date, converted to the seconds from now on. A date in
    the past returns None, so that the kind's own delay applies. For
    `raise Retryable("…", after=read_retry_after(response.headers.get("Retry-After")))`.
    """
    if not value:
        return None
    try:
        if value.strip().isdecimal():
            seconds = float(value)
        else:
            moment = parsedate_to_datetime(value)
            # "-0000" is UTC without information about the local time zone
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            seconds = moment.timestamp() - now()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < float("inf") else None
