"""`GET /v1/schedules/{name}/fires`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import FireList, FiresQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def list_fires(name: str) -> Response:
    """List what became of a schedule's planned times, newest first."""
    query = read_query(FiresQuery)
    found = usecase.list_fires(services().ledger, tenant_id(), name, before=query.before, limit=query.limit)
    return answer({"fires": found})


OPERATION = Operation(
    "GET",
    "/schedules/<name>/fires",
    list_fires,
    "List the fires of a schedule",
    "schedules",
    Scope.READ,
    answer=FireList,
    query=FiresQuery,
    problems=(404, 422),
)
