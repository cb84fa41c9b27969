"""Accept jobs that their callers have planned, with ids of their own: the calls of an existing Celery app.

The id makes a repetition harmless: a submission is accepted only once (I1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from jobplatform.errors import (
    LedgerUnavailable,
    OutcomeUnknown,
    QuotaExceeded,
    StepIdTaken,
)
from jobplatform.ledger import jobs, workflows
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import WITHOUT_TIME, new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.encode_payload import encode_payload

T = TypeVar("T")

#: a time in the past is not an error here: it means "now"
NO_TOLERANCE_NEEDED = 1e9
TRIES, WAIT_SECONDS = 4, 0.2


def submit_prepared(
    ledger: Ledger, hints: HintSender | None, tenant_id: UUID, job_id: UUID, submission: Mapping[str, Any]
) -> bool:
    """Accept one job, with the keys of a planned step. Returns False if a job with this id already exists.

    Raises `InvalidPayload`, `QuotaExceeded`, or after some tries `LedgerUnavailable` or `OutcomeUnknown`.
    """
    values = {name: submission[name] for name in ("queue", "kind", "priority", "tags", "max_attempts")}
    values |= {name: submission[name] for name in ("crash_limit", "lost_limit", "run_at", "start_by")}
    values |= {
        "id": str(job_id),
        "payload": encode_payload(submission["payload"], field="arguments").decode(),
        "key_hash": None,
        "tenant": tenant_id,
        "tolerance_seconds": NO_TOLERANCE_NEEDED,
        **dict.fromkeys(("idempotency_key", "request_hash", "idempotency_seconds")),
        **dict.fromkeys(("unique_key", "unique_seconds", "by")),
        "unique_refuse": False,
        "limit_keys": list(submission["limit_keys"]),
        "limit_units": list(submission["limit_units"]),
    }

    def once(again: bool) -> bool:
        if (again or job_id.version == WITHOUT_TIME) and _exists(ledger, job_id):
            return again
        answer = jobs.accept_new(ledger, values)
        if answer is None:
            return again
        if answer.verdict == "quota":
            raise QuotaExceeded(values["queue"], answer.quota_seconds)
        assert answer.verdict == "accepted", answer.verdict
        if hints is not None and answer.state == "available":
            hints.send(values["queue"], values["priority"])
        return True

    return _until_known(once)


def submit_steps(
    ledger: Ledger,
    hints: HintSender | None,
    tenant_id: UUID,
    name: str,
    steps: Sequence[Mapping[str, Any]],
    pending: int,
) -> UUID:
    """Accept a workflow of planned steps in one transaction, and return its id.

    Raises `InvalidPayload`, `QuotaExceeded`, `StepIdTaken` for an id that is taken, or after some tries
    `LedgerUnavailable` or `OutcomeUnknown`.
    """
    workflow_id = new_id()
    encoded = encode_payload(list(steps), field="arguments")

    def once(again: bool) -> UUID:
        if again:
            with ledger.statement() as connection:
                if workflows.find_tenant(connection, workflow_id) is not None:
                    return workflow_id
        for row in steps:
            if (taken := UUID(row["id"])).version == WITHOUT_TIME and _exists(ledger, taken):
                raise StepIdTaken(f"{row['name']}: {taken}")
        workflow = workflows.create_workflow(
            ledger,
            tenant_id=tenant_id,
            idempotency_key=None,
            request_hash=None,
            idempotency_seconds=0,
            workflow_id=workflow_id,
            name=name,
            time_limit_seconds=None,
            pending=pending,
            steps=encoded,
        )
        if workflow.verdict == "quota":
            raise QuotaExceeded(workflow.quota_queue, workflow.quota_seconds)
        assert workflow.verdict == "accepted", workflow.verdict
        if hints is not None:
            hints.send_all(workflow.woken)
        return workflow_id

    return _until_known(once)


def _until_known(once: Callable[[bool], T]) -> T:
    """Retry a few times while the ledger is unavailable, or its response was lost."""
    for attempt in range(TRIES):
        try:
            return once(attempt > 0)
        except (LedgerUnavailable, OutcomeUnknown):
            if attempt + 1 == TRIES:
                raise
            time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError("the last try returns or raises")


def _exists(ledger: Ledger, job_id: UUID) -> bool:
    with ledger.statement() as connection:
        return jobs.find_tenant(connection, job_id) is not None
