"""Maintenance jobs: data that the clean-up deletes and keeps, problems that queue health reports, their schedules."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from jobplatform.config import Settings
from jobplatform.domain.maintenance import TENANT, QueueHealth
from jobplatform.ledger import keys
from jobplatform.usecases import manage_schedules as manage
from jobplatform.usecases import run_maintenance
from tests.support.flows import play, submit
from tests.support.ledger_harness import LedgerHarness
from workers.handlers.maintenance import remove_old_folders


def config(harness: LedgerHarness, **more: Any) -> Settings:
    return Settings(database_url=harness.url, **more)


def old(harness: LedgerHarness, table: str, days: int) -> list[str]:
    return harness.all(
        "SELECT relname FROM pg_class WHERE relname LIKE :t || '\\_2%' AND relkind = 'r' "
        "AND to_date(right(relname, 8), 'YYYYMMDD') < current_date - CAST(:d AS integer) ORDER BY 1",
        t=table,
        d=days,
    )


def test_old_partitions_are_dropped_with_their_rows_and_live_jobs_stay(harness: LedgerHarness) -> None:
    for table in ("job_history", "job_runs", "job_events"):
        harness.all("SELECT ensure_partitions(:t, 7, now() - interval '120 days', now() - interval '60 days')", t=table)
    job_id = harness.submit()
    done, lease_id = harness.running()
    harness.settle(done, lease_id)
    assert len(old(harness, "job_history", 98)) >= 2
    result = run_maintenance.clean_up(harness.ledger, config(harness, history_days=90), lambda _: None, 0)
    assert len(result.partitions) >= 6
    assert not old(harness, "job_history", 98) and old(harness, "job_history", 60), "younger partitions stay"
    assert harness.row(job_id).state == "available" and harness.row(done).state == "succeeded"
    assert run_maintenance.clean_up(harness.ledger, config(harness, history_days=0), lambda _: None, 0).partitions == []


def test_files_past_their_retention_period_are_listed_for_removal(harness: LedgerHarness) -> None:
    job_id, done = harness.submit(), harness.submit()
    harness.do("UPDATE jobs SET state = 'dead', error = '{}' WHERE id = :id", id=job_id)
    harness.do("DELETE FROM jobs WHERE id = :id", id=done)
    harness.do(
        "INSERT INTO artifacts (id, tenant_id, job_id, run_no, name, content_type, size, sha256, location, created_at) "
        "SELECT gen_random_uuid(), gen_random_uuid(), job, CASE WHEN job IS NOT NULL THEN 1 END, 'n', 't', 1, 'x', "
        "position, clock_timestamp() - days * interval '1 day' FROM (VALUES "
        "(CAST(NULL AS uuid), 'old-upload', 31), (NULL, 'upload', 29), (:done, 'old-output', 91), "
        "(:done, 'output', 89), (:live, 'of-a-live-job', 91)) AS v (job, position, days)",
        done=done,
        live=job_id,
    )
    result = run_maintenance.clean_up(harness.ledger, config(harness), lambda _: None, 0)
    assert (result.uploads, result.artifacts) == (1, 1)
    assert set(harness.all("SELECT location FROM artifact_removals")) == {"old-upload", "old-output"}
    assert set(harness.all("SELECT location FROM artifacts")) == {"upload", "output", "of-a-live-job"}


def test_an_upload_stays_while_a_job_or_a_schedule_references_it(harness: LedgerHarness) -> None:
    harness.do(
        "INSERT INTO artifacts (id, tenant_id, name, content_type, size, sha256, location, created_at) "
        "SELECT gen_random_uuid(), :t, n, 't', 1, 'x', n, now() - interval '31 days' "
        "FROM unnest(ARRAY['a', 'b', 'c']) AS n",
        t=harness.tenant_id,
    )
    ids = dict(harness.all("SELECT name, id FROM artifacts"))
    harness.submit(payload={"source": {"artifact": str(ids["a"])}})
    run_maintenance.declare_schedules(harness.ledger, config(harness))
    harness.do("UPDATE schedules SET payload = CAST(:p AS jsonb)", p=f'{{"file": "{str(ids["b"]).upper()}"}}')
    assert run_maintenance.clean_up(harness.ledger, config(harness), lambda _: None, 0).uploads == 1
    assert set(harness.all("SELECT name FROM artifacts")) == {"a", "b"}


def test_history_that_a_running_workflow_may_reference_stays(harness: LedgerHarness) -> None:
    from jobplatform.domain.workflows import step

    for table in ("job_history", "job_runs", "job_events"):
        harness.all("SELECT ensure_partitions(:t, 7, now() - interval '120 days', now() - interval '60 days')", t=table)
    submit(harness, step("test.echo"))
    harness.do("UPDATE workflows SET created_at = now() - interval '119 days'")
    assert run_maintenance.clean_up(harness.ledger, config(harness), lambda _: None, 0).partitions == []


def test_a_partition_in_use_is_left_for_another_night(harness: LedgerHarness) -> None:
    for table in ("job_history", "job_runs", "job_events"):
        harness.all("SELECT ensure_partitions(:t, 7, now() - interval '120 days', now() - interval '60 days')", t=table)
    with harness.ledger.transaction() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM job_events")  # as a dump does
        result = run_maintenance.clean_up(harness.ledger, config(harness), lambda _: None, 0)
    assert result.partitions and not [name for name in result.partitions if name.startswith("job_events")]


def test_old_workflows_and_fires_are_deleted_but_live_workflows_and_queued_fires_stay(harness: LedgerHarness) -> None:
    from jobplatform.domain.workflows import chain, step

    run_maintenance.declare_schedules(harness.ledger, config(harness))
    done, lives = (submit(harness, chain(step("test.echo"), step("test.echo"))) for _ in range(2))
    harness.do(
        "UPDATE jobs SET run_at = now() + interval '1 hour', state = 'scheduled' WHERE workflow_id = :w "
        "AND state = 'available'",
        w=lives,
    )
    play(harness)
    harness.do("UPDATE workflows SET ended_at = now() - interval '91 days', state = 'succeeded'")
    harness.do(
        "INSERT INTO schedule_fires (schedule_id, planned_at, at, outcome) SELECT id, now() - n * interval '1 s', "
        "now() - days * interval '1 day', outcome FROM schedules, (VALUES (1, 91, 'skipped'), (2, 91, 'queued'), "
        "(3, 89, 'skipped')) AS v (n, days, outcome) WHERE name = 'clean-up'"
    )
    result = run_maintenance.clean_up(harness.ledger, config(harness), lambda _: None, 0)
    assert (result.workflows, result.fires) == (1, 1)
    assert harness.all("SELECT id FROM workflows") == [lives]
    assert harness.all("SELECT DISTINCT workflow_id FROM workflow_steps") == [lives]
    assert done != lives


def test_old_folders_of_killed_runs_are_deleted_and_recent_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lease = "01890000-0000-7000-8000-000000000000"
    for name in (f"run-{lease}-old", f"run-{lease}-new", "run-of-somebody-else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    for path in (
        tmp_path / f"run-{lease}-old",
        tmp_path / f"run-{lease}-old" / "file",
        tmp_path / "run-of-somebody-else",
    ):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    assert remove_old_folders(time.time() - 500) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run-{lease}-new", "run-of-somebody-else"]


def test_queue_health_reports_problems_and_is_empty_without_problems(harness: LedgerHarness) -> None:
    def ask() -> QueueHealth:
        return run_maintenance.check_queue_health(harness.ledger, config(harness))

    assert ask().problems == []
    job_id = harness.submit()
    harness.submit(kind="test.llm")
    harness.do("UPDATE jobs SET state_at = clock_timestamp() - interval '10 min'")
    assert set(ask().problems) == {
        "queue email: jobs wait since 600 s; 0 of 4 slots are busy",
        "queue llm: no worker consumes it",
    }
    harness.do("UPDATE queues SET paused_at = now() WHERE name = 'llm'")
    harness.do("UPDATE jobs SET state = 'dead', error = '{}' WHERE id = :id", id=job_id)
    assert set(ask().problems) == {
        "queue llm: jobs wait since 600 s; it is paused",
        "1 dead letters wait for an operator",
    }


def test_maintenance_jobs_are_scheduled_once_and_changes_by_an_operator_stay(harness: LedgerHarness) -> None:
    for _ in range(2):
        run_maintenance.declare_schedules(harness.ledger, config(harness))
    with harness.ledger.statement() as connection:
        tenant = keys.find_tenant(connection, TENANT)
    assert tenant is not None
    schedules, _ = manage.list_schedules(harness.ledger, tenant, after="", limit=10)
    assert [(item.values["name"], item.values["queue"]) for item in schedules] == [
        ("clean-up", "email"),
        ("queue-health", "email"),
    ]
    manage.pause_schedule(harness.ledger, tenant, "clean-up", True, by="ada")
    run_maintenance.declare_schedules(harness.ledger, config(harness, maintenance_queue="llm"))
    schedules, _ = manage.list_schedules(harness.ledger, tenant, after="", limit=10)
    assert [(item.values["paused"], item.values["queue"]) for item in schedules] == [(True, "llm"), (False, "llm")]
