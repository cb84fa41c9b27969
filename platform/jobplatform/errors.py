"""Every error of the platform. The docstring is the default message; `code` is the slug callers may rely on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class JobPlatformError(Exception):
    """Something went wrong in the job platform."""

    code: ClassVar[str] = "internal_error"
    #: the caller's key was found good, and counted, before this came of his request
    caller_is_known = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


# --- what a caller did -------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request: where it is, what was expected, what came."""

    field: str
    expected: str
    got: str = ""

    def in_words(self) -> str:
        """Return it as a line for people."""
        return f"{self.field}: expected {self.expected}, got {self.got or 'nothing'}"

    def as_dict(self) -> dict[str, str]:
        """Return the JSON form used by problem+json and the CLI."""
        return {"field": self.field, "expected": self.expected, "got": self.got}


class InvalidRequest(JobPlatformError):
    """The request has fields that are not as expected."""

    code = "invalid_request"

    def __init__(self, message: str | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class InvalidPayload(InvalidRequest):
    """The payload does not fit the schema of its kind."""

    code = "invalid_payload"


class UnknownKind(JobPlatformError):
    """No such kind is registered."""

    code = "unknown_kind"

    def __init__(self, name: str, known: list[str], suggestion: str | None = None) -> None:
        hint = f"did you mean {suggestion!r}?" if suggestion else f"known kinds: {', '.join(known) or 'none'}"
        super().__init__(f"unknown kind {name!r}: {hint}")
        self.name, self.known, self.suggestion = name, known, suggestion


class JobNotFound(JobPlatformError):
    """No such job."""

    code = "job_not_found"

    def __init__(self, job_id: object) -> None:
        super().__init__(f"no job with id {job_id}; expected the id of a job that this API key's tenant submitted")
        self.job_id = job_id


class ReplayNotFound(JobPlatformError):
    """No such replay."""

    code = "replay_not_found"

    def __init__(self, replay_id: object) -> None:
        super().__init__(f"no replay with id {replay_id}; expected the id that POST /v1/dead-letters/replay answered")
        self.replay_id = replay_id


class ArtifactNotFound(JobPlatformError):
    """No such artifact."""

    code = "artifact_not_found"

    def __init__(self, artifact_id: object) -> None:
        super().__init__(f"no artifact with id {artifact_id}")
        self.artifact_id = artifact_id


class NotCancellable(JobPlatformError):
    """The job has ended and can't be cancelled any more."""

    code = "not_cancellable"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that has not ended")
        self.state = state


class DuplicateJob(JobPlatformError):
    """Another job holds this unique key."""

    code = "duplicate_job"

    def __init__(self, key: str, job_id: object) -> None:
        super().__init__(
            f"job {job_id} holds the unique key {key!r}: wait until it has ended, or order without `refuse`"
        )
        self.job_id = job_id


class EffectNotFound(JobPlatformError):
    """The job has no such effect whose outcome is unknown."""

    code = "effect_not_found"

    def __init__(self, job_id: object, key: str) -> None:
        super().__init__(f"job {job_id} is not held by an effect {key!r}: see GET /v1/jobs/{job_id}/effects")
        self.key = key


class NotReplayable(JobPlatformError):
    """Only a job that is dead, cancelled or expired can be run again."""

    code = "not_replayable"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is dead, cancelled or expired")
        self.state = state


class StepNotReplayable(NotReplayable):
    """This step of a workflow was called off with it, and comes back with it."""

    code = "step_not_replayable"

    def __init__(self, job_id: object, state: str) -> None:
        JobPlatformError.__init__(
            self,
            f"job {job_id} is {state} with its workflow: replay the workflow (POST /v1/workflows/{{id}}/replay), or "
            f"the step of it that failed",
        )
        self.state = state


class StepIdTaken(JobPlatformError):
    """A step was ordered with an id that another job has."""

    code = "step_id_taken"

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"a task of this canvas has an id that was used before ({detail}): expected new ones. A canvas that was "
            f"applied, or frozen, once is not applied again: make another one"
        )


class WorkflowNotFound(JobPlatformError):
    """No such workflow."""

    code = "workflow_not_found"

    def __init__(self, workflow_id: object) -> None:
        super().__init__(
            f"no workflow with id {workflow_id}; expected the id of a workflow that this API key's tenant submitted"
        )
        self.workflow_id = workflow_id


class WorkflowHasEnded(JobPlatformError):
    """The workflow has ended and can't be cancelled any more."""

    code = "workflow_has_ended"

    def __init__(self, workflow_id: object, state: str) -> None:
        super().__init__(f"workflow {workflow_id} is {state}: expected one that runs")
        self.state = state


