"""Events of a job, and the feed of all events of a tenant."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import tenant_id
from api.operations import operation
from api.responses import answer, read_query, refuse_stream
from api.services import services
from api.v1.schemas.events import Feed, FeedQuery
from api.v1.schemas.jobs import EventList, EventsQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_feed, read_jobs


@operation(
    "GET",
    "/jobs/<uuid:job_id>/events",
    "List a job's events",
    "jobs",
    Scope.READ,
    answer=EventList,
    query=EventsQuery,
    headers=(("Last-Event-ID", "resumes a stream after this event"),),
    problems=(404, 406),
    streams=True,
    also=((204, "A stream that was followed to its end"),),
)
def list_events(job_id: UUID) -> Response:
    """List the events of a job in order: every change of state, and the lines that its handler logged or streamed.

    With `Accept: text/event-stream` the response is a stream that ends with the job: past events (after
    `Last-Event-ID`), new events, `progress`, and finally `end` with the job. A client that reconnects after that gets
    204.
    """
    refuse_stream()
    query = read_query(EventsQuery)
    return answer({"events": read_jobs.list_events(services().ledger, tenant_id(), job_id, query.after, query.limit)})


@operation(
    "GET",
    "/events",
    "Follow the tenant's events",
    "events",
    Scope.READ,
    answer=Feed,
    query=FeedQuery,
    headers=(("Last-Event-ID", "resumes a stream after this event"),),
    problems=(406,),
    streams=True,
)
def list_feed() -> Response:
    """List the events of all jobs of the tenant, oldest first, without gaps and without duplicates.

    With `Accept: text/event-stream` the response is a stream of new events, or of those after `Last-Event-ID`.
    """
    refuse_stream()
    query = read_query(FeedQuery)
    ledger, position = services().ledger, query.position()
    if position is None:
        return answer({"events": [], "next": str(read_feed.now_in(ledger, tenant_id())), "more": False})
    events, behind, more = read_feed.read_page(ledger, tenant_id(), position, query.wanted(), query.limit)
    return answer({"events": [event.as_dict() for event in events], "next": str(behind), "more": more})
