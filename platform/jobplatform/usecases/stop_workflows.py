"""Cancel the remaining jobs of stopping workflows, in turn, so that a large one does not delay the others."""

from __future__ import annotations

import time
from uuid import UUID

from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger

PAGE = 50


def finish_stopping_workflows(
    ledger: Ledger, after: UUID | None, limit: int, seconds: float
) -> tuple[bool, UUID | None]:
    """Process stopping workflows after the id `after`, for about `seconds`; a transaction takes at most `limit` jobs.

    Returns whether some are left, and the id to continue after. Safe for concurrent callers.
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