class WorkflowNotReplayable(JobPlatformError):
    """Only a workflow that has failed or was cancelled can be run again."""

    code = "workflow_not_replayable"

    def __init__(self, workflow_id: object, why: str) -> None:
        super().__init__(f"workflow {workflow_id} {why}")


class ScheduleNotFound(JobPlatformError):
    """No such schedule."""

    code = "schedule_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"no schedule named {name!r}; expected one of GET /v1/schedules")
        self.name = name


class NotDiscardable(JobPlatformError):
    """Only a job that is dead or held can be thrown away."""

    code = "not_discardable"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is dead or held; others can be cancelled")
        self.state = state


class NotChangeable(JobPlatformError):
    """Priority and run_at can be changed only while no run has the job."""

    code = "not_changeable"

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is scheduled, available or dispatched")
        self.state = state


class IdempotencyConflict(JobPlatformError):
    """This Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(JobPlatformError):
    """A request with this Idempotency-Key is being worked on; repeat in a moment."""

    code = "idempotency_in_progress"


class Unauthorized(JobPlatformError):
    """Expected the header `Authorization: Bearer <API key>` with a key that is valid and not revoked."""

    code = "unauthorized"


# --- what the surroundings did -----------------------------------------------------------------


class LedgerUnavailable(JobPlatformError):
    """The ledger (Postgres) can't be reached; nothing was changed. Repeat in a moment."""

    code = "ledger_unavailable"


class LedgerReadOnly(LedgerUnavailable):
    """The ledger takes no writes (a standby, or set to read only); nothing was changed. Reads go on."""

    code = "ledger_read_only"


class LedgerBusy(LedgerUnavailable):
    """The ledger could not lock what it needed in time; nothing was changed. Repeat in a moment."""

    code = "ledger_busy"


class OutcomeUnknown(JobPlatformError):
    """The outcome is unknown: the ledger's answer was lost. Repeat it; a submit with the same Idempotency-Key."""

    code = "outcome_unknown"


class StorageFull(JobPlatformError):
    """There is no space left in the artifact store; nothing was kept. Free space, or move JOBPLATFORM_ARTIFACT_URL."""

    code = "storage_full"


class StorageUnavailable(JobPlatformError):
    """The artifact store can't be written or read at the moment; nothing was kept. Repeat in a moment."""

    code = "storage_unavailable"


class BrokerUnavailable(JobPlatformError):
    """RabbitMQ can't be reached, or did not confirm in time; jobs wait in the ledger."""

    code = "broker_unavailable"


class ConfigurationError(JobPlatformError):
    """The configuration can't work."""

    code = "configuration_error"


# --- what happens to a run ---------------------------------------------------------------------


class LeaseLost(JobPlatformError):
    """This run has lost its lease: another run or a person decided; nothing it writes counts any more."""

    code = "lease_lost"


class JobCancelled(JobPlatformError):
    """The job was cancelled while it ran."""

    code = "cancelled"


class RunFailed(JobPlatformError):
    """A handler failed in a way it can name. Raise `Retryable` or `Permanent`, not this."""

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
        #: raised in a `ctx.effect` block: nobody knows whether the effect took place (a time-out after sending, say)
        self.may_have_happened = may_have_happened


class Retryable(RunFailed):
    """The run failed, another attempt may succeed. `after` (seconds) overrides the kind's retry policy."""

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


class Reordered(Retryable):
    """Somebody who counts the attempts by himself wants another one. `next_run`: what that has instead: payload,
    priority or both."""

    code = "retry"

    def __init__(
        self, message: str, *, after: float, next_run: Any = None, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, after=after, detail=detail)
        self.next_run = next_run


class Permanent(RunFailed):
    """The run failed and no attempt can succeed: the job becomes a dead letter with this reason."""

    code = "permanent"


class EffectUnknown(JobPlatformError):
    """An earlier run may have done this effect, and its kind wants a person to say so: the job is held."""

    code = "effect_unknown"

    def __init__(self, key: str) -> None:
        super().__init__(f"effect {key!r}: an earlier run ended between intent and receipt; did it take place?")
        self.key = key


class Snooze(JobPlatformError):
    """Not now: run again in `seconds`. Does not count as an attempt."""

    code = "snoozed"

    def __init__(self, seconds: float, reason: str = "snoozed by the handler") -> None:
        super().__init__(reason)
        self.seconds = seconds


class Throttled(Snooze):
    """The other side said "not now" (429, a Retry-After): nothing of this limit key begins for so long, and this run
    does not count as an attempt."""

    code = "throttled"

    def __init__(self, key: str, seconds: float, reason: str = "the other side said: not now") -> None:
        super().__init__(seconds, reason)
        self.key = key
