"""`POST /v1/keys/{id}/rotate`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer, read_optional
from api.auth import caller
from api.operations import Operation
from api.services import services
from api.v1.key_models import NewKey, RotateBody
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_keys as usecase


def rotate_key(key_id: UUID) -> Response:
    """Make a key that may do the same as this one, which ends after the overlap (a day, unless said otherwise)."""
    has, who = services(), caller()
    body = read_optional(RotateBody, has.settings.max_body_bytes)
    made = usecase.rotate_key(has.ledger, who, key_id, by=who.key_name, overlap_seconds=body.overlap_seconds)
    return answer(made.as_dict(), 201, {"Location": f"/v1/keys/{made.view['id']}", "Cache-Control": "no-store"})


OPERATION = Operation(
    "POST",
    "/keys/<uuid:key_id>/rotate",
    rotate_key,
    "Exchange an API key",
    "access",
    Scope.ADMIN,
    status=201,
    answer=NewKey,
    body=RotateBody,
    body_required=False,
    problems=(400, 404, 413, 415, 422),
)
