"""The audit log of the API: every change is recorded before it is made, and its outcome afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from flask import Flask, Response, g, request

from api.operations import Operation
from api.services import services
from jobplatform.errors import JobPlatformError
from jobplatform.ledger import audit_log
from jobplatform.observe.logs import get_log
from jobplatform.usecases.admit import Caller

log = get_log(__name__)
MOST_PATH_CHARACTERS = 1000


def register(app: Flask, operations: Mapping[str, Operation]) -> None:
    """Record every request that changes something, once its key is authorised."""

    @app.before_request
    def _begin() -> None:
        operation = operations.get(request.endpoint or "")
        if operation is None or operation.method == "GET" or not operation.logged:
            return
        caller: Caller = g.caller
        assert caller.key_id is not None
        g.audit_line = audit_log.begin_action(
            services().ledger,
            tenant_id=caller.tenant_id,
            key_id=caller.key_id,
            key_name=caller.key_name,
            action=operation.endpoint.__name__,
            path=quote(request.path, safe="/:@!$&'()*+,;=~")[:MOST_PATH_CHARACTERS],
            address=request.remote_addr,
        )

    @app.after_request
    def _end(response: Response) -> Response:
        line = g.pop("audit_line", None)
        if line is not None:
            problem = response.get_json(silent=True) if response.mimetype == "application/problem+json" else None
            try:
                audit_log.end_action(services().ledger, line, response.status_code, (problem or {}).get("code"))
            except JobPlatformError as error:  # the change is made; the record stays without an outcome
                log.warning("audit_line_without_end", line=line, error=str(error))
        return response
