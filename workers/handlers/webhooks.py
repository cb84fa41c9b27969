"""The handler of the platform's own jobs that deliver webhooks. It uses the ledger; tenants cannot submit such jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson

from jobplatform.config import Settings, settings
from jobplatform.domain.context import Context
from jobplatform.domain.kinds import REGISTRY, KindRegistry
from jobplatform.domain.retry import read_retry_after
from jobplatform.domain.webhooks import (
    MAX_AGE_SECONDS,
    TEST_TYPE,
    Delivered,
    Delivery,
    deliver_kind,
    endpoint_key,
    sign,
)
from jobplatform.errors import JobPlatformError, Permanent, Retryable, Throttled
from jobplatform.ledger.ids import time_of
from jobplatform.usecases.deliver_webhook import Target, find_target, record_response
from workers.providers.post import AddressRefused, Answer, NoAnswer, poster
from workers.runtime.process import ledger

#: longest Retry-After that is obeyed (s)
LONGEST_PAUSE = 3600.0
#: an endpoint that does not answer is paused for a tenth of the time for which it has failed, from 10 s to 10 min: its
#: messages would occupy the slots of all others' while they wait for it
LEAST_HOLD, LONGEST_HOLD = 10.0, 600.0


def deliver_webhook(payload: Delivery, ctx: Context) -> Delivered:
    """Deliver an event of a job to an endpoint."""
    is_test = payload.body["type"] == TEST_TYPE
    target = find_target(ledger(), payload.endpoint)
    if target is None:
        return Delivered(skipped="the endpoint was deleted")
    if target.disabled_reason is not None and not is_test:
        return Delivered(skipped=f"the endpoint is disabled: {target.disabled_reason}")
    answer, error = _ask(target, payload, ctx)
    if not is_test:
        gone = answer is not None and answer.status == 410
        message = str(error) if error is not None else None
        record_response(
            ledger(), REGISTRY, target, message, gone=gone, patience_seconds=settings().webhook_patience_seconds
        )
    if error is not None:
        raise error
    assert answer is not None
    return Delivered(status=answer.status, seconds=round(answer.seconds, 3))


def _ask(target: Target, payload: Delivery, ctx: Context) -> tuple[Answer | None, JobPlatformError | None]:
    body = orjson.dumps(payload.body)
    try:
        answer = poster().post(
            target.url, sign(target.secrets, f"msg_{payload.message}", datetime.now(UTC), body), body
        )
    except NoAnswer as error:
        if payload.body["type"] != TEST_TYPE:
            seconds = min(LONGEST_HOLD, max(LEAST_HOLD, (target.failing_seconds or 0) / 10))
            ctx.pause(endpoint_key(target.id), seconds, "the receiver does not answer")
        return None, Retryable(str(error), code="webhook_not_reached")
    except AddressRefused as error:
        return None, Permanent(str(error), code="webhook_address_refused")
    return answer, _judge(target, answer, datetime.now(UTC) - time_of(ctx.job_id))


def _judge(target: Target, answer: Answer, age: timedelta) -> JobPlatformError | None:
    """Treat every answer but 2xx as a failure, redirects too; 410 ends the deliveries."""
    if 200 <= answer.status < 300:
        return None
    message = f"the receiver answered {answer.status}" + (f": {answer.text}" if answer.text else "")
    detail = {"status": answer.status, "seconds": round(answer.seconds, 3)}
    if answer.status == 410:
        return Permanent(message, code="webhook_gone", detail=detail)
    if 300 <= answer.status < 400:
        message = f"the receiver answered {answer.status}: redirects are not followed, change the URL"
        return Retryable(message, code="webhook_redirected", detail=detail)
    after = read_retry_after(answer.retry_after)
    if age.total_seconds() > MAX_AGE_SECONDS:  # however often it has answered 429 or 503, which count as no attempt
        return Permanent(message, code="webhook_too_old", detail=detail)
    if answer.status == 429 and after is not None:
        return Throttled(endpoint_key(target.id), min(after, LONGEST_PAUSE), message)
    return Retryable(message, code="webhook_refused", detail=detail)


def register(kinds: KindRegistry, config: Settings) -> None:
    """Add the kind that delivers webhooks, on its queue."""
    kinds.add(deliver_kind(config.webhook_jobs_queue, deliver_webhook))
