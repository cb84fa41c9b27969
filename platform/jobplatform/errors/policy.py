"""Errors of access and policy: keys, limits, quotas, webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from jobplatform.errors.base import JobPlatformError


class Unauthorized(JobPlatformError):
    """Expected the header `Authorization: Bearer <API key>` with a key that is valid and not revoked."""

    code = "unauthorized"
    status = 401


class LimitNotFound(JobPlatformError):
    """No such limit, tenant or quota."""

    code = "limit_not_found"
    status = 404


class NotAllowed(JobPlatformError):
    """This API key may not do that."""

    code = "not_allowed"
    status = 403


class TooManySchedules(JobPlatformError):
    """The tenant has reached its maximum number of schedules."""

    code = "too_many_schedules"
    status = 409

    def __init__(self, most: int) -> None:
        super().__init__(
            f"a tenant may have {most:,} schedules: delete those that are not needed "
            f"(DELETE /v1/schedules/{{name}}), or have an operator raise JOBPLATFORM_MAX_SCHEDULES"
        )


class TenantUnknown(NotAllowed):
    """No such tenant."""

    code = "tenant_unknown"

    def __init__(self, name: str) -> None:
        super().__init__(f"expected a RabbitMQ user with the name of a tenant; there is no tenant {name!r}")


class PriorityTooHigh(NotAllowed):
    """This API key may not submit with so high a priority."""

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
    """No such API key."""

    code = "key_not_found"
    status = 404


class WebhookNotFound(JobPlatformError):
    """No such webhook, or no such message of it."""

    code = "webhook_not_found"
    status = 404


class MessageGone(JobPlatformError):
    """The content of the message is no longer stored."""

    code = "message_gone"
    status = 409

    def __init__(self, message_id: object) -> None:
        super().__init__(
            f"the content of message {message_id} is no longer stored: the job that delivered it is past its retention"
        )


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
    """This API process has reached its limit of open streams."""

    code = "too_many_streams"
    status = 503

    def __init__(self, most: int) -> None:
        super().__init__(f"this process has reached its limit of {most} open streams; retry in a moment")


class QuotaExceeded(JobPlatformError):
    """Too many jobs of this tenant wait in this queue, or are live in all queues. Nothing was accepted."""

    code = "quota_exceeded"
    status = 429

    def __init__(self, queue: str, retry_seconds: float | None) -> None:
        known = retry_seconds is not None
        #: whole seconds, from a second to an hour
        self.retry_after = min(3600, max(1, ceil(retry_seconds))) if retry_seconds is not None else UNKNOWN_RATE_SECONDS
        super().__init__(
            f"the quotas of this tenant allow no more waiting jobs in queue {queue}, or no more live jobs; retry "
            f"in {self.retry_after} s"
            + ("" if known else " (none of them has ended since the last request, so the time is a guess)")
        )
        self.queue = queue


#: Retry-After (s) when the rate of the queue is unknown
UNKNOWN_RATE_SECONDS = 15
