"""`GET /v1/dead-letters`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import DeadLetterPage, DeadLettersQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases.replay_many import DeadLetterFilter
from jobplatform.usecases.replay_many import list_dead_letters as read


def list_dead_letters() -> Response:
    """List dead letters: jobs that need a person, newest first, with the reason. Go on with `next_cursor`.

    A page reads a bounded number of jobs: it may be short, or empty, and still have a next one.
    """
    query = read_query(DeadLettersQuery)
    wanted = DeadLetterFilter(query.kind, query.queue, query.code, query.tag, query.died_after, query.died_before)
    letters, cursor = read(services().ledger, tenant_id(), wanted, cursor=query.cursor, limit=query.limit)
    return answer({"dead_letters": letters, "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/dead-letters",
    list_dead_letters,
    "List dead letters",
    "dead letters",
    Scope.READ,
    answer=DeadLetterPage,
    query=DeadLettersQuery,
    problems=(422,),
)
