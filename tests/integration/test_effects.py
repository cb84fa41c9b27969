"""The effect journal: an effect is done once, however many runs a job has; a crash may leave it unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.domain.kinds import Kind
from jobplatform.domain.retry import Fixed
from jobplatform.errors import EffectNotFound, JobNotFound, Retryable
from jobplatform.ledger import effects
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.resolve_effect import list_effects, resolve_effect
from tests.support.ledger_harness import Anything, LedgerHarness
from workers.runtime import attempt, context


class Bank:
    """Another system: it counts its charges."""

    def __init__(self) -> None:
        self.charges = 0

    def charge(self) -> dict[str, int]:
        self.charges += 1
        return {"number": self.charges}


class Killed(BaseException):
    """Simulates SIGKILL: no code of the platform runs after it."""


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def run(harness: LedgerHarness, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Return a function that dispatches a job and runs it once."""
    config = Settings(database_url=harness.url, artifact_url=tmp_path.as_uri())
    for module in (attempt, context):
        monkeypatch.setattr(module, "ledger", lambda: harness.ledger)
    monkeypatch.setattr(attempt, "settings", lambda: config)

    def once(handler: Any, job_id: UUID, unknown: str = "hold") -> Any:
        kind = Kind("test.echo", "email", Anything, handler, retry=Fixed(0), unknown_effects=unknown)
        harness.all("SELECT * FROM wake_jobs(10, NULL)")
        harness.dispatch(job_id)
        number, lease_id = harness.row(job_id).dispatch_no, new_id()
        delivery = Delivery(job_id, number, "test.echo", lease_id, harness.worker.id, "worker@test")
        try:
            attempt.run_attempt(delivery, kind)
        except Killed:
            harness.settle(job_id, lease_id, "lost", None, error={"code": "lost", "message": "x", "retryable": True})
        return harness.row(job_id)

    return once


def charging(bank: Bank, fail: BaseException | None = None, after: BaseException | None = None) -> Any:
    def handler(payload: Any, ctx: Any) -> Any:
        with ctx.effect("charge-42") as effect:
            if effect.needed:
                if fail is not None:
                    raise fail
                effect.receipt = bank.charge()
                if after is not None:
                    raise after
        return effect.receipt

    return handler


def then(first: Any, second: Any) -> Any:
    """Return a handler that calls `first`, then raises `second`: it fails after its effect."""

    def handler(payload: Any, ctx: Any) -> Any:
        first(payload, ctx)
        raise second

    return handler


def test_a_completed_effect_is_not_repeated(harness: LedgerHarness, bank: Bank, run) -> None:
    job_id = harness.submit()
    row = run(then(charging(bank), Retryable("later")), job_id)
    assert (row.state, bank.charges) == ("scheduled", 1)
    row = run(charging(bank), job_id)
    assert (row.state, row.result, bank.charges) == ("succeeded", {"number": 1}, 1)
    assert [
        (effect["key"], effect["state"], effect["receipt"])
        for effect in list_effects(harness.ledger, harness.tenant_id, job_id)
    ] == [("charge-42", "done", {"number": 1})]


@pytest.mark.parametrize(
    ("unknown", "state", "charges", "result"),
    [("repeat", "succeeded", 2, {"number": 2}), ("skip", "succeeded", 1, None), ("hold", "held", 1, None)],
)
def test_the_kind_decides_what_follows_a_crash_between_effect_and_receipt(
    harness: LedgerHarness, bank: Bank, run, unknown: str, state: str, charges: int, result: Any
) -> None:
    job_id = harness.submit()
    run(charging(bank, after=Killed()), job_id, unknown)
    row = run(charging(bank), job_id, unknown)
    assert (row.state, bank.charges) == (state, charges)
    assert getattr(row, "result", None) == result


def test_an_effect_that_certainly_failed_leaves_no_entry(harness: LedgerHarness, bank: Bank, run) -> None:
    job_id = harness.submit()
    assert run(charging(bank, fail=Retryable("refused")), job_id).state == "scheduled"
    assert list_effects(harness.ledger, harness.tenant_id, job_id) == []
    assert run(charging(bank), job_id).state == "succeeded"


