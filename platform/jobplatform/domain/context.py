"""What a handler may do besides computing: the one seam between a kind's code and the platform."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

from jobplatform.domain.workflows import Part

UnknownEffect = Literal["repeat", "skip", "hold"]


class Effect(Protocol):
    """Something done to the outside world, inside a `ctx.effect` block."""

    #: whether to do it; False when an earlier run has, or when it is skipped
    needed: bool
    #: what the other side said, as JSON values: set it when the effect is done, read it when it was done before
    receipt: Any


class Context(Protocol):
    """Handed to every handler. All writes carry the run's lease and are refused once it is lost (I4)."""

    job_id: UUID
    #: number of this run; rises with every run and never repeats
    run_no: int
    #: number of this attempt, counted against the kind's retry policy, from 1
    attempt: int
    max_attempts: int

    @property
    def workdir(self) -> Path:
        """An empty folder of this run, removed when it ends."""
        ...

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the run is. Writes at most a few times a second; cheap to call often.

        Raises `LeaseLost` when this run no longer counts and `JobCancelled` when the job was called off.
        """
        ...

    def log(self, message: str, **fields: Any) -> None:
        """Append a line to the job's history, to be seen in `GET /v1/jobs/{id}/events`."""
        ...

    def output(self, text: str) -> None:
        """Stream a piece of the result (a model's tokens, a tool's lines) to those who follow the job; written at most
        four times a second, a million characters per run. The result is what the handler returns, as ever.
        """
        ...

    def artifact(self, name: str, source: Path | bytes, content_type: str | None = None) -> Mapping[str, Any]:
        """Keep a file as output of the job; returns `{id, name, size, sha256, content_type}`."""
        ...

    def fetch_artifact(self, artifact_id: UUID) -> Path:
        """Return a local copy of an upload or of another job's artifact, of the same tenant.

        Raises `Permanent` when there is none.
        """
        ...

    def effect(self, key: str, unknown: UnknownEffect | None = None) -> AbstractContextManager[Effect]:
        """Do something once that can't be undone, however many runs the job takes::

            with ctx.effect("charge-42") as effect:
                if effect.needed:
                    effect.receipt = bank.charge(...)

        The intent is committed before the block, the receipt after it. An exception leaves the effect unknown, but
        `Retryable` and `Permanent` without `may_have_happened`: then it has not taken place. Where a run before ended
        in between, `unknown` decides (default: the kind's): `repeat` it (the other side can tell a repetition),
        `skip` it, or `hold` the job for a person.

        Raises `LeaseLost`, and `EffectUnknown` to hold the job: let it pass.
        """
        ...

    def cancelled(self) -> bool:
        """Return whether the job was called off (asks the ledger at most once a second)."""
        ...

    def add_steps(self, *parts: Part) -> None:
        """Add steps to the job's workflow (it becomes one, where it is none): written when this run succeeds, and only
        then. What waits for this step waits for them too, and has what they return as `step.results`::

            ctx.add_steps(*(step("acme.page", {"page": n}) for n in range(pages)))

        Raises `Permanent` when they can't work.
        """
        ...

    def acquire(self, key: str, units: int = 1) -> None:
        """Wait until a limit key has units for a call inside this run, and take them: for runs that make many (a
        hundred thousand mails, ten thousand prompts). A key without a rate or a hold is free.

        Raises `Permanent` when the key never has so many, `LeaseLost` and `JobCancelled`.
        """
        ...

    def pause(self, key: str, seconds: float, reason: str = "") -> None:
        """Let nothing of a limit key begin for so long (what a Retry-After says); this run goes on."""
        ...

    def record_usage(self, **amounts: float) -> None:
        """Add to what this run used (tokens, bytes, …); kept with the run for reports and bills."""
        ...
