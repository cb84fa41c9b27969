"""`GET /v1/jobs/{id}/events`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_query, refuse_stream
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import EventList, EventsQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_jobs


def list_events(job_id: UUID) -> Response:
    """List what happened to a job, in order: every change of state, and the lines its handler logged or streamed.

    With `Accept: text/event-stream` the answer is a stream that ends with the job: what happened (behind
    `Last-Event-ID`), what happens, `progress`, and at last `end` with the job. Who comes again then is answered 204.
    """
    refuse_stream()
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
    headers=(("Last-Event-ID", "of a stream: goes on behind this event"),),
    problems=(404, 406, 422),
    streams=True,
    also=((204, "A stream that was followed to its end"),),
)
