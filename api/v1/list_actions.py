"""`GET /v1/audit-log`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.key_models import ActionPage, AuditQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_keys as usecase


def list_actions() -> Response:
    """List what the tenant's keys have changed, newest first. Who ordered a job, its own history says."""
    query = read_query(AuditQuery)
    found, cursor = usecase.list_actions(
        services().ledger, tenant_id(), before=query.cursor, key_id=query.key_id, limit=query.limit
    )
    return answer({"actions": found, "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/audit-log",
    list_actions,
    "Read the audit log",
    "access",
    Scope.ADMIN,
    answer=ActionPage,
    query=AuditQuery,
    problems=(422,),
)
