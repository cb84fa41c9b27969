"""The result of a check: one line, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line; `remedy` says what to do, with a command if possible."""

    check: str
    level: Level
    message: str
    remedy: str = ""


#: a group of checks; the one that the others depend on comes first
Check = Callable[[], Iterator[Finding]]


def ok(check: str, message: str) -> Finding:
    """Return a finding without fault."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, remedy: str = "") -> Finding:
    """Return a finding that needs attention, although jobs run."""
    return Finding(check, "warning", message, remedy)


def failed(check: str, message: str, remedy: str) -> Finding:
    """Return a finding that keeps jobs from running."""
    return Finding(check, "failed", message, remedy)
