"""Every request below /v1 carries an API key; the tenant behind it is the only one the request can see."""

from __future__ import annotations

from uuid import UUID

from flask import Flask, g, request

from api.services import services
from jobplatform.usecases.admit import Caller, admit

#: what is open: pages and probes, with nothing of a tenant in them
OPEN_ENDPOINTS = frozenset(
    {"healthz", "readyz", "metrics", "openapi_json", "docs_page", "docs_asset", "docs_errors", "home"}
)
#: asks for the key in the transaction of its own work: one round trip instead of two
ADMITS_ITSELF = "submit_job"


def register(app: Flask) -> None:
    """Check the key before every endpoint that is not open."""

    @app.before_request
    def _admit() -> None:
        if request.endpoint is None or request.endpoint in OPEN_ENDPOINTS or request.endpoint == ADMITS_ITSELF:
            return
        g.caller = admit(services().ledger, request.headers.get("Authorization"))


def tenant_id() -> UUID:
    """Return the tenant of the current request."""
    return caller().tenant_id


def caller() -> Caller:
    """Return who made the current request."""
    found: Caller = g.caller
    return found
