"""Operator commands for workflows and schedules, on a real ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from click.testing import CliRunner, Result

from jobplatform.cli.main import cli
from jobplatform.config import Settings
from jobplatform.domain.workflows import chain, group, step
from jobplatform.errors import (
    InvalidRequest,
    ScheduleNotFound,
    UnknownKind,
    WorkflowHasEnded,
    WorkflowNotFound,
    WorkflowNotReplayable,
)
from tests.support.flows import failing, play, stop_due, submit
from tests.support.ledger_harness import LedgerHarness

Ask = Callable[..., Result]


@pytest.fixture
def ask(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> Ask:
    config = Settings(database_url=harness.url)
    monkeypatch.setattr("jobplatform.config.settings", lambda: config)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("JOBPLATFORM_API_KEY", raising=False)

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return run


def test_a_workflow_is_shown_drawn_as_svg_replayed_and_cancelled(
    harness: LedgerHarness, ask: Ask, tmp_path: Path
) -> None:
    parts = [step("test.echo", name=f"s{n}") for n in range(5)]
    workflow = submit(
        harness, chain(step("test.echo", name="first"), group(*parts, name="many"), step("test.echo", name="end"))
    )
    play(harness, failing("s3"))
    stop_due(harness)
    shown = ask("workflows", "show", workflow).output
    assert f"{workflow} is failed" in shown and "why: step s3 is dead" in shown
    assert "s0 … s4" in shown and "4 succeeded, 1 dead" in shown and "5 alike" in shown
    assert orjson.loads(ask("workflows", "show", workflow, "--json").output)["workflow"]["state"] == "failed"
    picture = tmp_path / "graph.svg"
    assert ask("workflows", "show", workflow, "--svg", picture).exit_code == 0
    assert picture.read_text().startswith("<svg")
    assert "is running" in ask("workflows", "replay", workflow).output
    assert isinstance(ask("workflows", "replay", workflow).exception, WorkflowNotReplayable)
    assert "is cancelled" in ask("workflows", "cancel", workflow, "--reason", "enough").output
    done = submit(harness, step("test.echo"))
    play(harness)
    assert isinstance(ask("workflows", "cancel", done).exception, WorkflowHasEnded)
    assert isinstance(ask("workflows", "show", uuid4()).exception, WorkflowNotFound)


def test_schedules_from_put_to_delete(harness: LedgerHarness, ask: Ask) -> None:
    mail = '{"to": ["a@example.com"], "subject": {"$planned_at": "%Y"}, "text": "x"}'
    put = ("schedules", "put", "--tenant", "acme", "report", "email.send", "--payload", mail)
    made = ask(*put, "--cron", "0 7 * * mon-fri", "--time-zone", "Europe/Berlin")
    assert made.output.startswith("report: At 07:00 on Monday through Friday (Europe/Berlin); next 20"), made.output
    assert "At 07:00" in ask("schedules", "list", "--tenant", "acme").output
    shown = ask("schedules", "preview", "--tenant", "acme", "report", "--count", 3).output
    assert shown.count("07:00:00 CE") == 3
    assert ask("schedules", "pause", "--tenant", "acme", "report").output == "report is paused\n"
    assert "paused" in ask("schedules", "list", "--tenant", "acme").output
    assert ask("schedules", "run", "--tenant", "acme", "report").output.startswith("job ")
    assert "cli:" in ask("schedules", "fires", "--tenant", "acme", "report").output
    assert ask("schedules", "resume", "--tenant", "acme", "report").output.startswith("report is resumed; next 20")
    wrong = ask(*put, "--cron", "61 * * * *")
    assert isinstance(wrong.exception, InvalidRequest) and wrong.exception.errors[0].field == "cron"
    unfit = ask("schedules", "put", "--tenant", "acme", "r", "email.send", "--every", 60).exception
    assert isinstance(unfit, InvalidRequest) and "payload.to: expected a value" in unfit.errors[0].in_words()
    assert (
        ask("schedules", "put", "--tenant", "acme", "r", "email.send", "--every", 60, "--payload", "[]").exit_code == 2
    )
    assert isinstance(
        ask("schedules", "put", "--tenant", "acme", "r", "email.sned", "--every", 60).exception, UnknownKind
    )
    assert ask("schedules", "delete", "--tenant", "acme", "report").output == "report is gone\n"
    assert isinstance(ask("schedules", "pause", "--tenant", "acme", "report").exception, ScheduleNotFound)
    assert "no tenant 'nobody'" in ask("schedules", "list", "--tenant", "nobody").output
