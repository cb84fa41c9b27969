"""Cancel a workflow: waiting jobs at once, running ones after a grace period."""

from __future__ import annotations

from uuid import UUID

from jobplatform.errors import WorkflowHasEnded, WorkflowNotFound
from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.read_workflows import WorkflowView, get_workflow

#: jobs that are cancelled while the caller waits; the dispatcher cancels the rest
AT_ONCE = 500


def cancel_workflow(
    ledger: Ledger, tenant_id: UUID, workflow_id: UUID, *, reason: str | None = None, by: str
) -> WorkflowView:
    """Cancel a workflow and return it. Idempotent.

    Two transactions: first the workflow is marked as stopping and accepts no steps, then its jobs are cancelled, in the
    lock order of settling runs. Raises `WorkflowNotFound`, or `WorkflowHasEnded`.
    """
    with ledger.transaction() as connection:
        workflow = workflows.cancel_workflow(connection, tenant_id, workflow_id, reason, by)
    if workflow.verdict == "gone":
        raise WorkflowNotFound(workflow_id)
    if workflow.verdict == "ended" and workflow.state != "cancelled":
        raise WorkflowHasEnded(workflow_id, workflow.state)
    if workflow.verdict == "requested":
        with ledger.transaction() as connection:
            workflows.stop_workflow(connection, workflow_id, AT_ONCE)
    return get_workflow(ledger, tenant_id, workflow_id)
