"""Pauses with an end time, and the manual rebuild."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from click.testing import CliRunner

from jobplatform.cli import rebuild
from jobplatform.ledger import dispatching, queues
from tests.support.ledger_harness import LedgerHarness


def pause(harness: LedgerHarness, until: datetime | None) -> None:
    with harness.ledger.transaction() as connection:
        assert queues.set_paused(connection, "email", True, until)


def test_a_pause_ends_at_its_end_time_and_its_queue_is_woken(harness: LedgerHarness) -> None:
    pause(harness, datetime.now(UTC) + timedelta(hours=1))
    woken = dispatching.wake_jobs(harness.ledger, 10, None)
    assert woken.queues == [] and 3500 < woken.seconds <= 3600
    harness.do("UPDATE queues SET paused_until = clock_timestamp() - interval '1 s' WHERE name = 'email'")
    woken = dispatching.wake_jobs(harness.ledger, 10, None)
    assert woken.queues == ["email"]
    assert harness.all("SELECT paused_at FROM queues WHERE name = 'email'") == [None]


def test_a_pause_without_an_end_time_replaces_one_with_an_end_time(harness: LedgerHarness) -> None:
    pause(harness, datetime.now(UTC) + timedelta(hours=1))
    pause(harness, None)
    assert dispatching.wake_jobs(harness.ledger, 10, None).seconds is None
    assert harness.all("SELECT paused_until FROM queues WHERE name = 'email'") == [None]


def test_a_rebuild_makes_dispatched_jobs_available_and_leaves_running_jobs_alone(
    harness: LedgerHarness, monkeypatch
) -> None:
    monkeypatch.setattr(rebuild, "open_commands_ledger", lambda: harness.ledger)
    out, other = harness.submit(), harness.submit("test.video")
    harness.dispatch(out, other)
    running, _ = harness.running()
    done = CliRunner().invoke(rebuild.rebuild, ["email"])
    assert (done.exit_code, done.output) == (0, "1 dispatched jobs of email go out again\n")
    assert [harness.row(job_id).state for job_id in (out, other, running)] == ["available", "dispatched", "running"]
    assert harness.claim(out, dispatch_no=1).verdict == "stale"
    assert (
        CliRunner().invoke(rebuild.rebuild, ["emial"]).output
        == "Error: no queue 'emial'; queues: email, llm, video, webhooks\n"
    )
