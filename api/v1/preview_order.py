"""`POST /v1/schedules/preview`."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Response

from api.answers import answer, read_body, read_query
from api.operations import Operation
from api.services import services
from api.v1.schedule_models import Preview, PreviewQuery, ScheduleBody
from jobplatform.domain.access import Scope
from jobplatform.usecases import manage_schedules as usecase


def preview_order() -> Response:
    """Read the next planned times of a schedule that is not made yet: nothing is kept."""
    has = services()
    query = read_query(PreviewQuery)
    order = read_body(ScheduleBody, has.settings.max_body_bytes).order("preview")
    has.kinds.get(order.kind)
    words, times = usecase.preview_order(order, datetime.now(UTC), query.count)
    return answer({"in_words": words, "times": times})


OPERATION = Operation(
    "POST",
    "/schedules/preview",
    preview_order,
    "Preview an order for a schedule",
    "schedules",
    Scope.READ,
    answer=Preview,
    body=ScheduleBody,
    query=PreviewQuery,
    problems=(400, 413, 415, 422),
    logged=False,
)
