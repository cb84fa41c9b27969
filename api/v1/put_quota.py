"""`PUT /v1/quotas/{tenant}/{queue}`."""

from __future__ import annotations

from flask import Response

from api.answers import read_body
from api.auth import caller
from api.operations import Operation
from api.services import services
from api.v1.limit_models import QuotaBody
from jobplatform.usecases import manage_limits as usecase


def put_quota(tenant: str, queue: str) -> Response:
    """Let at most so many jobs of a tenant wait in a queue; `*` is each that has no quota of its own.

    The queue `+` is all of them together: so many may live, dead letters too. What is more is refused with 429 and a
    Retry-After. Wants an operator's key.
    """
    has = services()
    most = read_body(QuotaBody, has.settings.max_body_bytes).max_waiting
    usecase.put_quota(has.ledger, tenant, queue, most, queues=has.settings.queues, by=caller().key_name)
    return Response(status=204)


OPERATION = Operation(
    "PUT",
    "/quotas/<tenant>/<queue>",
    put_quota,
    "Set a quota",
    "limits",
    None,
    status=204,
    body=QuotaBody,
    problems=(400, 403, 404, 413, 415, 422),
)
