"""Errors of a request: invalid content, unknown names, states that forbid it."""

from __future__ import annotations

from jobplatform.errors.base import FieldError, JobPlatformError


class InvalidRequest(JobPlatformError):
    """The request has fields that are not as expected."""

    code = "invalid_request"
    status = 422

    def __init__(self, message: str | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class InvalidPayload(InvalidRequest):
    """The payload does not fit the schema of its kind."""

    code = "invalid_payload"


class UnknownKind(JobPlatformError):
    """No such kind is registered."""

    code = "unknown_kind"
    status = 422

    def __init__(self, name: str, known: list[str], suggestion: str | None = None) -> None:
        hint = f"did you mean {suggestion!r}?" if suggestion else f"known kinds: {', '.join(known) or 'none'}"
        super().__init__(f"unknown kind {name!r}: {hint}")
        self.name, self.known, self.suggestion = name, known, suggestion


class JobNotFound(JobPlatformError):
    """No such job."""

    code = "job_not_found"
    status = 404

    def __init__(self, job_id: object) -> None:
        super().__init__(f"no job with id {job_id}; expected the id of a job that this API key's tenant submitted")
        self.job_id = job_id


class ReplayNotFound(JobPlatformError):
    """No such replay."""

    code = "replay_not_found"
    status = 404

    def __init__(self, replay_id: object) -> None:
        super().__init__(f"no replay with id {replay_id}; expected the id that POST /v1/dead-letters/replay answered")
        self.replay_id = replay_id


class ArtifactNotFound(JobPlatformError):
    """No such artifact."""

    code = "artifact_not_found"
    status = 404

    def __init__(self, artifact_id: object) -> None:
        super().__init__(f"no artifact with id {artifact_id}")
        self.artifact_id = artifact_id


class NotCancellable(JobPlatformError):
    """The job has ended and can't be cancelled any more."""

    code = "not_cancellable"
    status = 409

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that has not ended")
        self.state = state


class DuplicateJob(JobPlatformError):
    """Another live job has this unique key."""

    code = "duplicate_job"
    status = 409

    def __init__(self, key: str, job_id: object) -> None:
        super().__init__(
            f"job {job_id} has the unique key {key!r}: wait until it has ended, or submit without `refuse`"
        )
        self.job_id = job_id


class EffectNotFound(JobPlatformError):
    """The job has no such effect whose outcome is unknown."""

    code = "effect_not_found"
    status = 409

    def __init__(self, job_id: object, key: str) -> None:
        super().__init__(f"job {job_id} is not held by an effect {key!r}: see GET /v1/jobs/{job_id}/effects")
        self.key = key


class NotReplayable(JobPlatformError):
    """Only a job that is dead, cancelled or expired can be replayed."""

    code = "not_replayable"
    status = 409

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is dead, cancelled or expired")
        self.state = state


class StepNotReplayable(NotReplayable):
    """This step was cancelled with its workflow, and is replayed with it."""

    code = "step_not_replayable"

    def __init__(self, job_id: object, state: str) -> None:
        JobPlatformError.__init__(
            self,
            f"job {job_id} is {state} with its workflow: replay the workflow (POST /v1/workflows/{{id}}/replay), or "
            f"the step of it that failed",
        )
        self.state = state


class StepIdTaken(JobPlatformError):
    """A step was submitted with the id of another job."""

    code = "step_id_taken"

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"a task of this canvas has an id that was used before ({detail}): expected new ids. A canvas that was "
            f"applied or frozen can't be applied again: create another one"
        )


class WorkflowNotFound(JobPlatformError):
    """No such workflow."""

    code = "workflow_not_found"
    status = 404

    def __init__(self, workflow_id: object) -> None:
        super().__init__(
            f"no workflow with id {workflow_id}; expected the id of a workflow that this API key's tenant submitted"
        )
        self.workflow_id = workflow_id


class WorkflowHasEnded(JobPlatformError):
    """The workflow has ended and can't be cancelled any more."""

    code = "workflow_has_ended"
    status = 409

    def __init__(self, workflow_id: object, state: str) -> None:
        super().__init__(f"workflow {workflow_id} is {state}: expected one that runs")
        self.state = state


class WorkflowNotReplayable(JobPlatformError):
    """Only a workflow that has failed or was cancelled can be replayed."""

    code = "workflow_not_replayable"
    status = 409

    def __init__(self, workflow_id: object, why: str) -> None:
        super().__init__(f"workflow {workflow_id} {why}")


class ScheduleNotFound(JobPlatformError):
    """No such schedule."""

    code = "schedule_not_found"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"no schedule named {name!r}; expected one of GET /v1/schedules")
        self.name = name


class NotDiscardable(JobPlatformError):
    """Only a job that is dead or held can be discarded."""

    code = "not_discardable"
    status = 409

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is dead or held; others can be cancelled")
        self.state = state


class NotChangeable(JobPlatformError):
    """Priority and run_at can be changed only while the job is not running."""

    code = "not_changeable"
    status = 409

    def __init__(self, job_id: object, state: str) -> None:
        super().__init__(f"job {job_id} is {state}: expected a job that is scheduled, available or dispatched")
        self.state = state


class IdempotencyConflict(JobPlatformError):
    """This Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"
    status = 422


class IdempotencyInProgress(JobPlatformError):
    """A request with this Idempotency-Key is in progress; retry in a moment."""

    code = "idempotency_in_progress"
    status = 409


class NotJson(JobPlatformError):
    """The body is not JSON."""

    code = "not_json"
    status = 400


class UnnamedSubmission(JobPlatformError):
    """A submission over AMQP needs the properties user_id and message_id."""

    code = "unnamed_submission"

    def __init__(self) -> None:
        super().__init__(
            "expected the properties user_id (the connection's user, named as the tenant) and message_id "
            "(1 to 250 characters; a message with the same id is the same submission)"
        )
