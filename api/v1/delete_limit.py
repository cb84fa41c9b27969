"""`DELETE /v1/limits/{name}`."""

from __future__ import annotations

from flask import Response

from api.operations import Operation
from api.services import services
from jobplatform.usecases import manage_limits as usecase


def delete_limit(name: str) -> Response:
    """Remove a limit; what it held back goes. Wants an operator's key."""
    usecase.remove_limit(services().ledger, name)
    return Response(status=204)


OPERATION = Operation(
    "DELETE",
    "/limits/<name>",
    delete_limit,
    "Remove a limit",
    "limits",
    None,
    status=204,
    problems=(403, 404),
)
