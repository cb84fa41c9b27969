"""Payloads and job requests from arguments, a file, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jobplatform.client import JobRequest


def read_payload(given: str | None, fields: Sequence[str]) -> dict[str, Any]:
    """Return a payload: JSON, `@file`, or `-` for standard input; then `name=text` and `name:=JSON` are merged into it.

    A dot names a nested field: `source.path=a.mp4`. Raises `click.UsageError`.
    """
    payload = parse_object(read_source(given), "--payload") if given is not None else {}
    for field in fields:
        name, value = _read_field(field)
        *path, last = name.split(".")
        inside = payload
        for part in path:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise click.UsageError(f"{field}: {part} is no object, nothing can be put into it")
        inside[last] = value
    return payload


def _read_field(field: str) -> tuple[str, Any]:
    import orjson

    name, is_given, value = field.partition("=")
    if not is_given or not name.strip(":."):
        raise click.UsageError(f"expected name=text or name:=JSON, got {field!r}")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{field}: expected JSON behind :=, got {value!r}: {error}") from None


def read_source(given: str) -> str:
    """Return a text, the content of `@file`, or standard input for `-`."""
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{given}: {error}") from None
    return given


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Return a JSON object. Raises `click.UsageError`."""
    import orjson

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{what}: expected a JSON object, got {text[:60]!r}: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value


def read_submissions(lines: Iterator[str], source: str) -> Iterator[JobRequest]:
    """Yield the job requests of lines, each a JSON object as for `POST /v1/jobs`. Raises `click.UsageError`."""
    from dataclasses import fields

    from jobplatform.client import JobRequest

    known = {field.name for field in fields(JobRequest)}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        result = parse_object(line, f"{source}, line {number}")
        if "kind" not in result or (wrong := set(result) - known):
            raise click.UsageError(
                f"{source}, line {number}: expected kind and some of {', '.join(sorted(known - {'kind'}))}; got "
                f"{', '.join(sorted(wrong)) if 'kind' in result else 'no kind'}"
            )
        yield JobRequest(**result)
