"""`GET /v1/jobs/{id}/events`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import EventList, EventsQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_jobs


def list_events(job_id: UUID) -> Response:
    """List what happened to a job, in order: every change of state, and the lines its handler logged."""
    query = read_query(EventsQuery)
    return answer({"events": read_jobs.list_events(services().ledger, tenant_id(), job_id, query.after, query.limit)})


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>/events",
    list_events,
    "List a job's events",
    "jobs",
    Scope.READ,
    answer=EventList,
    query=EventsQuery,
    problems=(404, 422),
)
