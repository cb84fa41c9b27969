"""The handler's context: the interface between a kind's code and the platform."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

from jobplatform.domain.workflows import Part

UnknownEffect = Literal["repeat", "skip", "hold"]


class Effect(Protocol):
    """A side effect on another system, inside a `ctx.effect` block."""

    #: whether to do it; False if an earlier run did it, or if it is skipped
    needed: bool
    #: response of the other system, as JSON values: set it after the effect, read it if the effect was done before
    receipt: Any


class Context(Protocol):
    """Passed to every handler. All writes carry the run's lease and are refused once it is lost (I4)."""

    job_id: UUID
    #: number of this run; increases with every run and never repeats
    run_no: int
    #: number of this attempt, counted against the kind's retry policy, from 1
    attempt: int
    max_attempts: int

    @property
    def workdir(self) -> Path:
        """An empty folder of this run, removed when it ends."""
        ...

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress. Writes at most a few times a second; cheap to call often.

        Raises `LeaseLost` when this run has lost its lease, and `JobCancelled` when the job was cancelled.
        """
        ...

    def log(self, message: str, **fields: Any) -> None:
        """Append a line to the job's history (`GET /v1/jobs/{id}/events`)."""
        ...

    def output(self, text: str) -> None:
        """Stream a piece of the result (a model's tokens, a tool's lines) to the job's followers; written at most
        four times a second, up to a million characters per run. It does not replace the handler's return value.
        """
        ...

    def artifact(self, name: str, source: Path | bytes, content_type: str | None = None) -> Mapping[str, Any]:
        """Store a file as output of the job; returns `{id, name, size, sha256, content_type}`."""
        ...

    def fetch_artifact(self, artifact_id: UUID) -> Path:
        """Return a local copy of an upload or of another job's artifact, of the same tenant.

        Raises `Permanent` if it does not exist.
        """
        ...

    def effect(self, key: str, unknown: UnknownEffect | None = None) -> AbstractContextManager[Effect]:
        """Do something irreversible once, however many runs the job takes::

            with ctx.effect("charge-42") as effect:
                if effect.needed:
                    effect.receipt = bank.charge(...)

        The intent is committed before the block, the receipt after it. An exception leaves the outcome unknown, except
        `Retryable` and `Permanent` without `may_have_happened`: then it has not taken place. If an earlier run ended
        in between, `unknown` decides (default: the kind's): `repeat` it (the other system is idempotent),
        `skip` it, or `hold` the job for an operator.

        Raises `LeaseLost`, and `EffectUnknown` to hold the job; do not catch it.
        """
        ...

    def cancelled(self) -> bool:
        """Return whether the job was cancelled (reads the ledger at most once a second)."""
        ...

    def add_steps(self, *parts: Part) -> None:
        """Add steps to the job's workflow (a plain job becomes one). They are written when this run succeeds, and only
        then. Steps that wait for this one wait for them too, and refer to their results as `step.results`::

            ctx.add_steps(*(step("acme.page", {"page": n}) for n in range(pages)))

        Raises `Permanent` if they are invalid.
        """
        ...

    def acquire(self, key: str, units: int = 1) -> None:
        """Wait until a limit key has units for a call inside this run, and take them: for runs that make many (a
        hundred thousand mails, ten thousand prompts). A key without a rate that is not paused never waits.

        Raises `Permanent` when the key can never have so many, `LeaseLost` and `JobCancelled`.
        """
        ...

    def pause(self, key: str, seconds: float, reason: str = "") -> None:
        """Pause a limit key, for instance after a Retry-After: no job that uses it starts. This run continues."""
        ...

    def record_usage(self, **amounts: float) -> None:
        """Add to the usage of this run (tokens, bytes, …), stored for reports and billing."""
        ...
