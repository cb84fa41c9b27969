"""Committer and handover on a real ledger; a list replaces the pool, and the test's thread is the worker's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from jobplatform.domain.states import State
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.end_runs import give_claim_back
from jobplatform.usecases.execute_run import Claim, Delivery, claim
from jobplatform.usecases.track_workers import CancelRequest
from tests.support.cutting import MANY, cut
from tests.support.ledger_harness import LIMITS, LedgerHarness
from tests.support.waiting import eventually, wait_until_blocked
from workers.liveness import stopping
from workers.liveness.stopping import Stopper
from workers.runtime import attempt, committer
from workers.runtime.attempt import Ended
from workers.runtime.committer import Committer, Finished
from workers.runtime.deliveries import Deliveries, Held
from workers.runtime.handover import MEASURED_RUNS, Handover, RunTimes
from workers.runtime.task import CLAIM

MODES = pytest.mark.parametrize("loses_answer", [False, True], ids=["request lost", "answer lost"])


class Request:
    """The part of Celery's request that the handover needs."""

    is_claim_pending = False
    claimed: Claim | None = None
    has_slot = False

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.name, self.lease_id = delivery.kind, delivery.lease_id
        self.request_dict: dict[str, Any] = {}
        self.acknowledged = 0

    def delivery(self) -> Delivery:
        return self._delivery

    def held(self) -> Held:
        delivery = self._delivery
        return Held(delivery.job_id, delivery.dispatch_no, delivery.lease_id, delivery.kind)

    def acknowledge(self) -> None:
        self.acknowledged += 1

    def renew_lease(self) -> None:
        self.lease_id = new_id()
        self._delivery = replace(self._delivery, lease_id=self.lease_id)


class Worker:
    """A handover with one slot, whose pool is the list `given`."""

    def __init__(self, harness: LedgerHarness) -> None:
        self.harness = harness
        self.deliveries = Deliveries()
        self.woken = threading.Semaphore(0)
        self.committer = Committer(self.woken.release)
        self.given: list[Request] = []
        self.freed, self.ahead, self.full = 0, 0, True
        self.handover = Handover(
            self.deliveries,
            self.committer,
            slots=lambda: 1,
            is_full=lambda: self.full,
            give=self.given.append,
            free_slot=lambda: setattr(self, "freed", self.freed + 1),
            set_ahead=lambda ahead: setattr(self, "ahead", ahead),
        )

    def request(self, job_id: UUID | None = None) -> Request:
        """Return the request of a dispatched job's delivery."""
        if job_id is None:
            job_id = self.harness.submit(payload={"n": 1})
            self.harness.dispatch(job_id)
        number = self.harness.row(job_id).dispatch_no
        return Request(Delivery(job_id, number, "test.echo", new_id(), self.harness.worker.id, "worker@test"))

    def measure(self, seconds: float = 0.001) -> None:
        """Record enough run times of the kind for the handover to use."""
        for _ in range(MEASURED_RUNS):
            self.handover._times.note("test.echo", seconds)

    def deliver(self) -> None:
        """Act as the worker's thread: wait for a commit, then call its callbacks."""
        assert self.woken.acquire(timeout=20)
        self.committer.deliver()

    def claimed_ahead(self) -> Request:
        request = self.request()
        self.measure()
        self.handover.receive(request)
        eventually(lambda: self.committer.deliver() or request.claimed)
        return request

    @contextmanager
    def claim_being_committed(self, job_id: UUID | None = None) -> Iterator[Request]:
        """Keep the commit of a claim waiting for a lock."""
        request = self.request(job_id)
        self.measure()
        with self.harness.ledger.transaction() as connection:
            connection.exec_driver_sql("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE")
            self.handover.receive(request)
            wait_until_blocked(self.harness)
            yield request


