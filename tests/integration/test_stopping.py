"""Stopping runs on threads, which cannot be killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.ledger import workers
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import track_workers
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.store_artifacts import ArtifactStore, keep_output, sweep_removals
from tests.support.ledger_harness import LedgerHarness, card
from workers.liveness import stopping
from workers.liveness.memory import note_peaks, peak_memory_of
from workers.liveness.stopping import Stopper
from workers.runtime.deliveries import Deliveries, Held


class Calls(list[str]):
    """Requests of the stopper: "end" (SIGTERM) or "leave" (exit of the process)."""


@pytest.fixture
def threads(
    harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Stopper, Deliveries, Calls]]:
    monkeypatch.setattr(stopping, "parent_ledger", lambda: harness.ledger)

    def make(slots: int = 4, **settings: float) -> tuple[Stopper, Deliveries, Calls]:
        config = Settings(database_url=harness.url, cancel_grace_seconds=0, **settings)
        mine, deliveries, calls = replace(card(harness.worker.id), pool="threads", slots=slots), Deliveries(), Calls()
        stopper = Stopper(mine, deliveries, config, lambda: calls.append("end"), lambda: calls.append("leave"))
        return stopper, deliveries, calls

    return make


def started(harness: LedgerHarness, deliveries: Deliveries) -> tuple[UUID, UUID]:
    job_id, lease_id = harness.running()
    held = Held(job_id, 1, lease_id, "test.echo")
    deliveries.add(held)
    deliveries.started(held, os.getpid())
    return job_id, lease_id


def beat(harness: LedgerHarness, stopper: Stopper, deliveries: Deliveries) -> None:
    stopper.stop_runs(track_workers.beat(harness.ledger, card(harness.worker.id), deliveries.leases()))


def test_a_cancelled_run_in_a_thread_is_abandoned_and_its_writes_are_refused(harness: LedgerHarness, threads) -> None:
    stopper, deliveries, calls = threads()
    job_id, lease_id = started(harness, deliveries)
    cancel_job(harness.ledger, harness.tenant_id, job_id, "no more")
    beat(harness, stopper, deliveries)
    row = harness.row(job_id)
    assert (row.state, row.error["message"]) == ("cancelled", "no more")
    assert harness.settle(job_id, lease_id) == ("already", "cancelled")
    beat(harness, stopper, deliveries)
    assert calls == [], "only one of four threads is abandoned"


def test_a_worker_with_too_many_abandoned_threads_restarts(harness: LedgerHarness, threads) -> None:
    stopper, deliveries, calls = threads(slots=4)
    for number in (1, 2):
        job_id, _ = started(harness, deliveries)
        cancel_job(harness.ledger, harness.tenant_id, job_id)
        beat(harness, stopper, deliveries)
        assert calls == ["end"] * (number == 2)
    beat(harness, stopper, deliveries)
    assert calls == ["end"], "requested once"


def test_a_thread_that_ends_by_itself_no_longer_counts_as_abandoned(harness: LedgerHarness, threads) -> None:
    stopper, deliveries, calls = threads(slots=4)
    for _ in range(4):
        job_id, lease_id = started(harness, deliveries)
        cancel_job(harness.ledger, harness.tenant_id, job_id)
        beat(harness, stopper, deliveries)
        deliveries.remove(lease_id)
    assert calls == []


def test_a_draining_worker_waits_for_runs_and_not_for_abandoned_threads(harness: LedgerHarness, threads) -> None:
    stopper, deliveries, calls = threads(slots=8)
    stuck, _ = started(harness, deliveries)
    cancel_job(harness.ledger, harness.tenant_id, stuck)
    beat(harness, stopper, deliveries)
    runs, lease_id = started(harness, deliveries)
    stopper.shutting_down_since = 0.0
    beat(harness, stopper, deliveries)
    assert calls == [] and harness.row(runs).state == "running"
    harness.settle(runs, lease_id)
    deliveries.remove(lease_id)
    beat(harness, stopper, deliveries)
    assert calls == ["leave"]
    assert harness.all("SELECT stopped_at IS NOT NULL FROM workers WHERE id = :id", id=harness.worker.id) == [True]


def test_a_draining_worker_returns_the_runs_of_its_threads_after_the_shutdown_limit(
    harness: LedgerHarness, threads
) -> None:
    stopper, deliveries, calls = threads(shutdown_seconds=0.001)
    job_id, lease_id = started(harness, deliveries)
    stopper.shutting_down_since = 0.0
    beat(harness, stopper, deliveries)
    row = harness.row(job_id)
    assert (row.state, row.attempt, calls) == ("available", 0, ["leave"])
    assert harness.all("SELECT outcome FROM job_runs WHERE job_id = :id", id=job_id) == ["released"]
    assert harness.settle(job_id, lease_id) == ("lost", None)


def test_a_thread_that_lost_its_lease_counts_as_abandoned(harness: LedgerHarness, threads) -> None:
    stopper, deliveries, calls = threads(slots=2)
    job_id, lease_id = started(harness, deliveries)
    beat(harness, stopper, deliveries)
    harness.settle(job_id, lease_id, "lost", None, error={"code": "lost", "message": "x", "retryable": True})
    for _ in range(2):
        assert calls == []
        beat(harness, stopper, deliveries)
    assert calls == ["end"]


def test_artifacts_of_a_cancelled_run_are_deleted_when_its_worker_is_gone(
    harness: LedgerHarness, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    job_id, lease_id = harness.running()
    kept, kept_lease = harness.running()
    for item, lease in ((job_id, lease_id), (kept, kept_lease)):
        mine = Delivery(item, 1, "test.echo", lease, harness.worker.id, "n")
        keep_output(harness.ledger, store, mine, "a.txt", b"hello", "text/plain")
    cancel_job(harness.ledger, harness.tenant_id, job_id)
    harness.do("UPDATE workers SET stopped_at = clock_timestamp() WHERE id = :id", id=harness.worker.id)
    with harness.ledger.statement() as connection:
        workers.rescue_runs(connection, 60.0)
    assert harness.row(job_id).state == "cancelled"
    assert harness.all("SELECT job_id FROM artifacts") == [kept], "the artifact is no longer visible"
    files = {path.parent.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {str(job_id), str(kept)}
    elsewhere = (tmp_path / "not mounted").as_uri()
    with pytest.raises(FileNotFoundError, match="mounted"):
        sweep_removals(harness.ledger, elsewhere)
    assert [sweep_removals(harness.ledger, tmp_path.as_uri()) for _ in range(2)] == [1, 0]
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {str(kept)}


def test_the_peak_memory_of_a_child_is_read_from_the_kernel() -> None:
    peak = peak_memory_of(os.getppid())
    assert peak is not None and peak > 100_000
    assert peak_memory_of(2**22 + 1) is None
    mine = Held(new_id(), 1, new_id(), "test.echo", pid=os.getpid())
    child: Any = Held(new_id(), 1, new_id(), "test.echo", pid=os.getppid())
    note_peaks([mine, child])
    assert (mine.peak_memory_bytes, child.peak_memory_bytes) == (None, peak_memory_of(os.getppid()))
