"""Kinds, queues and tenants."""

from __future__ import annotations

from flask import Response

from api.auth import tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_query
from api.services import services
from api.v1.schemas.catalogue import KindList, QueueList
from api.v1.schemas.limits import Tenant, TenantBody, TenantPage, TenantsQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_limits
from jobplatform.usecases.list_queues import list_queues as read_queues


@operation("GET", "/kinds", "List kinds", "catalogue", Scope.READ, answer=KindList)
def list_kinds() -> Response:
    """List the kinds of jobs that can be submitted, with the JSON Schema of each payload."""
    return answer(
        {
            "kinds": [
                {
                    "name": kind.name,
                    "queue": kind.queue,
                    "description": kind.description,
                    "max_attempts": kind.max_attempts,
                    "soft_limit_seconds": kind.soft_limit_seconds,
                    "hard_limit_seconds": kind.hard_limit_seconds,
                    "payload_schema": kind.payload.model_json_schema(),
                }
                for kind in services().kinds
            ]
        }
    )


@operation("GET", "/queues", "List queues", "catalogue", Scope.READ, answer=QueueList)
def list_queues() -> Response:
    """List the queues with the tenant's job counts and the live workers. Cheap at any backlog."""
    has = services()
    return answer({"queues": read_queues(has.ledger, tenant_id(), has.settings.lease_seconds)})


@operation("GET", "/tenants", "List tenants", "limits", None, answer=TenantPage, query=TenantsQuery)
def list_tenants() -> Response:
    """List tenants with their weights. Continue with `next_cursor`. Requires an operator key."""
    query = read_query(TenantsQuery)
    tenants, cursor = manage_limits.list_tenants(services().ledger, after=query.cursor, limit=query.limit)
    return answer({"tenants": tenants, "next_cursor": cursor})


@operation(
    "PUT",
    "/tenants/<name>",
    "Set a tenant's weight",
    "limits",
    None,
    answer=Tenant,
    body=TenantBody,
    problems=(404,),
)
def put_tenant(name: str) -> Response:
    """Set the weight of a tenant: its share of every queue relative to other tenants. Requires an operator key."""
    has = services()
    weight = read_body(TenantBody, has.settings.max_body_bytes).weight
    manage_limits.set_weight(has.ledger, name, weight)
    return answer({"name": name, "weight": weight})
