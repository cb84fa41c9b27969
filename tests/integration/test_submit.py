"""Submit: job, event and counter in one transaction; Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from jobplatform.devstack.proxy import proxied
from jobplatform.domain.jobs import SubmitJob
from jobplatform.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidPayload,
    InvalidRequest,
    LedgerBusy,
    LedgerUnavailable,
    OutcomeUnknown,
    UnknownKind,
)
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger, Limits, open_ledger
from jobplatform.usecases.submit_job import submit_job
from tests.support.ledger_harness import LedgerHarness, registry


def submit(harness: LedgerHarness, ledger: Ledger | None = None, key: str | None = None, **order):
    command = SubmitJob(order.pop("kind", "test.echo"), order.pop("payload", {}), **order)
    return submit_job(ledger or harness.ledger, None, registry(), harness.tenant_id, command, idempotency_key=key)


def test_a_job_is_written_with_its_event_and_counter(harness: LedgerHarness) -> None:
    job_id = submit(harness, payload={"a": 1}, tags=("x", "y"), priority=7).job.id
    row = harness.row(job_id)
    assert (row.state, row.queue, row.priority, row.tags, row.payload) == (
        "available",
        "email",
        7,
        ["x", "y"],
        {"a": 1},
    )
    assert harness.events(job_id) == ["submitted"]
    harness.assert_conserved()


def test_a_job_with_a_run_at_in_the_future_is_scheduled(harness: LedgerHarness) -> None:
    accepted = submit(harness, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert accepted.job.state == "scheduled"


def test_the_same_key_and_body_give_the_same_job(harness: LedgerHarness) -> None:
    first, second = submit(harness, key="k", payload={"a": 1}), submit(harness, key="k", payload={"a": 1})
    assert first.job.id == second.job.id
    assert (first.created, second.created) == (True, False)
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
    harness.assert_conserved()


def test_the_same_key_with_another_body_is_refused(harness: LedgerHarness) -> None:
    submit(harness, key="k", payload={"a": 1})
    with pytest.raises(IdempotencyConflict):
        submit(harness, key="k", payload={"a": 2})
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]


def test_an_expired_key_can_be_used_again(harness: LedgerHarness) -> None:
    first = submit(harness, key="k")
    harness.do("UPDATE idempotency_keys SET expires_at = clock_timestamp() - interval '1 s'")
    assert submit(harness, key="k").job.id != first.job.id


def test_concurrent_requests_with_one_key_create_one_job(harness: LedgerHarness) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = [item.result().job.id for item in [pool.submit(submit, harness, key="k") for _ in range(8)]]
    assert len(set(jobs)) == 1
    harness.assert_conserved()


def test_a_key_whose_first_request_is_uncommitted_is_in_progress(harness: LedgerHarness) -> None:
    impatient = open_ledger(harness.url, name="impatient", limits=Limits(lock_ms=100))
    with harness.ledger.transaction() as first:
        first.execute(
            text(
                "INSERT INTO idempotency_keys (tenant_id, key, request_hash, job_id, expires_at) "
                "VALUES (:t, 'k', '', :j, now() + interval '1 day')"
            ),
            {"t": harness.tenant_id, "j": new_id()},
        )
        with pytest.raises(IdempotencyInProgress):
            submit(harness, impatient, key="k")
    impatient.close()


@pytest.mark.parametrize("which", ["run_at", "start_by"])
def test_times_in_the_past_or_without_a_zone_are_refused(harness: LedgerHarness, which: str) -> None:
    for moment in (datetime.now(UTC) - timedelta(minutes=1), datetime.now()):
        with pytest.raises(InvalidRequest) as refused:
            submit(harness, **{which: moment})
        assert refused.value.errors[0].field == which
    assert harness.all("SELECT count(*)::int FROM jobs") == [0]


def test_start_by_must_come_after_run_at(harness: LedgerHarness) -> None:
    now = datetime.now(UTC)
    with pytest.raises(InvalidRequest, match="times"):
        submit(harness, run_at=now + timedelta(hours=2), start_by=now + timedelta(hours=1))


def test_unknown_kinds_and_null_characters_are_refused(harness: LedgerHarness) -> None:
    with pytest.raises(UnknownKind, match=r"did you mean 'test\.echo'"):
        submit(harness, kind="test.ehco")
    with pytest.raises(InvalidPayload, match="NUL"):
        submit(harness, payload={"a": "b\x00c"})


def test_a_commit_whose_response_is_lost_has_an_unknown_outcome(harness: LedgerHarness) -> None:
    """The server commits, but the connection dies before the response: neither success nor failure may be reported."""
    with proxied(harness.url) as (url, proxy):
        ledger = open_ledger(url, name="cut")
        submit(harness, ledger)  # prepares the function: the next lost response is that of its call
        proxy.losing_answers.set()
        with pytest.raises(OutcomeUnknown):
            submit(harness, ledger, key="k")
        proxy.losing_answers.clear()
        again = submit(harness, ledger, key="k")
        assert not again.created, "a repetition with the same key returns the committed job"
        ledger.close()
    harness.assert_conserved()


def wait_for_death(harness: LedgerHarness, pid: int) -> None:
    from tests.support.waiting import eventually

    eventually(lambda: harness.all("SELECT count(*)::int FROM pg_stat_activity WHERE pid = :p", p=pid) == [0])


def test_a_ledger_that_is_down_raises_ledger_unavailable(harness: LedgerHarness) -> None:
    away = open_ledger(harness.url.replace("127.0.0.1:", "127.0.0.1:1"), name="away")
    with pytest.raises(LedgerUnavailable):
        submit(harness, away)


def test_a_connection_that_was_lost_while_idle_causes_no_error(harness: LedgerHarness) -> None:
    ledger = open_ledger(harness.url, name="idle")
    submit(harness, ledger)
    mine = "SELECT pid FROM pg_stat_activity WHERE application_name = 'jobplatform idle'"
    for pid in harness.all(mine):
        harness.do("SELECT pg_terminate_backend(:pid)", pid=pid)
        wait_for_death(harness, pid)
    submit(harness, ledger)
    ledger.close()


def test_a_submit_waits_for_no_other_submit(harness: LedgerHarness) -> None:
    """64 counter slots: two open submits of one tenant do not serialise, unless they share a slot."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: submit(harness), range(200)))
    assert len(harness.all("SELECT slot FROM queue_counters")) > 1
    harness.assert_conserved()