@pytest.fixture
def worker(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    for module in (committer, attempt):
        monkeypatch.setattr(module, "ledger", lambda: harness.ledger)
    monkeypatch.setattr(attempt, "hints", lambda: None)
    monkeypatch.setattr(stopping, "parent_ledger", lambda: harness.ledger)
    result = Worker(harness)
    result.committer.start()
    yield result
    result.committer.close(5)


def finished(request: Request, result: bytes = b'{"r": 1}') -> Finished:
    return Finished(request.delivery(), 1, result, b"{}", 0.0)


def settle(worker: Worker, *runs: Finished) -> list[Ended | Exception]:
    """Settle runs in one commit; return their outcomes."""
    ends: list[Ended | Exception] = []
    for run in runs:
        worker.committer.settle(run, ends.append)
    eventually(lambda: worker.committer.deliver() or len(ends) == len(runs))
    return ends


# --- settle


def test_a_success_is_settled_and_then_delivered(worker: Worker) -> None:
    request = worker.claimed_ahead()
    (ended,) = settle(worker, finished(request))
    assert isinstance(ended, Ended) and ended.state is State.SUCCEEDED
    row = worker.harness.row(request.delivery().job_id)
    assert (row.state, row.result) == ("succeeded", {"r": 1})
    worker.harness.assert_conserved()


def test_nothing_is_delivered_before_the_commit(worker: Worker) -> None:
    request = worker.claimed_ahead()
    ends: list[Ended | Exception] = []
    with worker.harness.ledger.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE")
        worker.committer.settle(finished(request), ends.append)
        wait_until_blocked(worker.harness)
        worker.committer.deliver()
        assert ends == []
    eventually(lambda: worker.committer.deliver() or ends)


def test_a_result_that_postgres_refuses_dead_letters_its_job_and_no_other(worker: Worker) -> None:
    good, bad = worker.claimed_ahead(), worker.claimed_ahead()
    ends = settle(worker, finished(bad, b"{"), finished(good))
    assert [end.state for end in ends if isinstance(end, Ended)] == [State.DEAD, State.SUCCEEDED]
    assert worker.harness.row(bad.delivery().job_id).error["code"] == "settle_refused"
    assert worker.harness.row(good.delivery().job_id).state == "succeeded"


def test_a_lost_lease_is_reported(worker: Worker) -> None:
    (ended,) = settle(worker, finished(worker.request()))
    assert isinstance(ended, Ended) and ended.state is None


def claim_and_settle_three(harness: LedgerHarness) -> list[UUID]:
    worker = Worker(harness)
    worker.committer.start()
    requests = [worker.request() for _ in range(3)]
    answers: list[tuple[Request, Claim | None]] = []
    for request in requests:
        worker.committer.claim(request.delivery(), lambda claimed, request=request: answers.append((request, claimed)))
    eventually(lambda: worker.committer.deliver() or len(answers) == 3)
    for request, claimed in answers:
        if claimed is None:  # the slot claims the job itself
            delivery = request.delivery()
            assert harness.claim(delivery.job_id, delivery.lease_id).verdict in ("claimed", "mine")
    ends = settle(worker, *map(finished, requests))
    worker.committer.close(20)
    assert {end.state for end in ends if isinstance(end, Ended)} == {State.SUCCEEDED}
    return [request.delivery().job_id for request in requests]


@MODES
def test_claims_and_settlements_happen_once_wherever_the_connection_is_cut(
    harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch, loses_answer: bool
) -> None:
    monkeypatch.setattr(attempt, "hints", lambda: None)
    cuts = 0
    for number in range(1, MANY):
        with cut(harness.url, number, loses_answer, LIMITS) as (ledger, result):
            for module in (committer, attempt):
                monkeypatch.setattr(module, "ledger", lambda ledger=ledger: ledger)
            jobs = claim_and_settle_three(harness)
            cuts += result.done
        for job_id in jobs:
            assert harness.row(job_id).state == "succeeded", f"cut at message {number}"
            assert harness.events(job_id) == ["submitted", "dispatched", "started", "succeeded"], number
            assert harness.all("SELECT outcome FROM job_runs WHERE job_id = :id", id=job_id) == ["succeeded"]
        if not result.done:
            break
    assert cuts >= 2
    harness.assert_conserved()


# --- claims ahead of a free slot


def test_a_delivery_with_a_free_slot_is_claimed_by_the_slot(worker: Worker) -> None:
    worker.measure()
    worker.full = False
    request = worker.request()
    worker.handover.receive(request)
    worker.handover.hand_over(request)
    assert worker.given == [request]
    assert CLAIM not in request.request_dict
    assert worker.harness.row(request.delivery().job_id).state == "dispatched"


@pytest.mark.parametrize("seconds", [None, 5.0], ids=["not measured", "long"])
def test_only_short_kinds_are_claimed_ahead(worker: Worker, seconds: float | None) -> None:
    if seconds is not None:
        worker.measure(seconds)
    request = worker.request()
    worker.handover.receive(request)
    worker.handover.hand_over(request)
    assert worker.given == [request]
    assert CLAIM not in request.request_dict


def test_a_claimed_delivery_is_handed_to_its_slot_with_the_claim(worker: Worker) -> None:
    request = worker.claimed_ahead()
    assert worker.given == [] and worker.deliveries.leases() == [request.lease_id]
    worker.handover.hand_over(request)
    assert worker.given == [request]
    tenant_id, payload, *numbers = request.request_dict[CLAIM]
    assert (tenant_id, payload, numbers) == (worker.harness.tenant_id, {"n": 1}, [1, 1, 3, True])
    assert worker.deliveries.leases() == [request.lease_id]


def test_a_slot_that_becomes_free_before_the_commit_waits_for_the_commit(worker: Worker) -> None:
    with worker.claim_being_committed() as request:
        worker.handover.hand_over(request)
        assert worker.given == []
    eventually(lambda: worker.committer.deliver() or worker.given)
    assert CLAIM in request.request_dict


def test_a_delivery_that_cannot_be_claimed_ahead_is_claimed_by_its_slot(worker: Worker) -> None:
    job_id = worker.harness.submit()
    worker.harness.dispatch(job_id)
    worker.harness.do("UPDATE jobs SET limit_keys = '{a:1}' WHERE id = :id", id=job_id)
    request = worker.request(job_id)
    worker.measure()
    worker.handover.receive(request)
    eventually(lambda: worker.committer.deliver() or not request.is_claim_pending)
    worker.handover.hand_over(request)
    assert worker.given == [request]
    assert CLAIM not in request.request_dict


def test_only_as_many_jobs_are_claimed_ahead_as_can_start_soon(worker: Worker) -> None:
    worker.measure(0.02)  # two in 50 ms
    requests = [worker.request() for _ in range(4)]
    for request in requests:
        worker.handover.receive(request)
    assert [request.is_claim_pending for request in requests] == [True, True, False, False]


def test_the_prefetch_follows_the_longest_kind(worker: Worker) -> None:
    worker.measure(0.001)
    first, second = worker.claimed_ahead(), worker.claimed_ahead()
    worker.handover.finish(first, finished(first), 0.001, lambda _: None)
    assert worker.ahead == 16
    for _ in range(MEASURED_RUNS):
        worker.handover._times.note("test.video", 60.0)
    worker.handover.finish(second, finished(second), 0.001, lambda _: None)
    assert worker.ahead == 0


def test_no_job_is_claimed_ahead_while_the_worker_has_long_kinds(worker: Worker) -> None:
    for _ in range(MEASURED_RUNS):
        worker.handover._times.note("test.video", 60.0)
    worker.measure()
    request = worker.request()
    worker.handover.receive(request)
    assert not request.is_claim_pending


def test_after_a_returned_claim_no_job_is_claimed_ahead_until_a_slot_ends_a_run(worker: Worker) -> None:
    """Otherwise a job that waits behind runs of hours would be claimed and returned again and again."""
    waiting, running = worker.claimed_ahead(), worker.claimed_ahead()
    worker.handover.hand_over(running)
    worker.handover.give_back("no slot became free")
    eventually(lambda: worker.harness.row(waiting.delivery().job_id).state == "available")
    again = worker.request()
    worker.handover.receive(again)
    assert not again.is_claim_pending
    worker.handover.finish(running, finished(running), 0.001, lambda _: None)
    later = worker.request()
    worker.handover.receive(later)
    assert later.is_claim_pending


def test_recent_runs_weigh_more() -> None:
    times = RunTimes()
    assert times.mean("a") is None and times.longest() is None
    for _ in range(MEASURED_RUNS):
        times.note("a", 0.01)
    assert times.mean("a") == pytest.approx(0.01)
    for _ in range(50):
        times.note("a", 10.0)
    assert times.mean("a") > 9.9
    assert times.longest() == times.mean("a")


# --- claims that do not start


def test_a_job_whose_claim_is_returned_is_available_and_counts_no_attempt(worker: Worker) -> None:
    request = worker.claimed_ahead()
    worker.handover.give_back("its worker was asked to end")
    job_id = request.delivery().job_id
    eventually(lambda: worker.harness.row(job_id).state == "available")
    row = worker.harness.row(job_id)
    assert (row.attempt, row.run_no) == (0, 1)
    assert worker.harness.all("SELECT outcome, error ->> 'code', error ->> 'message' FROM job_runs") == [
        ("released", "not_started", "claimed ahead of a free slot, and not started: its worker was asked to end")
    ]
    worker.handover.hand_over(request)  # a slot is free, but the job must not run
    assert worker.given == [] and (request.acknowledged, worker.freed) == (1, 1)
    assert worker.deliveries.leases() == []
    worker.harness.assert_conserved()


def test_a_claim_that_is_being_committed_is_returned_after_its_commit(worker: Worker) -> None:
    with worker.claim_being_committed() as request:
        worker.handover.give_back("its worker was asked to end")
    eventually(lambda: worker.harness.row(request.delivery().job_id).state == "available")
    eventually(lambda: worker.committer.deliver() or not request.is_claim_pending)
    worker.handover.hand_over(request)
    assert worker.given == [] and request.acknowledged == 1


def test_a_delivery_whose_claim_is_returned_before_its_answer_claims_with_another_lease(worker: Worker) -> None:
    """The late return of the first lease would end the run that its slot has claimed, while the handler runs."""
    job_id = worker.harness.submit()
    worker.harness.dispatch(job_id)
    worker.harness.do("UPDATE jobs SET limit_keys = '{a:1}' WHERE id = :id", id=job_id)  # its slot has to claim it
    with worker.claim_being_committed(job_id) as request:
        first = request.lease_id
        worker.handover.hand_over(request)
        worker.handover.give_back("its worker's connection to RabbitMQ was lost")
        assert worker.deliveries.leases() == [first], "heartbeats name it until it is returned"
    eventually(lambda: worker.committer.deliver() or worker.given)
    delivery = request.delivery()
    assert not isinstance(claim(worker.harness.ledger, delivery, give_up=lambda: True), str)
    assert not give_claim_back(worker.harness.ledger, job_id, first, "late")
    assert worker.harness.row(job_id).state == "running"
    eventually(lambda: worker.deliveries.leases() == [delivery.lease_id])


def test_a_claim_that_is_being_returned_is_named_in_heartbeats(worker: Worker) -> None:
    """Otherwise an outage of the ledger would turn it into a crash of the job."""
    request = worker.claimed_ahead()
    with worker.harness.ledger.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE")
        worker.handover.give_back("no slot became free")
        assert worker.deliveries.leases() == [request.lease_id]
    eventually(lambda: worker.harness.row(request.delivery().job_id).state == "available")
    eventually(lambda: worker.deliveries.leases() == [])


def test_recent_claims_are_not_returned(worker: Worker) -> None:
    request = worker.claimed_ahead()
    worker.handover.give_back("no slot became free", older_than_seconds=60)
    worker.handover.hand_over(request)
    assert worker.given == [request]


def test_a_claimed_job_that_has_not_started_is_cancelled_at_once(worker: Worker) -> None:
    request = worker.claimed_ahead()
    job_id = request.delivery().job_id
    cancel_job(worker.harness.ledger, worker.harness.tenant_id, job_id, "changed my mind")
    settings = SimpleNamespace(cancel_grace_seconds=3600.0, shutdown_seconds=0.0)
    stopper = Stopper(worker.harness.worker, worker.deliveries, settings)  # type: ignore[arg-type]
    stopper.stop_runs([CancelRequest(job_id, request.lease_id, 0.0, None)])
    assert worker.harness.row(job_id).state == "cancelled"
    worker.handover.hand_over(request)
    assert worker.given == [] and request.acknowledged == 1


def test_a_finished_run_no_longer_refers_to_its_child(worker: Worker) -> None:
    """The child may run another job by now, which must not be killed; heartbeats still name the run's lease."""
    request = worker.claimed_ahead()
    worker.handover.hand_over(request)
    worker.deliveries.started(request.held(), 4711)
    assert [held.pid for held in worker.deliveries.taken()] == [4711]
    worker.deliveries.finish(request.lease_id)
    assert worker.deliveries.taken() == [] and worker.deliveries.get(request.lease_id) is None
    assert worker.deliveries.leases() == [request.lease_id]
    assert worker.deliveries.remove(request.lease_id) is not None
    assert worker.deliveries.leases() == []


def test_a_stopping_worker_settles_on_its_own_thread(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker import state

    request = worker.claimed_ahead()
    worker.handover.hand_over(request)
    monkeypatch.setattr(state, "should_stop", 0)
    ends: list[Ended | Exception] = []
    then: Callable[[Ended | Exception], None] = ends.append
    worker.handover.finish(request, finished(request), 0.001, then)
    assert [end.state for end in ends if isinstance(end, Ended)] == [State.SUCCEEDED]
    late = worker.request()
    worker.handover.receive(late)
    assert not late.is_claim_pending, "a stopping worker claims no more jobs"
