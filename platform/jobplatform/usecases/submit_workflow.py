"""Accept a workflow: all its steps in one transaction (I1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from uuid import UUID

import orjson

from jobplatform.domain.jobs import DEFAULT_PRIORITY
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.workflows import SubmitWorkflow
from jobplatform.errors import FieldError, InvalidRequest, QuotaExceeded
from jobplatform.ledger import workflows
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.admit import Caller
from jobplatform.usecases.idempotency import key_conflict, one_at_a_time
from jobplatform.usecases.plan_workflow import Defaults, plan_workflow


@dataclass(frozen=True)
class AcceptedWorkflow:
    """The workflow's id, the ids of its steps by name, and whether this request created it."""

    id: UUID
    steps: dict[str, UUID]
    created: bool


def submit_workflow(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    tenant_id: UUID,
    command: SubmitWorkflow,
    *,
    idempotency_key: str | None = None,
    idempotency_seconds: int = 86_400,
    field_name: str = "flow",
    caller: Caller | None = None,
) -> AcceptedWorkflow:
    """Check the workflow and write it to the ledger.

    `caller`: a submission that its key does not permit is refused.

    Raises `InvalidRequest`, `UnknownKind`, `NotAllowed` or `QuotaExceeded` before anything is written;
    `IdempotencyConflict`, `IdempotencyInProgress`, `LedgerUnavailable` and `OutcomeUnknown` as `submit_job` does.
    """
    defaults = Defaults(DEFAULT_PRIORITY if command.priority is None else command.priority, command.tags)
    written = plan_workflow(kinds, command.flow, defaults, field_name=field_name)
    asked = (item.step.priority for item in written.plan.steps if item.step is not None)
    highest = max((defaults.priority if item is None else item for item in asked), default=defaults.priority)
    if caller is not None:
        caller.check_priority(highest)
        caller.check_kinds({item.step.kind for item in written.plan.steps if item.step is not None})
    workflow_id = new_id()
    fingerprint = _fingerprint(command, field_name) if idempotency_key is not None else None
    with one_at_a_time(idempotency_key):
        workflow = workflows.create_workflow(
            ledger,
            tenant_id=tenant_id,
            idempotency_key=idempotency_key,
            request_hash=fingerprint,
            idempotency_seconds=idempotency_seconds,
            workflow_id=workflow_id,
            name=command.name,
            time_limit_seconds=command.time_limit_seconds,
            pending=written.pending,
            steps=written.steps,
        )
    if workflow.verdict == "conflict":
        raise key_conflict(idempotency_key, str(workflow.workflow_id))
    if workflow.verdict == "quota":
        raise QuotaExceeded(workflow.quota_queue, workflow.quota_seconds)
    if workflow.verdict == "repeated":
        earlier = UUID(str(workflow.workflow_id))
        with ledger.statement() as connection:
            return AcceptedWorkflow(earlier, workflows.step_ids(connection, earlier), created=False)
    if hints is not None:
        hints.send_all(workflow.woken)
    return AcceptedWorkflow(workflow_id, {step.name: UUID(step.id) for step in written.plan.steps}, created=True)


def _fingerprint(command: SubmitWorkflow, field_name: str) -> bytes:
    """Return the fingerprint of a request. Raises `InvalidRequest` for one that is nested too deeply."""
    try:
        return hashlib.sha256(orjson.dumps(_identity_of(command), option=orjson.OPT_SORT_KEYS)).digest()
    except TypeError:  # orjson stops at 254 levels, of which each part has several
        wrong = FieldError(field_name, "fewer levels of parts in parts, where there is an Idempotency-Key", "more")
        raise InvalidRequest("the workflow is nested too deeply", (wrong,)) from None


def _identity_of(value: Any) -> Any:
    """Return what identifies a submission: a chain and a graph of the same steps differ."""
    if is_dataclass(value):
        return [type(value).__name__, *(_identity_of(getattr(value, field.name)) for field in fields(value))]
    return [_identity_of(item) for item in value] if isinstance(value, tuple) else value
