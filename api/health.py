"""`/healthz`: this process is alive. `/readyz`: it can accept jobs, which needs only Postgres. `/metrics`."""

from __future__ import annotations

from flask import Flask, Response

from api.problems import problem
from api.responses import answer
from api.services import services
from jobplatform.errors import LedgerUnavailable
from jobplatform.ledger import server
from jobplatform.ledger.feed import is_another_cluster
from jobplatform.ledger.schema import head, revision_of
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
                is_read_only = server.read_mode(connection).is_read_only
                moved = revision == head() and is_another_cluster(connection)
        except LedgerUnavailable as error:
            return problem(503, error.code, "Not ready", str(error))
        if revision is None:
            return problem(503, "not_migrated", "Not ready", "the ledger has no tables yet: run `jobplatform migrate`")
        if is_read_only:
            said = (
                "this database takes no writes (a standby, or read only): point JOBPLATFORM_DATABASE_URL at the primary"
            )
            return problem(503, "read_only", "Not ready", said)
        if moved:
            said = "the ledger was restored into another cluster: run `jobplatform migrate`"
            return problem(503, "restored", "Not ready", said)
        return answer({"status": "ready", "ledger": {"revision": revision}})