@pytest.mark.parametrize("error", [Retryable("time-out", may_have_happened=True), ValueError("a bug")])
def test_an_effect_that_may_have_happened_holds_the_job(
    harness: LedgerHarness, bank: Bank, run, error: Exception
) -> None:
    job_id = harness.submit()
    run(charging(bank, fail=error), job_id)
    row = run(charging(bank), job_id)
    assert (row.state, row.error["code"], row.error["detail"]) == ("held", "effect_unknown", {"effect": "charge-42"})
    assert harness.all("SELECT outcome FROM job_runs WHERE job_id = :j ORDER BY run_no", j=job_id)[-1] == "held"


@pytest.mark.parametrize(("happened", "charges", "result"), [(True, 0, {"seen": "by hand"}), (False, 1, {"number": 1})])
def test_an_operator_records_the_outcome_of_an_effect_and_the_job_continues(
    harness: LedgerHarness, bank: Bank, run, happened: bool, charges: int, result: Any
) -> None:
    job_id = harness.submit()
    run(charging(bank, fail=ValueError("who knows")), job_id)
    attempts = run(charging(bank), job_id).attempt
    receipt = {"seen": "by hand"} if happened else None
    job = resolve_effect(
        harness.ledger, None, harness.tenant_id, job_id, "charge-42", happened=happened, receipt=receipt, by="ops"
    )
    assert (job.state, job.attempt) == ("available", attempts), "being held does not count as an attempt"
    row = run(charging(bank), job_id)
    assert (row.state, row.result, bank.charges) == ("succeeded", result, charges)
    assert harness.events(job_id)[-4:] == ["resolved", "dispatched", "started", "succeeded"]


def test_only_a_job_held_by_the_named_effect_is_resolved(harness: LedgerHarness, bank: Bank, run) -> None:
    job_id, waiting = harness.submit(), harness.submit()
    run(charging(bank, fail=ValueError("who knows")), job_id)
    run(charging(bank), job_id)
    for item, key in ((waiting, "charge-42"), (job_id, "charge-43")):
        with pytest.raises(EffectNotFound, match="see GET"):
            resolve_effect(harness.ledger, None, harness.tenant_id, item, key, happened=True, by="ops")
    with pytest.raises(JobNotFound):
        resolve_effect(harness.ledger, None, new_id(), job_id, "charge-42", happened=True, by="ops")
    assert harness.row(job_id).state == "held"


def test_a_run_that_lost_its_lease_records_no_effect(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    token = new_id()
    assert effects.begin_effect(harness.ledger, job_id, lease_id, "k", token, "hold")[0] == "do"
    assert effects.begin_effect(harness.ledger, job_id, lease_id, "k", token, "hold")[0] == "do", "a repeated call"
    assert effects.begin_effect(harness.ledger, job_id, lease_id, "k", new_id(), "hold")[0] == "unknown"
    harness.settle(job_id, lease_id, "lost", None, error={"code": "lost", "message": "x", "retryable": True})
    assert effects.begin_effect(harness.ledger, job_id, lease_id, "other", token, "hold")[0] == "lost"
    with harness.ledger.transaction() as connection:
        assert not effects.end_effect(connection, job_id, lease_id, "k", token, {"x": 1})
        assert not effects.undo_effect(connection, job_id, lease_id, "k", token)
    assert harness.all("SELECT state FROM effects") == ["intended"]


def test_a_receipt_that_is_not_json_is_stored_as_text(harness: LedgerHarness, run) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        with ctx.effect("k") as effect:
            effect.receipt = {"at": object, "nul": "a\x00b"}

    job_id = harness.submit()
    assert run(handler, job_id).state == "succeeded"
    assert harness.all("SELECT receipt ->> 'nul' FROM effects") == ["a\ufffdb"]


def test_an_effect_key_that_is_too_long_is_an_error_of_the_handler(harness: LedgerHarness, run) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        with ctx.effect("x" * 300):
            raise AssertionError("not reached")

    row = run(handler, harness.submit())
    assert (row.state, row.error["code"]) == ("dead", "invalid_effect")
