"""Attempts on a real ledger: every outcome of a handler, and signals that arrive at the wrong moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel

from jobplatform.config import Settings
from jobplatform.domain.kinds import Kind
from jobplatform.domain.retry import Fixed
from jobplatform.errors import JobCancelled, LeaseLost, LedgerUnavailable, Permanent, Retryable, Snooze
from jobplatform.ledger import jobs
from jobplatform.ledger import workers as ledger_workers
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import end_runs
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.store_artifacts import sweep_removals
from tests.support.ledger_harness import Anything, LedgerHarness
from workers.runtime import attempt, context


@pytest.fixture(autouse=True)
def here(harness: LedgerHarness, monkeypatch, tmp_path) -> None:
    config = Settings(database_url=harness.url, artifact_url=tmp_path.as_uri(), max_result_bytes=10_000)
    for module in (attempt, context):
        monkeypatch.setattr(module, "ledger", lambda: harness.ledger)
    monkeypatch.setattr(attempt, "settings", lambda: config)


def run(harness: LedgerHarness, handler: Any, model: type[BaseModel] = Anything, **fields: Any) -> tuple[Any, Any]:
    """Run a job with a handler; return (its outcome for Celery, its row)."""
    names = ("soft_limit_seconds", "retry_timeouts", "retry_codes", "max_age_seconds")
    limits = {name: fields.pop(name) for name in names if name in fields}
    kind = Kind("test.echo", "email", model, handler, retry=Fixed(5), max_attempts=3, **limits)
    job_id = harness.submit(**fields)
    harness.dispatch(job_id)
    ended = attempt.run_attempt(delivery(harness, job_id), kind)
    return ended, harness.row(job_id)


def delivery(harness: LedgerHarness, job_id, dispatch_no: int = 1) -> Delivery:
    return Delivery(job_id, dispatch_no, "test.echo", new_id(), harness.worker.id, "worker@test")


def raising(error: BaseException):
    def handler(payload: Any, ctx: Any) -> None:
        raise error

    return handler


class Result(BaseModel):
    n: int


@pytest.mark.parametrize(
    ("result", "kept"),
    [(None, None), ({"a": [1, "x"]}, {"a": [1, "x"]}), (Result(n=3), {"n": 3}), ("a\x00b", "a\ufffdb")],
)
def test_results_are_kept_as_json(harness: LedgerHarness, result: Any, kept: Any) -> None:
    ended, row = run(harness, lambda payload, ctx: result)
    assert (ended.state, row.state, row.result) == ("succeeded", "succeeded", kept)
    assert harness.all("SELECT usage ->> 'peak_memory_bytes' IS NOT NULL FROM job_runs") == [True]


@pytest.mark.parametrize(
    ("handler", "state", "code"),
    [
        (raising(Permanent("no", code="bad")), "dead", "bad"),
        (raising(Retryable("later", code="busy")), "scheduled", "busy"),
        (raising(ValueError("bug")), "scheduled", "unhandled_exception"),
        (raising(MemoryError()), "scheduled", "unhandled_exception"),
        (raising(FileNotFoundError("caf\udce9.txt")), "scheduled", "unhandled_exception"),
        (raising(ValueError("a\x00b")), "scheduled", "unhandled_exception"),
        (raising(Retryable("x", detail={"n": 2**70, "s": "\udce9"})), "scheduled", "retryable"),
        (raising(Retryable("x", after=1e18)), "scheduled", "retryable"),
        (raising(Retryable("x", after=float("nan"))), "scheduled", "retryable"),
        (raising(LedgerUnavailable()), "scheduled", None),  # not the handler's fault: does not count as an attempt
        (raising(JobCancelled()), "cancelled", "cancelled"),
        (raising(SoftTimeLimitExceeded()), "scheduled", "timed_out"),
        (lambda payload, ctx: object(), "dead", "invalid_result"),
        (lambda payload, ctx: float("nan"), "succeeded", None),
        (lambda payload, ctx: "x" * 20_000, "dead", "result_too_large"),
    ],
)
def test_every_outcome_of_a_handler_has_its_state_and_code(
    harness: LedgerHarness, handler, state: str, code: str | None
) -> None:
    ended, row = run(harness, handler)
    assert (ended.state, row.state) == (state, state)
    assert (row.error or {}).get("code") == code
    harness.assert_conserved()


def test_sys_exit_on_a_thread_is_a_bug_of_the_handler(harness: LedgerHarness) -> None:
    with ThreadPoolExecutor(1) as pool:
        _, row = pool.submit(run, harness, raising(SystemExit(3))).result()
    assert (row.state, row.error["code"]) == ("scheduled", "unhandled_exception")


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(), KeyboardInterrupt()])
def test_sys_exit_in_a_pool_child_is_a_handler_failure_and_not_a_crash(
    harness: LedgerHarness, error: BaseException
) -> None:
    _, row = run(harness, raising(error))
    assert (row.state, row.error["code"], row.crash_count) == ("scheduled", "unhandled_exception", 0)


def test_a_child_that_the_pool_terminates_leaves_the_outcome_to_its_parent(harness: LedgerHarness, monkeypatch) -> None:
    monkeypatch.setattr(attempt, "terminate_handler_fired", lambda: True)
    with pytest.raises(SystemExit):
        run(harness, raising(SystemExit(3)))
    assert harness.all("SELECT state FROM jobs") == ["running"]


def test_a_snooze_does_not_count_as_an_attempt(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(Snooze(60)))
    assert (row.state, row.attempt, row.run_no) == ("scheduled", 0, 1)


def test_a_snooze_given_in_milliseconds_by_mistake_is_capped_at_a_year(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(Snooze(1.8e12)))
    assert (row.run_at - row.state_at).days == 366


def test_usage_accepts_any_type_of_number(harness: LedgerHarness) -> None:
    from decimal import Decimal

    def handler(payload: Any, ctx: Any) -> None:
        ctx.record_usage(tokens=3, cost=Decimal("0.5"))
        ctx.record_usage(tokens=4)

    run(harness, handler)
    assert harness.all("SELECT usage ->> 'tokens', usage ->> 'cost' FROM job_runs") == [("7", "0.5")]


def test_a_retry_policy_that_raises_fails_the_run_and_not_the_job(harness: LedgerHarness) -> None:
    class Broken:
        def delay_seconds(self, attempt: int, random: Any) -> float:
            raise IndexError("list index out of range")

    job_id = harness.submit()
    harness.dispatch(job_id)
    kind = Kind("test.echo", "email", Anything, raising(Retryable("x")), retry=Broken(), max_attempts=3)
    assert attempt.run_attempt(delivery(harness, job_id), kind).state == "scheduled"
    assert "IndexError" in harness.row(job_id).error["message"]


def test_retry_after_sets_the_delay_and_a_failed_last_attempt_is_dead_lettered(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(Retryable("x", after=120)))
    assert 115 < (row.run_at - row.state_at).total_seconds() <= 120
    _, row = run(harness, raising(Retryable("x")), max_attempts=1)
    assert (row.state, row.error["message"]) == ("dead", "x (attempt 1 of 1)")


def test_a_payload_that_no_longer_validates_is_dead_lettered_with_the_invalid_fields(harness: LedgerHarness) -> None:
    class Strict(BaseModel):
        width: int

    _, row = run(harness, lambda payload, ctx: None, Strict, payload={"width": "wide"})
    assert (row.state, row.error["code"]) == ("dead", "invalid_payload")
    assert row.error["detail"]["errors"][0]["field"] == "payload.width"


def test_a_soft_limit_that_fires_during_claim_or_settle_breaks_neither(harness: LedgerHarness, monkeypatch) -> None:
    for step in ("claim", "settle"):
        real, hits = getattr(attempt, step), []

        def interrupted(*args: Any, _real: Any = real, _hits: list = hits, **more: Any) -> Any:
            done = _real(*args, **more)
            _hits.append(1)
            if len(_hits) == 1:
                raise SoftTimeLimitExceeded  # the signal arrives while the ledger responds
            return done

        monkeypatch.setattr(attempt, step, interrupted)
        ended, row = run(harness, lambda payload, ctx: 1)
        monkeypatch.setattr(attempt, step, real)
        assert (ended.state, row.state, row.run_no, len(hits)) == ("succeeded", "succeeded", 1, 2)


def test_a_run_that_lost_its_lease_writes_nothing_more(harness: LedgerHarness) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        harness.do(
            "UPDATE jobs SET state = 'available', lease_id = NULL, worker_id = NULL, state_at = clock_timestamp()"
        )
        with pytest.raises(LeaseLost):
            ctx.log("ghost")
        with pytest.raises(LeaseLost):
            ctx.artifact("a.txt", b"ghost")
        ctx.progress(1)

    ended, row = run(harness, handler)
    assert (ended.state, row.state, row.progress) == (None, "available", None)
    assert harness.all("SELECT count(*)::int FROM artifacts") == [0]
    assert harness.all("SELECT count(*)::int FROM job_runs") == [0]


def test_a_cancel_ends_a_run_at_its_next_progress_report_but_a_success_wins(harness: LedgerHarness) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        cancel(harness, ctx.job_id)
        ctx.progress(1)

    assert run(harness, handler)[1].state == "cancelled"

    def too_late(payload: Any, ctx: Any) -> int:
        assert ctx.cancelled() is False
        cancel(harness, ctx.job_id)
        return 1

    assert run(harness, too_late)[1].state == "succeeded"


def cancel(harness: LedgerHarness, job_id: Any) -> None:
    with harness.ledger.transaction() as connection:
        jobs.cancel_job(connection, harness.tenant_id, job_id, None)


def test_the_workdir_of_a_run_is_created_on_demand_and_removed(harness: LedgerHarness) -> None:
    seen = []

    def handler(payload: Any, ctx: Any) -> None:
        (ctx.workdir / "x").write_text("x")
        seen.append(ctx.workdir)

    run(harness, handler)
    assert not seen[0].exists()


def test_a_job_that_cannot_be_claimed_is_not_run(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    kind = Kind("test.echo", "email", Anything, raising(AssertionError("must not run")))
    assert attempt.run_attempt(delivery(harness, job_id), kind).state is None
    assert harness.row(job_id).state == "available"


def refuse(harness: LedgerHarness, job_id: Any, number: int, patience_seconds: float = 300.0) -> str:
    harness.do("UPDATE workers SET kinds = '{}' WHERE id = :id", id=harness.worker.id)
    harness.do("UPDATE jobs SET state = 'available' WHERE id = :id AND state = 'scheduled'", id=job_id)
    harness.dispatch(job_id)
    return end_runs.refuse_kind(
        harness.ledger,
        delivery(harness, job_id, number),
        "not known here",
        patience_seconds=patience_seconds,
        lease_seconds=20,
    )


def test_a_kind_that_the_worker_does_not_know_uses_up_no_attempt_and_little_time(harness: LedgerHarness) -> None:
    job_id = harness.submit(max_attempts=1)
    delays = []
    for number in (1, 2, 3):
        assert refuse(harness, job_id, number) == "scheduled"
        row = harness.row(job_id)
        assert (row.attempt, row.run_no) == (0, number)
        delays.append((row.run_at - row.state_at).total_seconds())
    assert delays == [0.25, 0.5, 1.0]
    with harness.ledger.transaction() as connection:
        assert ledger_workers.knows_kind(connection, job_id, 20) is False


def test_a_job_of_a_kind_that_no_worker_knows_is_dead_lettered_eventually(harness: LedgerHarness) -> None:
    job_id = harness.submit(max_attempts=9)
    assert refuse(harness, job_id, 1, patience_seconds=0.2) == "scheduled"
    harness.do("UPDATE job_runs SET started_at = started_at - interval '1 s'")
    assert refuse(harness, job_id, 2, patience_seconds=0.2) == "dead"
    assert harness.row(job_id).error["code"] == "unknown_kind"
    assert "no live worker of its queue has known it" in harness.row(job_id).error["message"]
    late = delivery(harness, job_id, 1)
    assert end_runs.refuse_kind(harness.ledger, late, "forged", patience_seconds=1, lease_seconds=1) == "stale"


def test_a_job_of_a_kind_that_another_live_worker_knows_waits_for_that_worker(harness: LedgerHarness) -> None:
    job_id = harness.submit(max_attempts=1)
    card = {"id": new_id(), "node": "new@h", "host": "h", "pid": 1, "pool": "prefork", "slots": 1}
    with harness.ledger.transaction() as connection:
        ledger_workers.register_worker(connection, {**card, "queues": ["email"], "kinds": ["test.echo"]})
    assert refuse(harness, job_id, 1, patience_seconds=0) == "scheduled"


def test_a_cancelled_run_leaves_no_artifacts(harness: LedgerHarness, tmp_path) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        ctx.artifact("out.txt", b"half done")
        with harness.ledger.transaction() as connection:
            jobs.cancel_job(connection, harness.tenant_id, ctx.job_id, "stop")
        ctx.progress(1, 2)

    _, row = run(harness, handler)
    assert row.state == "cancelled"
    assert harness.all("SELECT count(*)::int FROM artifacts") == [0]
    assert sweep_removals(harness.ledger, tmp_path.as_uri()) == 1, "the parent process of the worker deletes the file"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_error_code_with_its_own_retry_policy_uses_the_delay_of_that_policy(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(Retryable("x", code="busy")), retry_codes={"busy": Fixed(600)})
    assert 590 < (row.run_at - row.state_at).total_seconds() <= 600
    _, row = run(harness, raising(Retryable("x", code="other")), retry_codes={"busy": Fixed(600)})
    assert (row.run_at - row.state_at).total_seconds() == pytest.approx(5, abs=0.1)


def test_a_soft_limit_has_its_own_retry_policy(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(SoftTimeLimitExceeded()), soft_limit_seconds=1, retry_codes={"timed_out": Fixed(900)})
    assert (row.run_at - row.state_at).total_seconds() == pytest.approx(900, abs=0.1)
    _, row = run(harness, raising(SoftTimeLimitExceeded()), soft_limit_seconds=1, retry_timeouts=False)
    assert (row.state, row.error["code"]) == ("dead", "timed_out")


def test_a_handler_may_catch_its_soft_limit_and_succeed(harness: LedgerHarness) -> None:
    def handler(payload: Any, ctx: Any) -> str:
        try:
            raise SoftTimeLimitExceeded
        except SoftTimeLimitExceeded:
            return "what there was"

    _, row = run(harness, handler, soft_limit_seconds=1)
    assert (row.state, row.result) == ("succeeded", "what there was")


def test_a_retry_beyond_the_maximum_age_of_its_kind_is_dead_lettered(harness: LedgerHarness) -> None:
    _, row = run(harness, raising(Retryable("x", code="busy")), max_age_seconds=4)
    assert (row.state, row.error["code"], row.error["last"]) == ("dead", "too_old", "x")


def test_an_outcome_that_the_ledger_refuses_permanently_is_dead_lettered_and_the_handler_runs_once(
    harness: LedgerHarness, monkeypatch
) -> None:
    real, hits = attempt.settle, []

    def refuse_once(*args: Any, **more: Any) -> Any:
        hits.append(1)
        if len(hits) == 1:
            raise ValueError("violates a constraint")
        return real(*args, **more)

    monkeypatch.setattr(attempt, "settle", refuse_once)
    ended, row = run(harness, lambda payload, ctx: 1)
    assert (ended.state, row.state, row.error["code"], row.run_no) == ("dead", "dead", "settle_refused", 1)
    assert "violates a constraint" in row.error["message"]
