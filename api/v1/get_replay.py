"""`GET /v1/replays/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.dead_letter_models import Replay
from jobplatform.domain.access import Scope
from jobplatform.usecases import replay_many as usecase


def get_replay(replay_id: UUID) -> Response:
    """Read a replay of many dead letters: how many died again, and whether it was stopped."""
    return answer(usecase.get_replay(services().ledger, tenant_id(), replay_id))


OPERATION = Operation(
    "GET",
    "/replays/<uuid:replay_id>",
    get_replay,
    "Read a replay",
    "dead letters",
    Scope.READ,
    answer=Replay,
    problems=(404,),
)
