"""What a check has found: one line, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line. `remedy` is what to do about it, a command where there is one."""

    check: str
    level: Level
    message: str
    remedy: str = ""


#: a group of checks; what it can't do without is asked for first
Check = Callable[[], Iterator[Finding]]


def ok(check: str, message: str) -> Finding:
    """Return a line that is as it should be."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, remedy: str = "") -> Finding:
    """Return a line that somebody should look at: jobs run nevertheless."""
    return Finding(check, "warning", message, remedy)


def failed(check: str, message: str, remedy: str) -> Finding:
    """Return a line that keeps jobs from running."""
    return Finding(check, "failed", message, remedy)
