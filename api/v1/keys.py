"""API keys, and the audit log."""

from __future__ import annotations

from uuid import UUID

from flask import Response

from api.auth import caller, tenant_id
from api.operations import operation
from api.responses import answer, read_body, read_optional, read_query
from api.services import services
from api.v1.schemas.keys import ActionPage, AuditQuery, Key, KeyBody, KeyPage, KeysQuery, NewKey, RotateBody
from jobplatform.domain.access import Scope
from jobplatform.ledger.keys import create_tenant
from jobplatform.usecases import manage_keys


@operation(
    "POST",
    "/keys",
    "Create an API key",
    "access",
    Scope.ADMIN,
    status=201,
    answer=NewKey,
    body=KeyBody,
)
def create_key() -> Response:
    """Create an API key. It is shown only once; the ledger stores a hash.

    A key can't grant more than the key that creates it: priorities, kinds, operator rights.
    """
    has, who = services(), caller()
    body = read_body(KeyBody, has.settings.max_body_bytes)
    manage_keys.check_grants(who, body.grants())
    tenant_id = who.tenant_id
    if body.tenant is not None:
        who.check_operator()
        with has.ledger.transaction() as connection:
            tenant_id = create_tenant(connection, body.tenant)
    made = manage_keys.create_key(has.ledger, tenant_id, body.name, body.grants(), by=who.key_name)
    return answer(made.as_dict(), 201, {"Location": f"/v1/keys/{made.view['id']}", "Cache-Control": "no-store"})


@operation("GET", "/keys", "List API keys", "access", Scope.ADMIN, answer=KeyPage, query=KeysQuery)
def list_keys() -> Response:
    """List the tenant's API keys, oldest first, without the secrets."""
    query = read_query(KeysQuery)
    keys, cursor = manage_keys.list_keys(services().ledger, tenant_id(), after=query.cursor, limit=query.limit)
    return answer({"keys": keys, "next_cursor": cursor})


@operation(
    "POST",
    "/keys/<uuid:key_id>/rotate",
    "Rotate an API key",
    "access",
    Scope.ADMIN,
    status=201,
    answer=NewKey,
    body=RotateBody,
    body_required=False,
    problems=(404,),
)
def rotate_key(key_id: UUID) -> Response:
    """Create a key with the same grants. The old key expires after the overlap (one day by default)."""
    has, who = services(), caller()
    body = read_optional(RotateBody, has.settings.max_body_bytes)
    made = manage_keys.rotate_key(has.ledger, who, key_id, by=who.key_name, overlap_seconds=body.overlap_seconds)
    return answer(made.as_dict(), 201, {"Location": f"/v1/keys/{made.view['id']}", "Cache-Control": "no-store"})


@operation("DELETE", "/keys/<uuid:key_id>", "Revoke an API key", "access", Scope.ADMIN, answer=Key, problems=(404,))
def revoke_key(key_id: UUID) -> Response:
    """Revoke a key: its next request is refused. Idempotent."""
    return answer(manage_keys.revoke_key(services().ledger, tenant_id(), key_id))


@operation(
    "GET",
    "/audit-log",
    "Read the audit log",
    "access",
    Scope.ADMIN,
    answer=ActionPage,
    query=AuditQuery,
)
def list_actions() -> Response:
    """List what the tenant's keys have changed, newest first. Submissions are in the history of each job."""
    query = read_query(AuditQuery)
    actions, cursor = manage_keys.list_actions(
        services().ledger, tenant_id(), before=query.cursor, key_id=query.key_id, limit=query.limit
    )
    return answer({"actions": actions, "next_cursor": cursor})
