"""`DELETE /v1/schedules/{name}`."""

from __future__ import annotations

from flask import Response

from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def delete_schedule(name: str) -> Response:
    """Take a schedule away, with the list of its fires; the jobs that it has made stay."""
    usecase.delete_schedule(services().ledger, tenant_id(), name)
    return Response(status=204)


OPERATION = Operation(
    "DELETE",
    "/schedules/<name>",
    delete_schedule,
    "Delete a schedule",
    "schedules",
    Scope.CONTROL,
    status=204,
    problems=(404,),
)
