"""Authentication: every request below /v1 carries an API key, and can access only that key's tenant."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flask import Flask, Response, g, request

from api.operations import Operation
from api.services import services
from jobplatform.usecases.admit import Caller, admit

#: public endpoints: pages and probes, without any tenant's data
OPEN_ENDPOINTS = frozenset(
    {"healthz", "readyz", "metrics", "openapi_json", "docs_page", "docs_asset", "docs_errors", "home"}
)
#: in the WSGI environ: the caller, if the server has checked the key already
CALLER = "jobplatform.caller"
#: checks the key in the transaction of its own work: one round trip instead of two
ADMITS_ITSELF = "submit_job"
#: larger bodies are not read before the key is checked (bytes)
PLAIN_BYTES = 16_384


def register(app: Flask, operations: Mapping[str, Operation]) -> None:
    """Check the key and its scopes before every endpoint that is not public."""

    @app.before_request
    def _admit() -> None:
        endpoint = request.endpoint
        known: Caller | None = request.environ.get(CALLER)
        if endpoint is None or endpoint in OPEN_ENDPOINTS:
            return
        if endpoint == ADMITS_ITSELF and known is None and (request.content_length or 0) <= PLAIN_BYTES:
            return
        g.caller = known or admit(services().ledger, request.headers.get("Authorization"))
        operation = operations[endpoint]
        if operation.scope is None:
            g.caller.check_operator()
        else:
            g.caller.check_scope(operation.scope)

    @app.after_request
    def _add_rate_headers(response: Response) -> Response:
        result = g.get("caller")
        if result is not None and result.rate is not None:
            response.headers.update(result.rate.headers())
        return response


def tenant_id() -> UUID:
    """Return the tenant of the current request."""
    return caller().tenant_id


def caller() -> Caller:
    """Return the caller of the current request."""
    authenticated: Caller = g.caller
    return authenticated
