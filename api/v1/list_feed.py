"""`GET /v1/events`; as a stream: `api.streams`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query, refuse_stream
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.feed_models import Feed, FeedQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_feed


def list_feed() -> Response:
    """List what happened to the tenant's jobs, oldest first: nothing is left out, and nothing comes twice.

    With `Accept: text/event-stream` the answer is a stream of what happens from now on, or behind `Last-Event-ID`.
    """
    refuse_stream()
    query = read_query(FeedQuery)
    ledger, place = services().ledger, query.place()
    if place is None:
        return answer({"events": [], "next": str(read_feed.now_in(ledger, tenant_id())), "more": False})
    events, behind, more = read_feed.read_page(ledger, tenant_id(), place, query.wanted(), query.limit)
    return answer({"events": [one.as_dict() for one in events], "next": str(behind), "more": more})


OPERATION = Operation(
    "GET",
    "/events",
    list_feed,
    "Follow the tenant's events",
    "events",
    Scope.READ,
    answer=Feed,
    query=FeedQuery,
    headers=(("Last-Event-ID", "of a stream: goes on behind this event"),),
    problems=(406, 422),
    streams=True,
)
