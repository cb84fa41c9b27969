"""`GET /v1/kinds`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.operations import Operation
from api.services import services
from api.v1.models import KindList
from jobplatform.domain.access import Scope


def list_kinds() -> Response:
    """List what can be submitted, with the JSON Schema of each payload."""
    return answer(
        {
            "kinds": [
                {
                    "name": kind.name,
                    "queue": kind.queue,
                    "description": kind.description,
                    "max_attempts": kind.max_attempts,
                    "soft_limit_seconds": kind.soft_limit_seconds,
                    "hard_limit_seconds": kind.hard_limit_seconds,
                    "payload_schema": kind.payload.model_json_schema(),
                }
                for kind in services().kinds
            ]
        }
    )


OPERATION = Operation("GET", "/kinds", list_kinds, "List kinds", "catalogue", Scope.READ, answer=KindList)
