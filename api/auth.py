"""Every request below /v1 carries an API key; the tenant behind it is the only one the request can see."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flask import Flask, Response, g, request

from api.operations import Operation
from api.services import services
from jobplatform.usecases.admit import Caller, admit

#: what is open: pages and probes, with nothing of a tenant in them
OPEN_ENDPOINTS = frozenset(
    {"healthz", "readyz", "metrics", "openapi_json", "docs_page", "docs_asset", "docs_errors", "home"}
)
#: in the WSGI environ: who calls, where the server has asked already
CALLER = "jobplatform.caller"
#: asks for the key in the transaction of its own work: one round trip instead of two
ADMITS_ITSELF = "submit_job"
#: larger bodies are not read before the key was found good
PLAIN_BYTES = 16_384


def register(app: Flask, operations: Mapping[str, Operation]) -> None:
    """Check the key, and what it may be used for, before every endpoint that is not open."""

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
    def _tell_rate(response: Response) -> Response:
        result = g.get("caller")
        if result is not None and result.rate is not None:
            response.headers.update(result.rate.headers())
        return response


def tenant_id() -> UUID:
    """Return the tenant of the current request."""
    return caller().tenant_id


def caller() -> Caller:
    """Return who made the current request."""
    authenticated: Caller = g.caller
    return authenticated
