"""`GET /v1/schedules/{name}/preview`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Preview, PreviewQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def preview_schedule(name: str) -> Response:
    """Read the next planned times of a schedule, as if it were not paused."""
    query = read_query(PreviewQuery)
    found, times = usecase.preview_schedule(services().ledger, tenant_id(), name, query.count)
    return answer({"in_words": found.values["in_words"], "times": times})


OPERATION = Operation(
    "GET",
    "/schedules/<name>/preview",
    preview_schedule,
    "Preview a schedule",
    "schedules",
    Scope.READ,
    answer=Preview,
    query=PreviewQuery,
    problems=(404, 422),
)
