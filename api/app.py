"""The Flask application. It reaches Postgres through the use cases, and never the broker."""

from __future__ import annotations

from threading import Semaphore

from flask import Flask

from api import audit, auth, health, metrics, pages, problems, v1
from api.services import Services
from jobplatform.config import Settings, settings
from jobplatform.domain.kinds import load_kinds
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import API, open_ledger
from jobplatform.usecases.store_artifacts import ArtifactStore


def create_app(config: Settings | None = None) -> Flask:
    """Return the WSGI application. It opens no connection before the first request."""
    config = config or settings()
    ledger = open_ledger(
        config.database_url.get_secret_value(), name="api", limits=API, connections=config.api_database_connections
    )
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_upload_bytes
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # it would redirect to a host that the caller chooses
    app.extensions["services"] = Services(
        settings=config,
        ledger=ledger,
        hints=HintSender(ledger.statements),
        kinds=load_kinds(config.kind_modules, config.pools),
        store=ArtifactStore(config.artifact_url),
        blocking_waits=Semaphore(config.blocking_waits),
    )
    metrics.register(app)
    problems.register(app)
    operations = {operation.endpoint.__name__: operation for operation in v1.OPERATIONS}
    auth.register(app, operations)
    audit.register(app, operations)
    health.register(app)
    pages.register(app)
    v1.register(app)
    return app
