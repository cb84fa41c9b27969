"""Cancel a workflow: waiting jobs at once, running ones after a grace period."""

from __future__ import annotations

from uuid import UUID

from jobplatform.errors import WorkflowHasEnded, WorkflowNotFound
from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.read_workflows import WorkflowView, get_workflow

#: jobs that are called off while the caller waits; the dispatcher does the rest
AT_ONCE = 500


def cancel_workflow(
    ledger: Ledger, tenant_id: UUID, workflow_id: UUID, *, reason: str | None = None, by: str
) -> WorkflowView:
    """Cancel and return the workflow as it is then. Cancelling twice changes nothing.

    Two transactions: a workflow that is told to stop takes nothing on any more, then its jobs are called off, in the
    order of locks that settling runs take. Raises `WorkflowNotFound`, or `WorkflowHasEnded`.
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
