"""List dead letters, and replay many of them."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import caller, tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_query
from api.services import services
from api.v1.schemas.dead_letters import DeadLetterPage, DeadLettersQuery, Replay, ReplayManyBody, ReplayPreview
from jobplatform.domain.access import Scope
from jobplatform.usecases.replay_many import DeadLetterFilter, preview_replay
from jobplatform.usecases.replay_many import get_replay as read_replay
from jobplatform.usecases.replay_many import list_dead_letters as read
from jobplatform.usecases.replay_many import replay_many as replay


@operation(
    "GET",
    "/dead-letters",
    "List dead letters",
    "dead letters",
    Scope.READ,
    answer=DeadLetterPage,
    query=DeadLettersQuery,
)
def list_dead_letters() -> Response:
    """List dead letters, newest first: jobs that need an operator, each with the reason. Continue with `next_cursor`.

    A page reads a bounded number of jobs: it may be short or empty and still have a `next_cursor`.
    """
    query = read_query(DeadLettersQuery)
    wanted = DeadLetterFilter(query.kind, query.queue, query.code, query.tag, query.died_after, query.died_before)
    letters, cursor = read(services().ledger, tenant_id(), wanted, cursor=query.cursor, limit=query.limit)
    return answer({"dead_letters": letters, "next_cursor": cursor})


@operation(
    "POST",
    "/dead-letters/replay",
    "Replay many dead letters",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Replay,
    body=ReplayManyBody,
    also=((200, "The preview: jobs, and groups by kind, queue and error code"),),
    also_answers={200: ReplayPreview},
)
def replay_many() -> Response:
    """Replay many dead letters, oldest first, at a given rate. With `preview` only count them (200).

    When `stop_after` of them have failed again, the rest return to the dead letters. Follow it with `GET
    /v1/replays/{id}`.
    """
    has = services()
    body = read_body(ReplayManyBody, has.settings.max_body_bytes)
    wanted = DeadLetterFilter(**body.filter.model_dump())
    if body.preview:
        return answer(preview_replay(has.ledger, tenant_id(), wanted, body.limit))
    replay_made = replay(
        has.ledger,
        tenant_id(),
        wanted,
        limit=body.limit,
        rate_per_second=body.rate_per_second,
        stop_after=body.stop_after,
        by=caller().key_name,
    )
    return answer(replay_made, 202, {"Location": f"/v1/replays/{replay_made['id']}"})


@operation(
    "GET", "/replays/<uuid:replay_id>", "Read a replay", "dead letters", Scope.READ, answer=Replay, problems=(404,)
)
def get_replay(replay_id: UUID) -> Response:
    """Read a replay of many dead letters: how many failed again, and whether it was stopped."""
    return answer(read_replay(services().ledger, tenant_id(), replay_id))
