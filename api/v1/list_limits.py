"""`GET /v1/limits`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.operations import Operation
from api.services import services
from api.v1.limit_models import LimitList
from jobplatform.usecases import manage_limits as usecase


def list_limits() -> Response:
    """List limits, what uses their keys, and who waits for them. Wants an operator's key."""
    return answer({"limits": [one.as_dict() for one in usecase.list_limits(services().ledger)]})


OPERATION = Operation(
    "GET",
    "/limits",
    list_limits,
    "List limits",
    "limits",
    None,
    answer=LimitList,
    problems=(403,),
)
