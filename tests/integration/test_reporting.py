"""SQL reporting: the views match the ledger, the ready-made questions run, and a reader has no other access."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path

import psycopg2
import pytest

from jobplatform.ledger import reports
from tests.support.ledger_harness import LedgerHarness, _administer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def history(harness: LedgerHarness) -> LedgerHarness:
    """A ledger with a succeeded, a failed, a crashed and a waiting job."""
    job_id, lease_id = harness.running(payload={"a": 1}, tags=("x",))
    harness.settle(job_id, lease_id, usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
    failed, lease_id = harness.running()
    harness.settle(failed, lease_id, "failed", "dead", error={"code": "no_such_address", "message": "nobody there"})
    crashed, lease_id = harness.running(kind="test.video")
    harness.settle(crashed, lease_id, "crashed", error={"code": "crashed", "message": "signal 9"})
    harness.submit()
    return harness


@pytest.fixture
def reader(history: LedgerHarness, instance) -> str:
    """The URL of a login for reports; roles are server-wide, so it is dropped afterwards."""
    name, password = f"reader_{uuid.uuid4().hex[:8]}", secrets.token_urlsafe(8)
    with history.ledger.transaction() as connection:
        reports.put_reader(connection, name, password)
    url = history.url.replace("+psycopg2", "")
    head, _, rest = url.partition("://")
    yield f"{head}://{name}:{password}@{rest.partition('@')[2]}"
    history.ledger.close()
    _administer(instance, f"DROP ROLE {name}")


@pytest.mark.parametrize("question", reports.questions(), ids=lambda question: question.name)
def test_every_ready_made_question_has_an_answer(reader: str, question: reports.Question) -> None:
    assert question.question.endswith("?")
    connection = psycopg2.connect(reader)
    with connection, connection.cursor() as cursor:
        cursor.execute(question.sql)
        rows = cursor.fetchall()
    connection.close()
    assert rows, "the ledger has data for every question"


def test_the_page_shows_all_ten_questions() -> None:
    page = (ROOT / "docs" / "operations" / "reporting.md").read_text()
    assert len(reports.questions()) == 10
    for question in reports.questions():
        assert question.question in page and question.sql in page


def test_the_views_match_the_ledger(history: LedgerHarness) -> None:
    assert dict(history.all("SELECT state, count(*)::int FROM reporting.jobs GROUP BY state")) == {
        "succeeded": 1,
        "dead": 1,
        "scheduled": 1,
        "available": 1,
    }
    assert history.all("SELECT total_tokens::int FROM reporting.llm_usage") == [7]
    assert history.all("SELECT error_code, error_message FROM reporting.dead_letters") == [
        ("no_such_address", "nobody there")
    ]
    assert set(history.all("SELECT outcome, error_code FROM reporting.failure_reasons")) == {
        ("failed", "no_such_address"),
        ("crashed", "crashed"),
    }
    (wait,) = history.all("SELECT ledger_seconds, broker_seconds, wait_seconds FROM reporting.waits")
    assert all(part >= 0 for part in wait) and abs(wait[0] + wait[1] - wait[2]) < 0.001
    queues = {row[0]: row[1:] for row in history.all("SELECT queue, live::int, workers::int FROM reporting.queues")}
    assert queues == {"email": (2, 1), "video": (1, 1), "llm": (0, 0), "webhooks": (0, 0)}


@pytest.mark.parametrize(
    ("view", "unit"),
    [("throughput_by_hour", "hour"), ("latency_percentiles", "hour"), ("failure_reasons", "day"), ("llm_usage", "day")],
)
def test_a_bound_on_hour_or_day_reads_only_the_partitions_within_it(
    history: LedgerHarness, view: str, unit: str
) -> None:
    history.do("SELECT ensure_partitions('job_runs', 7, now() - interval '40 days', now())")
    history.do(
        "INSERT INTO job_runs SELECT gen_random_uuid(), run_no, tenant_id, queue, kind, attempt, outcome, lease_id, "
        "worker_id, dispatched_at, started_at - weeks * interval '7 days', finished_at - weeks * interval '7 days', "
        "error, usage FROM job_runs, generate_series(1, 5) AS weeks"
    )
    history.do("ANALYZE job_runs")

    def partitions_read(bound: str) -> set[str]:
        ((plan,),) = history.all(f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM reporting.{view} WHERE {bound}")
        steps, names = [plan["Plan"]], set()
        while steps:
            step = steps.pop()
            steps += step.get("Plans", [])
            if step["Actual Loops"] and step.get("Relation Name", "").startswith("job_runs"):
                names.add(step["Relation Name"])
        return names

    assert len(partitions_read("true")) >= 6
    recent = partitions_read(f"{unit} >= date_trunc('{unit}', now()) - interval '1 {unit}'")
    assert 1 <= len(recent) <= 2, "two if the bound is in last week's partition"


def test_every_view_has_a_comment_and_is_on_the_page(history: LedgerHarness) -> None:
    comments = history.all(
        "SELECT c.relname, obj_description(c.oid) FROM pg_class c WHERE c.relnamespace = 'reporting'::regnamespace "
        "AND c.relkind = 'v'"
    )
    assert len(comments) >= 8 and all(comment for _, comment in comments)
    page = (ROOT / "docs" / "operations" / "reporting.md").read_text()
    assert all(f"`{name}`" in page for name, _ in comments)


def test_a_reader_can_read_only_the_views_and_has_a_statement_timeout(reader: str) -> None:
    connection = psycopg2.connect(reader)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout'), current_setting('default_transaction_read_only')")
        assert cursor.fetchone() == ("1min", "on")
        cursor.execute("SET default_transaction_read_only = off")
        for forbidden in (
            "SELECT * FROM public.jobs",
            "SELECT key_hash FROM public.api_keys",
            "DELETE FROM public.tenants",
            "UPDATE public.jobs SET priority = 1",
        ):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(forbidden)
    connection.close()


def test_an_existing_role_cannot_be_turned_into_a_reader(history: LedgerHarness, instance) -> None:
    from jobplatform.devstack import postgres
    from jobplatform.errors import ConfigurationError

    name = f"somebody_{uuid.uuid4().hex[:8]}"
    history.do(f"CREATE ROLE {name} LOGIN")
    for taken in (name, postgres.USER):
        with (
            pytest.raises(ConfigurationError, match="is not a login of jobplatform_reporting"),
            history.ledger.transaction() as connection,
        ):
            reports.put_reader(connection, taken, "x")
    history.do(f"DROP ROLE {name}")


def test_the_ledger_needs_no_superuser(instance) -> None:
    """The owner of the database may create roles, as deploy/postgres/owner.sh sets it up."""
    from jobplatform.devstack import postgres
    from jobplatform.ledger import schema
    from jobplatform.ledger.session import open_ledger

    name = f"owner_{uuid.uuid4().hex[:8]}"
    _administer(instance, f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'x'")
    _administer(instance, f"CREATE DATABASE {name} OWNER {name}")
    url = postgres.url(instance, name).replace(f"{postgres.USER}:{instance.secret}@", f"{name}:x@")
    try:
        schema.upgrade(url)
        schema.upgrade(url)
        ledger = open_ledger(url, name="owner")
        with ledger.transaction() as connection:
            assert schema.revision_of(connection) == schema.head()
        ledger.close()
    finally:
        _administer(instance, f"DROP DATABASE {name} WITH (FORCE)")
        _administer(instance, f"DROP ROLE {name}")
