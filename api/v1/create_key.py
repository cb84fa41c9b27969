"""`POST /v1/keys`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_body
from api.auth import caller
from api.operations import Operation
from api.services import services
from api.v1.key_models import KeyBody, NewKey
from jobplatform.domain.access import Scope
from jobplatform.ledger.keys import create_tenant
from jobplatform.usecases import manage_keys as usecase


def create_key() -> Response:
    """Make an API key. It is shown this once; what the ledger keeps can't be used as one.

    A key can't be good for more than the one that makes it, of priorities, kinds and what concerns all tenants.
    """
    has, who = services(), caller()
    body = read_body(KeyBody, has.settings.max_body_bytes)
    usecase.check_grants(who, body.grants())
    tenant_id = who.tenant_id
    if body.tenant is not None:
        who.check_operator()
        with has.ledger.transaction() as connection:
            tenant_id = create_tenant(connection, body.tenant)
    made = usecase.create_key(has.ledger, tenant_id, body.name, body.grants(), by=who.key_name)
    return answer(made.as_dict(), 201, {"Location": f"/v1/keys/{made.view['id']}", "Cache-Control": "no-store"})


OPERATION = Operation(
    "POST",
    "/keys",
    create_key,
    "Make an API key",
    "access",
    Scope.ADMIN,
    status=201,
    answer=NewKey,
    body=KeyBody,
    problems=(400, 413, 415, 422),
)
