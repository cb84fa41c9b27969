"""Connections to the ledger, cut at each message: nothing is done twice, and no reported outcome is false."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.domain.kinds import Kind
from jobplatform.errors import JobPlatformError, LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import effects
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases import track_workers
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.change_job import change_job
from jobplatform.usecases.discard_job import discard_job
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.replay_job import replay_job
from jobplatform.usecases.resolve_effect import resolve_effect
from tests.support.cutting import MANY, cut
from tests.support.ledger_harness import LIMITS, Anything, LedgerHarness
from workers.runtime import attempt, context

MODES = pytest.mark.parametrize("loses_answer", [False, True], ids=["request lost", "answer lost"])


@MODES
def test_a_run_does_everything_once_wherever_its_connection_is_cut(
    harness: LedgerHarness, monkeypatch, tmp_path: Path, loses_answer: bool
) -> None:
    """Claim, log, effect, artifact, settle: the handler is called once, whichever message is lost."""
    config = Settings(database_url=harness.url, artifact_url=tmp_path.as_uri())
    monkeypatch.setattr(attempt, "settings", lambda: config)
    cuts = 0
    for number in range(1, MANY):
        calls, charges = [], []

        def handler(payload: Any, ctx: Any, calls: list[int] = calls, charges: list[int] = charges) -> Any:
            calls.append(1)
            ctx.log("begun")
            ctx.progress(1, 2)
            with ctx.effect("charge") as effect:
                if effect.needed:
                    charges.append(1)
                    effect.receipt = {"charge": 7}
            return {"file": ctx.artifact("a.txt", b"hello")["size"], "receipt": effect.receipt}

        kind = Kind("test.echo", "email", Anything, handler)
        job_id = harness.submit()
        harness.dispatch(job_id)
        delivery = Delivery(
            job_id, harness.row(job_id).dispatch_no, "test.echo", new_id(), harness.worker.id, "worker@test"
        )
        with cut(harness.url, number, loses_answer, LIMITS) as (ledger, result):
            for module in (attempt, context):
                monkeypatch.setattr(module, "ledger", lambda ledger=ledger: ledger)
            attempt.run_attempt(delivery, kind)
            cuts += result.done
        assert (len(calls), len(charges)) == (1, 1), f"cut at message {number}"
        assert harness.row(job_id).result == {"file": 5, "receipt": {"charge": 7}}
        assert harness.all("SELECT outcome FROM job_runs WHERE job_id = :id", id=job_id) == ["succeeded"]
        assert harness.all("SELECT state, receipt FROM effects WHERE job_id = :id", id=job_id) == [
            ("done", {"charge": 7})
        ]
        locations = harness.all("SELECT location FROM artifacts WHERE job_id = :id", id=job_id)
        assert [(tmp_path / location).read_bytes() for location in locations] == [b"hello"]
        assert [event for event in harness.events(job_id) if event != "log"] == [
            "submitted", "dispatched", "started", "succeeded"]  # fmt: skip
        assert 1 <= harness.events(job_id).count("log") <= 2
        if not result.done:
            break
    assert cuts > 12, "cut at each message of claim, log, progress, effect, artifact and settle"
    harness.assert_conserved()


def dead(harness: LedgerHarness) -> UUID:
    job_id, lease_id = harness.running()
    harness.settle(job_id, lease_id, "failed", "dead", error={"code": "x", "message": "x", "retryable": False})
    return job_id


def held(harness: LedgerHarness) -> UUID:
    job_id, lease_id = harness.running()
    effects.begin_effect(harness.ledger, job_id, lease_id, "charge", new_id(), "hold")
    harness.settle(
        job_id, lease_id, "held", "held", error={"code": "effect_unknown", "message": "x", "retryable": False}
    )
    return job_id


def running(harness: LedgerHarness) -> UUID:
    return harness.running()[0]


def waiting(harness: LedgerHarness) -> UUID:
    return harness.submit()


#: operation → (factory of its job, call, event that the call writes once)
OPERATIONS: dict[str, tuple[Callable[[LedgerHarness], UUID], Callable[[Ledger, LedgerHarness, UUID], Any], str]] = {
    "cancel": (waiting, lambda led, b, j: cancel_job(led, b.tenant_id, j, "late", "me"), "cancelled"),
    "cancel a run": (running, lambda led, b, j: cancel_job(led, b.tenant_id, j, "late", "me"), "cancel_requested"),
    "replay": (dead, lambda led, b, j: replay_job(led, None, b.tenant_id, j, by="me"), "replayed"),
    "discard": (dead, lambda led, b, j: discard_job(led, b.tenant_id, j, "no", by="me"), "discarded"),
    "change": (waiting, lambda led, b, j: change_job(led, None, b.tenant_id, j, priority=9, by="me"), "changed"),
    "resolve": (
        held,
        lambda led, b, j: resolve_effect(led, None, b.tenant_id, j, "charge", happened=True, by="me"),
        "resolved",
    ),
}


@MODES
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_on_a_job_takes_effect_once_and_its_outcome_is_reported_correctly(
    harness: LedgerHarness, name: str, loses_answer: bool
) -> None:
    make, ask, event = OPERATIONS[name]
    unknown = 0
    for number in range(1, MANY):
        job_id = make(harness)
        with cut(harness.url, number, loses_answer, LIMITS) as (ledger, result):
            try:
                ask(ledger, harness, job_id)
                outcome = "done"
            except OutcomeUnknown:
                outcome = "unknown"
            except LedgerUnavailable:
                outcome = "nothing changed"
        times = harness.events(job_id).count(event)
        assert times == {"done": 1, "nothing changed": 0}.get(outcome, times), f"cut at message {number}: {outcome}"
        unknown += outcome == "unknown" and times == 1
        if outcome != "done":
            try:
                ask(harness.ledger, harness, job_id)
            except JobPlatformError:
                assert outcome == "unknown" and times == 1, "only an operation that took effect may be refused"
        assert harness.events(job_id).count(event) == 1
        if not result.done:
            break
    assert bool(unknown) == loses_answer, "one of the lost answers is that of the commit"
    harness.assert_conserved()


@MODES
def test_a_heartbeat_that_is_cut_can_be_repeated_without_harm(harness: LedgerHarness, loses_answer: bool) -> None:
    job_id, lease_id = harness.running()
    for number in range(1, MANY):
        mine = harness.worker
        with cut(harness.url, number, loses_answer, LIMITS) as (ledger, result):
            try:
                track_workers.beat(ledger, mine, [lease_id])
            except (LedgerUnavailable, OutcomeUnknown):
                pass
        track_workers.beat(harness.ledger, mine, [lease_id])
        if not result.done:
            break
    assert result.seen > 3 and harness.row(job_id).state == "running"
    assert harness.all("SELECT count(*)::int FROM workers WHERE id = :id", id=harness.worker.id) == [1]
