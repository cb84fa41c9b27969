"""Errors of a run: raised by a handler, or ending it from outside."""

from __future__ import annotations

from typing import Any, ClassVar

from jobplatform.errors.base import JobPlatformError


class LeaseLost(JobPlatformError):
    """This run has lost its lease to another run or an operator; its writes are discarded."""

    code = "lease_lost"


class JobCancelled(JobPlatformError):
    """The job was cancelled while it ran."""

    code = "cancelled"


class RunFailed(JobPlatformError):
    """Base class of failures that a handler reports. Raise `Retryable` or `Permanent`."""

    code = "failed"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: dict[str, Any] | None = None,
        may_have_happened: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = code or self.code
        self.detail = detail
        #: raised in a `ctx.effect` block: the outcome of the effect is unknown (a time-out after sending, say)
        self.may_have_happened = may_have_happened


class Retryable(RunFailed):
    """The run failed; another attempt may succeed. `after` (seconds) overrides the kind's retry policy."""

    code = "retryable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        after: float | None = None,
        code: str | None = None,
        detail: dict[str, Any] | None = None,
        may_have_happened: bool = False,
    ) -> None:
        super().__init__(message, code=code, detail=detail, may_have_happened=may_have_happened)
        self.after = after


class RetryRequested(Retryable):
    """A caller that counts attempts itself requests another one. `next_run`: payload or priority of
    that attempt, if they change."""

    code = "retry"

    def __init__(
        self, message: str, *, after: float, next_run: Any = None, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, after=after, detail=detail)
        self.next_run = next_run


class Permanent(RunFailed):
    """The run failed and no attempt can succeed: the job is dead-lettered with this reason."""

    code = "permanent"


class EffectUnknown(JobPlatformError):
    """An earlier run may have done this effect, and the kind requires an operator to decide: the job is held."""

    code = "effect_unknown"

    def __init__(self, key: str) -> None:
        super().__init__(f"effect {key!r}: an earlier run ended between intent and receipt; did it take place?")
        self.key = key


class Snooze(JobPlatformError):
    """Run again in `seconds`. Does not count as an attempt."""

    code = "snoozed"

    def __init__(self, seconds: float, reason: str = "snoozed by the handler") -> None:
        super().__init__(reason)
        self.seconds = seconds


class Throttled(Snooze):
    """The other system refused with 429 or Retry-After: the limit key is paused for `seconds`, and this run
    does not count as an attempt."""

    code = "throttled"

    def __init__(self, key: str, seconds: float, reason: str = "the other system refused for now") -> None:
        super().__init__(seconds, reason)
        self.key = key
