"""`PUT /v1/tenants/{name}`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.operations import Operation
from api.services import services
from api.v1.limit_models import Tenant, TenantBody
from jobplatform.usecases import manage_limits as usecase


def put_tenant(name: str) -> Response:
    """Set the share of a tenant, beside others, of every queue. Wants an operator's key."""
    has = services()
    weight = read_body(TenantBody, has.settings.max_body_bytes).weight
    usecase.set_weight(has.ledger, name, weight)
    return answer({"name": name, "weight": weight})


OPERATION = Operation(
    "PUT",
    "/tenants/<name>",
    put_tenant,
    "Set a tenant's weight",
    "limits",
    None,
    answer=Tenant,
    body=TenantBody,
    problems=(400, 403, 404, 413, 415, 422),
)
