"""`POST /v1/dead-letters/replay`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller, tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import Replay, ReplayManyBody, ReplayPreview
from jobplatform.domain.access import Scope
from jobplatform.usecases import replay_many as usecase


def replay_many() -> Response:
    """Run many dead letters again, oldest first, at a rate; with `preview` only tell which (200).

    When `stop_after` of them have died again, what has not run yet goes back. `GET /v1/replays/{id}` follows it.
    """
    has = services()
    body = read_body(ReplayManyBody, has.settings.max_body_bytes)
    wanted = usecase.DeadLetterFilter(**body.filter.model_dump())
    if body.preview:
        return answer(usecase.preview_replay(has.ledger, tenant_id(), wanted, body.limit))
    found = usecase.replay_many(
        has.ledger,
        tenant_id(),
        wanted,
        limit=body.limit,
        rate_per_second=body.rate_per_second,
        stop_after=body.stop_after,
        by=caller().key_name,
    )
    return answer(found, 202, {"Location": f"/v1/replays/{found['id']}"})


OPERATION = Operation(
    "POST",
    "/dead-letters/replay",
    replay_many,
    "Run many dead letters again",
    "dead letters",
    Scope.CONTROL,
    status=202,
    answer=Replay,
    body=ReplayManyBody,
    also=((200, "The preview: jobs, and groups by kind, queue and error code"),),
    also_answers={200: ReplayPreview},
    problems=(400, 413, 415, 422),
)
