"""What a handler may do besides computing: the one seam between a kind's code and the platform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID


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

    def artifact(self, name: str, source: Path | bytes, content_type: str | None = None) -> Mapping[str, Any]:
        """Keep a file as output of the job; returns `{id, name, size, sha256, content_type}`."""
        ...

    def fetch_artifact(self, artifact_id: UUID) -> Path:
        """Return a local copy of an upload or of another job's artifact, of the same tenant.

        Raises `Permanent` when there is none.
        """
        ...

    def cancelled(self) -> bool:
        """Return whether the job was called off (asks the ledger at most once a second)."""
        ...

    def record_usage(self, **amounts: float) -> None:
        """Add to what this run used (tokens, bytes, …); kept with the run for reports and bills."""
        ...