def test_a_call_inside_an_open_transaction_of_the_same_thread_raises_an_error(harness: LedgerHarness) -> None:
    with harness.round(ledger=harness.ledger), pytest.raises(RuntimeError, match="open on this thread"):
        submit(harness)


def test_a_statement_that_takes_too_long_is_refused_and_nothing_is_written(harness: LedgerHarness) -> None:
    slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN new; END'"
    harness.do(slow)
    harness.do("CREATE TRIGGER slow BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION slow()")
    ledger = open_ledger(harness.url, name="hasty", limits=Limits(statement_ms=200))
    for key in ("k", None):
        with pytest.raises(LedgerBusy):
            submit(harness, ledger, key=key)
    harness.do("DROP TRIGGER slow ON jobs")
    assert harness.all("SELECT count(*)::int FROM jobs") == [0]
    assert submit(harness, ledger, key="k").created, "the key was not used up"
    ledger.close()
    harness.assert_conserved()


def test_an_exhausted_connection_pool_raises_ledger_busy(harness: LedgerHarness) -> None:
    ledger = open_ledger(harness.url, name="small", connections=1)
    ledger.transactions.pool._timeout = 0.1
    with ledger.transaction(), pytest.raises(LedgerBusy, match="in use"), ledger.transaction():
        pass
    with ledger.transaction() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    ledger.close()


def test_a_ledger_that_has_moved_to_another_address_is_reached_there(harness: LedgerHarness) -> None:
    """After a failover: the URL names both addresses, and the driver tries them at each new connection."""
    with proxied(harness.url) as (_, first), proxied(harness.url) as (_, second):
        head, _, name = harness.url.rpartition("/")
        hosts = f"host=127.0.0.1:{first.port}&host=127.0.0.1:{second.port}&target_session_attrs=read-write"
        ledger = open_ledger(f"{head.rpartition('@')[0]}@/{name}?{hosts}", name="moving")
        assert submit(harness, ledger, key="before").created
        first.stops = lambda data, before: True
        first.close()
        with pytest.raises((LedgerUnavailable, OutcomeUnknown)):
            submit(harness, ledger, key="k")
        assert submit(harness, ledger, key="k").created
        with ledger.transaction() as connection:
            assert connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 2
        ledger.close()
