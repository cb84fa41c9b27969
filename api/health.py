"""`/healthz`: this process lives. `/readyz`: it can accept jobs, which needs Postgres alone. `/metrics`."""

from __future__ import annotations

from flask import Flask, Response

from api.answers import answer
from api.problems import problem
from api.services import services
from jobplatform.errors import LedgerUnavailable
from jobplatform.ledger.schema import revision_of
from jobplatform.observe.metrics import exposition


def register(app: Flask) -> None:
    """Add the probes."""

    @app.get("/healthz", endpoint="healthz")
    def healthz() -> Response:
        return answer({"status": "ok"})

    @app.get("/metrics", endpoint="metrics")
    def metrics() -> Response:
        body, content_type = exposition()
        return Response(body, content_type=content_type)

    @app.get("/readyz", endpoint="readyz")
    def readyz() -> Response:
        try:
            with services().ledger.statement() as connection:
                revision = revision_of(connection)
        except LedgerUnavailable as error:
            return problem(503, error.code, "Not ready", str(error))
        if revision is None:
            return problem(503, "not_migrated", "Not ready", "the ledger has no tables yet: run `jobplatform migrate`")
        return answer({"status": "ready", "ledger": {"revision": revision}})
