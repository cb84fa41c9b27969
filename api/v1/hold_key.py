"""`PUT /v1/limits/{key}/hold`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller
from api.operations import Operation
from api.services import services
from api.v1.limit_models import Hold, HoldBody
from jobplatform.usecases import manage_limits as usecase


def hold_key(key: str) -> Response:
    """Let nothing of a key begin for so long, from now on; 0 seconds end a hold. Wants an operator's key."""
    has = services()
    body = read_body(HoldBody, has.settings.max_body_bytes)
    until = usecase.hold_key(has.ledger, key, body.seconds, f"{body.reason} ({caller().key_name})")
    return answer({"key": key, "held_until": until})


OPERATION = Operation(
    "PUT",
    "/limits/<key>/hold",
    hold_key,
    "Hold a key",
    "limits",
    None,
    answer=Hold,
    body=HoldBody,
    problems=(400, 403, 413, 415, 422),
)
