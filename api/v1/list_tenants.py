"""`GET /v1/tenants`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.operations import Operation
from api.services import services
from api.v1.limit_models import TenantPage, TenantsQuery
from jobplatform.usecases import manage_limits as usecase


def list_tenants() -> Response:
    """List tenants with their weights. Go on with `next_cursor`. Wants an operator's key."""
    query = read_query(TenantsQuery)
    found, cursor = usecase.list_tenants(services().ledger, after=query.cursor, limit=query.limit)
    return answer({"tenants": found, "next_cursor": cursor})


OPERATION = Operation(
    "GET",
    "/tenants",
    list_tenants,
    "List tenants",
    "limits",
    None,
    answer=TenantPage,
    query=TenantsQuery,
    problems=(403, 422),
)
