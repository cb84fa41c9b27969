"""Cancel what is left of workflows that stop: in turn, so that one that takes long keeps no other waiting."""

from __future__ import annotations

import time
from uuid import UUID

from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger

PAGE = 50


def stop_workflows_that_ended(
    ledger: Ledger, after: UUID | None, limit: int, seconds: float
) -> tuple[bool, UUID | None]:
    """Look at the workflows behind one, for about so many seconds; each is a transaction of at most `limit` jobs.

    Returns whether some were not looked at, and where to go on. Two callers keep out of each other's way.
    """
    deadline = time.monotonic() + seconds
    with ledger.statement() as connection:
        stopping = workflows.stopping_workflows(connection, after, PAGE)
    for workflow_id in stopping:
        with ledger.transaction() as connection:
            workflows.stop_workflow(connection, workflow_id, limit)
        if time.monotonic() > deadline:
            return True, workflow_id
    return (True, stopping[-1]) if len(stopping) == PAGE else (False, None)
