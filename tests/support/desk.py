"""A dispatcher for tests of shares and limits: tests start its rounds, and it keeps its state between them."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from jobplatform.broker.publisher import Publisher
from jobplatform.config import Order
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import SOON_SECONDS, RoundReport, run_round
from jobplatform.dispatch.waiting import Waiting
from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.ledger import dispatching
from jobplatform.usecases.submit_job import submit_job
from tests.support.ledger_harness import Anything, LedgerHarness


def limit(harness: LedgerHarness, name: str, **values: Any) -> None:
    columns = {"name": name, "updated_by": "test", **values}
    harness.do(
        f"INSERT INTO limits ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)}) "
        f"ON CONFLICT (name) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in columns)}",
        **columns,
    )


def submit(
    harness: LedgerHarness, *limit_keys: str, tenant: UUID | None = None, units: int = 1, queue: str = "email", **more
) -> UUID:
    kinds = KindRegistry()
    kinds.add(
        Kind(
            name="test.echo",
            queue=queue,
            payload=Anything,
            handler=lambda payload, ctx: None,
            limit_keys=limit_keys,
            limit_units=units,
        )
    )
    command = SubmitJob("test.echo", {}, **more)
    return submit_job(harness.ledger, None, kinds, tenant or harness.tenant_id, command).job.id


class Desk:
    """A dispatcher that keeps its state between rounds."""

    def __init__(self, harness: LedgerHarness, publisher: Publisher) -> None:
        self.harness, self.publisher = harness, publisher
        self.policy = Policy()
        self.waiting: dict[str, Waiting] = {}
        self.order: Order = "shares"

    def round(self, queue: str = "email", window: int = 100) -> RoundReport:
        self.policy.read(self.harness.ledger)
        known = self.waiting.setdefault(queue, Waiting(self.policy.weight))
        while known.sweep(partial(dispatching.sweep_flows, self.harness.ledger, queue), 3):
            pass
        return run_round(self.harness.ledger, self.publisher, known, self.policy, queue, window, 500, self.order)

    def rounds(self, queue: str = "email", window: int = 100, most: int = 5) -> int:
        """Run rounds until nothing is dispatched; return how many jobs were."""
        sent = 0
        for _ in range(most):
            report = self.round(queue, window)
            sent += report.sent
            if not report.sent and report.limited_seconds != SOON_SECONDS:
                break
        return sent


def out(harness: LedgerHarness, key: str) -> int:
    (count,) = harness.all(
        "SELECT count(*)::int FROM jobs WHERE state IN ('dispatched', 'running') AND :key = ANY (limit_keys)", key=key
    )
    return count


@pytest.fixture
def publisher(broker_url: str):
    result = Publisher(broker_url)
    yield result
    result.close()


@pytest.fixture
def desk(harness: LedgerHarness, publisher: Publisher) -> Desk:
    return Desk(harness, publisher)
