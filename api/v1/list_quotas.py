"""`GET /v1/quotas`."""

from __future__ import annotations

from flask import Response

from api.answers import answer
from api.operations import Operation
from api.services import services
from api.v1.limit_models import QuotaList
from jobplatform.usecases import manage_limits as usecase


def list_quotas() -> Response:
    """List quotas of what may wait. Wants an operator's key."""
    return answer({"quotas": usecase.list_quotas(services().ledger)})


OPERATION = Operation(
    "GET",
    "/quotas",
    list_quotas,
    "List quotas",
    "limits",
    None,
    answer=QuotaList,
    problems=(403,),
)
