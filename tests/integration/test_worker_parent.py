"""The worker's parent process handles children that return something other than an outcome."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from sqlalchemy.exc import InternalError

from jobplatform.errors import LedgerUnavailable
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import translate
from tests.support.ledger_harness import LedgerHarness
from workers.runtime import request
from workers.runtime.deliveries import Deliveries


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Deliveries, list[str]]]:
    """A request whose delivery is in the pool, the delivery registry, and the calls to the broker."""
    deliveries, acks = Deliveries(), []
    monkeypatch.setattr(request, "DELIVERIES", deliveries)
    monkeypatch.setattr(request, "task_ready", lambda *_: None)
    item = object.__new__(request.LedgerRequest)
    item.id, item.name, item._eventer = str(new_id()), "test.echo", None
    item._request_dict = {"lease_id": str(new_id()), "dispatch_no": 1}
    item._on_ack = lambda *_: acks.append("ack")
    item._connection_errors = ()
    item._app = SimpleNamespace()
    deliveries.add(item.held())
    yield item, deliveries, acks


def info(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:
        return ExceptionInfo()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SoftTimeLimitExceeded(), "lost"),
        (psycopg2.errors.ReadOnlySqlTransaction("a standby"), "lost"),
        (ValueError("a bug of ours"), "lost"),
        (WorkerLostError("signal 9"), "crashed"),
    ],
)
def test_an_error_outside_the_handler_is_reported_and_not_acknowledged(delivered, error, outcome) -> None:
    item, deliveries, acks = delivered
    item.on_failure(info(error), send_failed_event=False)
    (report,) = deliveries.reports()
    assert (report.outcome, acks) == (outcome, [])
    assert report.held.lease_id in deliveries.leases(), "heartbeats name the lease until it is settled"
    item.on_failure(info(error), send_failed_event=False)
    assert len(deliveries.reports()) == 1, "a hard limit calls on_failure twice"


@pytest.mark.parametrize("error", [Retry("again"), Retry(exc=ValueError("why")), Ignore("none"), Reject("no")])
def test_an_outcome_that_a_child_has_settled_is_left_to_celery_and_not_reported(delivered, error, monkeypatch) -> None:
    item, deliveries, _ = delivered
    left_to_celery = []
    monkeypatch.setattr(request.Request, "on_failure", lambda *_, **__: left_to_celery.append(error))
    outcome = info(error)
    outcome.exception = ExceptionWithTraceback(error, "as it comes out of a pool child")
    item.on_failure(outcome, send_failed_event=False)
    assert (deliveries.reports(), left_to_celery) == ([], [error])


def test_a_read_only_ledger_is_unavailable() -> None:
    class ReadOnly(psycopg2.errors.ReadOnlySqlTransaction):
        pgcode = "25006"

    assert isinstance(translate(InternalError("SELECT", {}, ReadOnly("standby"))), LedgerUnavailable)


def test_connections_work_beyond_file_descriptor_1023(harness: LedgerHarness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.fail(f"this test needs 2,000 file descriptors, the machine allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    taken = []
    try:
        while not taken or taken[-1] < 1100:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        harness.ledger.close()
        for _ in range(2):  # the second checkout checks a pooled connection
            assert harness.all("SELECT 1") == [1]
    finally:
        for item in taken:
            os.close(item)
        harness.ledger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
