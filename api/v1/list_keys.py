"""`GET /v1/keys`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.key_models import KeyPage, KeysQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_keys as usecase


def list_keys() -> Response:
    """List the tenant's API keys, oldest first, without what could be used as one."""
    query = read_query(KeysQuery)
    found, cursor = usecase.list_keys(services().ledger, tenant_id(), after=query.cursor, limit=query.limit)
    return answer({"keys": found, "next_cursor": cursor})


OPERATION = Operation(
    "GET", "/keys", list_keys, "List API keys", "access", Scope.ADMIN, answer=KeyPage, query=KeysQuery, problems=(422,)
)
