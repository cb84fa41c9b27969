"""`GET /v1/queues`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import QueueList
from jobplatform.domain.access import Scope
from jobplatform.usecases.list_queues import list_queues as read_queues


def list_queues() -> Response:
    """List the queues with your counts, and the workers that live; cheap whatever the backlog."""
    has = services()
    return answer({"queues": read_queues(has.ledger, tenant_id(), has.settings.lease_seconds)})


OPERATION = Operation("GET", "/queues", list_queues, "List queues", "catalogue", Scope.READ, answer=QueueList)
