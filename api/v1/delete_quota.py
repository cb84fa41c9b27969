"""`DELETE /v1/quotas/{tenant}/{queue}`."""

from __future__ import annotations

from flask import Response

from api.operations import Operation
from api.services import services
from jobplatform.usecases import manage_limits as usecase


def delete_quota(tenant: str, queue: str) -> Response:
    """Remove a quota. Wants an operator's key."""
    usecase.remove_quota(services().ledger, tenant, queue)
    return Response(status=204)


OPERATION = Operation(
    "DELETE",
    "/quotas/<tenant>/<queue>",
    delete_quota,
    "Remove a quota",
    "limits",
    None,
    status=204,
    problems=(403, 404),
)
