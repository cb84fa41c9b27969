"""Replay a workflow from the steps that failed. Completed steps are not repeated."""

from __future__ import annotations

from uuid import UUID

from jobplatform.errors import WorkflowNotFound, WorkflowNotReplayable
from jobplatform.ledger import workflows
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.read_workflows import WorkflowView, view_in


def replay_workflow(
    ledger: Ledger, hints: HintSender | None, tenant_id: UUID, workflow_id: UUID, *, by: str, reason: str | None = None
) -> WorkflowView:
    """Replay the workflow and return it. Its time limit starts again.

    Raises `WorkflowNotFound`, or `WorkflowNotReplayable` if it runs, has succeeded, or has a discarded step.
    """
    with ledger.transaction() as connection:
        workflow = workflows.replay_workflow(connection, tenant_id, workflow_id, {"by": by, "reason": reason})
        if workflow.verdict == "gone":
            raise WorkflowNotFound(workflow_id)
        if workflow.verdict == "stuck":
            raise WorkflowNotReplayable(
                workflow_id, f"can't go on: its step {workflow.state} was discarded, or is older than the history"
            )
        if workflow.verdict != "replayed":
            raise WorkflowNotReplayable(
                workflow_id, f"is {workflow.state}: expected one that has failed or was cancelled"
            )
        view = view_in(connection, tenant_id, workflow_id)
    if hints is not None:
        hints.send_all(workflow.woken)
    return view
