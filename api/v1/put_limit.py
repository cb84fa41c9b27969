"""`PUT /v1/limits/{name}`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller
from api.operations import Operation
from api.services import services
from api.v1.limit_models import LimitAnswer, LimitBody
from jobplatform.usecases import manage_limits as usecase


def put_limit(name: str) -> Response:
    """Set the limit of a key (`provider:openai`), or of each key of a name (`domain:*`). It acts at once; jobs that are
    out go on. Wants an operator's key.
    """
    has = services()
    limit = read_body(LimitBody, has.settings.max_body_bytes).limit(name)
    return answer(usecase.put_limit(has.ledger, limit, by=caller().key_name).as_dict())


OPERATION = Operation(
    "PUT",
    "/limits/<name>",
    put_limit,
    "Set a limit",
    "limits",
    None,
    answer=LimitAnswer,
    body=LimitBody,
    problems=(400, 403, 413, 415, 422),
)
