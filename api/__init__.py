"""The internal HTTP API: `api.server:app` under granian, or `gunicorn "api:create_app()"`."""

from jobplatform.extras import require

require("api")

from api.app import create_app

__all__ = ["create_app"]
