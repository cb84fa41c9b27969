"""`DELETE /v1/keys/{id}`."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.key_models import Key
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_keys as usecase


def revoke_key(key_id: UUID) -> Response:
    """Revoke a key: it is refused from its next request on. Repeating changes nothing."""
    return answer(usecase.revoke_key(services().ledger, tenant_id(), key_id))


OPERATION = Operation(
    "DELETE",
    "/keys/<uuid:key_id>",
    revoke_key,
    "Revoke an API key",
    "access",
    Scope.ADMIN,
    answer=Key,
    problems=(404,),
)
