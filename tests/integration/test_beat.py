"""Celery beat on the ledger: reads `beat_schedule`, refuses entries without an equivalent, fires each tick once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab, schedule

from jobplatform.domain.kinds import Kind
from jobplatform.errors import ConfigurationError
from tests.support.ledger_harness import LedgerHarness, registry
from workers.celery.beat import LedgerScheduler, declare, read_entry
from workers.celery.submissions import TaskCall

ENTRIES: dict[str, dict[str, Any]] = {
    "every night": {
        "task": "test.echo",
        "schedule": crontab(minute=30, hour="3,4", day_of_week="mon-fri"),
        "kwargs": {"a": 1},
    },
    "often": {"task": "test.echo", "schedule": 30.0, "options": {"expires": 20, "priority": 7, "queue": "email"}},
    "delta": {"task": "test.video", "schedule": timedelta(minutes=5)},
    "schedule": {"task": "test.video", "schedule": schedule(run_every=10)},
    "sets": {"task": "test.echo", "schedule": crontab(minute="*/15", hour={1, 2}, month_of_year=1)},
}


def read(harness: LedgerHarness) -> dict[str, Any]:
    rows = harness.all(
        "SELECT name, spec, payload, start_within_seconds, priority, overlap FROM schedules ORDER BY name"
    )
    return {row.name: row for row in rows}


def test_entries_become_schedules_and_removing_an_entry_deletes_its_schedule(harness: LedgerHarness) -> None:
    for _ in range(2):
        declare(harness.ledger, registry(), "acme", ENTRIES, "Europe/Berlin")
    result = read(harness)
    assert set(result) == {"every-night", "often", "delta", "schedule", "sets"}
    assert result["every-night"].spec == {"cron": "30 3,4 * * mon-fri", "time_zone": "Europe/Berlin"}
    assert result["every-night"].payload == {"a": 1} and result["every-night"].overlap == "allow"
    assert (result["often"].spec["every_seconds"], result["often"].start_within_seconds, result["often"].priority) == (
        30.0,
        20.0,
        7,
    )
    assert result["delta"].spec["every_seconds"] == 300 and result["schedule"].spec["every_seconds"] == 10
    assert result["sets"].spec["cron"] == "*/15 1,2 * 1 *"
    declare(harness.ledger, registry(), "acme", {"often": ENTRIES["often"]}, "UTC")
    assert set(read(harness)) == {"often"}
    declare(harness.ledger, registry(), "acme", {}, "UTC")
    assert read(harness) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expires": datetime(2030, 1, 1, tzinfo=UTC)}, "expected seconds or a timedelta.* got datetime"),
        ({"expires": "soon"}, "expected seconds or a timedelta.* got str"),
        ({"expires": True}, "expected seconds or a timedelta.* got bool"),
        ({"priority": "high"}, "expected a whole number from 0 to 9, got 'high'"),
        ({"countdown": 5}, "options that have no equal here: countdown"),
    ],
)
def test_options_without_an_equivalent_are_named_in_the_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_entry("x", {"task": "test.echo", "schedule": 30.0, "options": options}, "UTC", registry())


def test_names_that_would_collide_are_refused(harness: LedgerHarness) -> None:
    with pytest.raises(ConfigurationError, match="rename one"):
        declare(harness.ledger, registry(), "acme", {"a b": ENTRIES["often"], "a/b": ENTRIES["delta"]}, "UTC")


def test_an_exception_in_one_tick_does_not_stop_beat(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.celery.beat.ledger", lambda: None)
    assert LedgerScheduler(app=Celery("t", set_as_current=False), lazy=True).tick() > 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"task": "test.echo", "schedule": "every day"}, "crontab"),
        ({"task": "test.echo", "schedule": 5, "args": [1]}, "kwargs"),
        ({"task": "test.echo", "schedule": 5, "options": {"exchange": "x"}}, "exchange"),
        ({"task": "test.echo", "shedule": 5}, "shedule"),
        ({"schedule": 5}, "name of a kind"),
        ({"task": "test.ecko", "schedule": 5}, "test.echo"),
        ({"task": "test.echo", "schedule": timedelta(0)}, "every_seconds"),
        ({"task": "test.echo", "schedule": 5, "options": {"priority": 10}}, "priority"),
        ({"task": "test.echo", "schedule": crontab(0, 0, day_of_month="1-7", day_of_week="mon")}, "both"),
    ],
)
def test_an_entry_without_an_equivalent_is_refused_by_name_and_nothing_is_changed(
    harness: LedgerHarness, entry: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        declare(harness.ledger, registry(), "acme", {"fine": ENTRIES["often"], "mine": entry}, "UTC")
    assert "beat_schedule['mine']" in str(caught.value)
    assert read(harness) == {}


def test_a_tick_fires_due_schedules_and_returns_the_delay_until_the_next_tick(
    harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.celery.beat.ledger", lambda: harness.ledger)
    app = Celery("t", set_as_current=False)
    app.conf.beat_max_loop_interval = 3
    first, second = (LedgerScheduler(app=app, lazy=True) for _ in range(2))
    assert first.tick() == 3.0
    declare(harness.ledger, registry(), "acme", {"often": ENTRIES["often"]}, "UTC")
    harness.do("UPDATE schedules SET next_planned_at = now(), next_due_at = now(), anchor_at = now()")
    assert 0 < first.tick() <= 3
    second.tick()
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
    assert read_entry("x", ENTRIES["often"], "UTC", registry()).name == "x"


def test_a_celery_task_has_args_and_kwargs(harness: LedgerHarness) -> None:
    kinds = registry()
    kinds.add(Kind("proj.tasks.Add", "email", TaskCall, lambda payload, ctx: None, free_name=True))
    entry = {"task": "proj.tasks.Add", "schedule": 30.0, "args": (1, timedelta(0).days), "kwargs": {"z": 2}}
    declare(harness.ledger, kinds, "acme", {"add": entry}, "UTC")
    assert read(harness)["add"].payload == {"args": [1, 0], "kwargs": {"z": 2}}
