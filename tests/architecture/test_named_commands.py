"""Commands that the product names in its findings, explanations and pages exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from jobplatform.cli.main import cli
from jobplatform.devstack.instance import CHECKOUT

#: `jobplatform group command`, in code and pages
_NAMED = re.compile(r"(?<![\w./-])jobplatform((?: [a-z][a-z-]+){1,2})")
SOURCES = ("platform", "workers", "api", "docs", "README.md", "CHANGELOG.md")


def files() -> Iterator[Path]:
    for source in SOURCES:
        path = CHECKOUT / source
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.suffix in (".py", ".md", ".sql"))


def named(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if "name=" in line:  # of a connection
            continue
        # in prose a command is in backticks or quotes, or starts its line
        for result in re.finditer(r"[`\"'$ ]*jobplatform [a-z]", line):
            if result.start() == 0 or line[result.start()] in "`\"'$" or line.lstrip().startswith(("$", "jobplatform")):
                match = _NAMED.search(line, result.start())
                if match:
                    yield match[1].strip()


def problem_with(words: str) -> str | None:
    group: click.Command = cli
    for word in words.split():
        if not isinstance(group, click.Group):
            return None  # arguments of a command
        command = group.get_command(click.Context(group), word)
        if command is None:
            return f"`jobplatform {words}`: no command {word!r}"
        group = command
    return None


def test_every_command_that_is_named_exists() -> None:
    wrong = {
        f"{path.relative_to(CHECKOUT)}: {problem}"
        for path in files()
        for words in named(path.read_text())
        if (problem := problem_with(words)) is not None
    }
    assert not wrong


@pytest.mark.parametrize("words", ["dead list", "queues resume email", "broker apply", "doctor"])
def test_the_check_accepts_existing_commands(words: str) -> None:
    assert problem_with(words) is None


def test_the_check_reports_missing_commands() -> None:
    assert problem_with("dead lisst") == "`jobplatform dead lisst`: no command 'lisst'"
