"""Errors by what operators have set: keys, limits, quotas, webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from jobplatform.errors.base import JobPlatformError


class Unauthorized(JobPlatformError):
    """Expected the header `Authorization: Bearer <API key>` with a key that is valid and not revoked."""

    code = "unauthorized"
    status = 401


class LimitNotFound(JobPlatformError):
    """There is no such limit, tenant or quota."""

    code = "limit_not_found"
    status = 404


class NotAllowed(JobPlatformError):
    """This API key may not do that."""

    code = "not_allowed"
    status = 403


class TooManySchedules(JobPlatformError):
    """The tenant has as many schedules as it may have."""

    code = "too_many_schedules"
    status = 409

    def __init__(self, most: int) -> None:
        super().__init__(
            f"a tenant may have {most:,} schedules: delete those that are not needed "
            f"(DELETE /v1/schedules/{{name}}), or have an operator raise JOBPLATFORM_MAX_SCHEDULES"
        )


class TenantUnknown(NotAllowed):
    """There is no tenant of this name."""

    code = "tenant_unknown"

    def __init__(self, name: str) -> None:
        super().__init__(f"expected a RabbitMQ user with the name of a tenant; there is no tenant {name!r}")


class PriorityTooHigh(NotAllowed):
    """This API key may not ask for so high a priority."""

    code = "priority_too_high"

    def __init__(self, asked: int, highest: int) -> None:
        super().__init__(f"expected a priority of at most {highest}, which this API key may ask for; got {asked}")
        self.highest = highest


class KindNotAllowed(NotAllowed):
    """This API key may not submit jobs of this kind."""

    code = "kind_not_allowed"

    def __init__(self, kind: str, allowed: Iterable[str]) -> None:
        super().__init__(f"expected one of the kinds that this API key may submit ({', '.join(allowed)}); got {kind}")


class KeyNotFound(JobPlatformError):
    """There is no such API key."""

    code = "key_not_found"
    status = 404


class WebhookNotFound(JobPlatformError):
    """There is no such webhook, or no such message of it."""

    code = "webhook_not_found"
    status = 404


class MessageGone(JobPlatformError):
    """What the message said is not kept any more."""

    code = "message_gone"
    status = 409

    def __init__(self, message_id: object) -> None:
        super().__init__(f"what message {message_id} said is not kept any more: the job that delivered it is too old")


class RateLimited(JobPlatformError):
    """Too many requests with this API key."""

    code = "rate_limited"
    status = 429

    def __init__(self, requests: int, seconds: float) -> None:
        #: whole seconds
        self.retry_after = max(1, ceil(seconds))
        self.requests = requests
        super().__init__(
            f"expected at most {requests} requests a minute with this API key; try again in {self.retry_after} s"
        )


class TooManyStreams(JobPlatformError):
    """This API process has as many open streams as it may."""

    code = "too_many_streams"
    status = 503

    def __init__(self, most: int) -> None:
        super().__init__(f"as many streams are open in this process as may be ({most}); try again in a moment")


class QuotaExceeded(JobPlatformError):
    """Too many jobs of this tenant wait in this queue, or live in all of them. Nothing was accepted."""

    code = "quota_exceeded"
    status = 429

    def __init__(self, queue: str, retry_seconds: float | None) -> None:
        known = retry_seconds is not None
        #: whole seconds, from a second to an hour
        self.retry_after = min(3600, max(1, ceil(retry_seconds))) if retry_seconds is not None else UNKNOWN_RATE_SECONDS
        super().__init__(
            f"as many jobs of this tenant wait in queue {queue}, or live in all queues, as its quotas allow; try again "
            f"in {self.retry_after} s"
            + ("" if known else " (none of them has ended since this was asked last, so the time is a guess)")
        )
        self.queue = queue


#: when to try again where nothing is known of how fast the queue moves
UNKNOWN_RATE_SECONDS = 15


def quota_exceeded(queue: str, seconds: str | None) -> QuotaExceeded:
    """Return the error for what the ledger says of a refusal: when to try again, as text, or nothing."""
    return QuotaExceeded(queue, float(seconds) if seconds else None)
