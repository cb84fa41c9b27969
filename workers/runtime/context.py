"""Implementation of the handler's context: every write goes to the ledger with the run's lease."""

from __future__ import annotations

import mimetypes
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from jobplatform.config import Settings
from jobplatform.domain.context import UnknownEffect
from jobplatform.domain.kinds import REGISTRY, Kind
from jobplatform.domain.limits import MOST_UNITS, is_key
from jobplatform.domain.states import Event
from jobplatform.domain.workflows import Part
from jobplatform.errors import (
    ArtifactNotFound,
    InvalidRequest,
    JobCancelled,
    LedgerUnavailable,
    Permanent,
    Retryable,
    UnknownKind,
)
from jobplatform.ledger import runs
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import execute_run
from jobplatform.usecases.add_steps import AddedSteps
from jobplatform.usecases.execute_run import Claim
from jobplatform.usecases.store_artifacts import ArtifactStore, fetch_artifact, keep_output
from workers.runtime.json_values import to_json_values
from workers.runtime.process import ledger

#: progress is written at most this often; the last progress of a run is always written
PROGRESS_SECONDS = 0.25
CANCEL_POLL_SECONDS = 1.0
#: output is written at most this often, and at most this many characters of it per run
OUTPUT_SECONDS = 0.25
MOST_OUTPUT = 1_000_000


#: an effect's key
MAX_EFFECT_CHARACTERS = 255


@dataclass
class RunEffect:
    """See `jobplatform.Effect`."""

    needed: bool
    receipt: Any


class RunContext:
    """See `jobplatform.Context`."""

    def __init__(self, claimed: Claim, kind: Kind, settings: Settings) -> None:
        self._kind = kind
        self._delivery = claimed.delivery
        self.tenant_id = claimed.tenant_id
        self.node = claimed.delivery.node
        self._settings = settings
        self.job_id: UUID = claimed.delivery.job_id
        self.run_no = claimed.run_no
        self.attempt = claimed.attempt
        self.max_attempts = claimed.max_attempts
        #: what the run used (tokens, bytes, …); kept with the run
        self.usage: dict[str, Any] = {}
        #: steps that a success adds to the job's workflow
        self.added = AddedSteps(claimed.delivery, REGISTRY)
        self._written_at = 0.0
        self._unwritten: dict[str, Any] | None = None
        self._asked_at = 0.0
        #: output that is not written yet; characters of output so far
        self._output: list[str] = []
        self._output_size = 0
        self._output_at = 0.0
        self._cancelled = False

    @cached_property
    def workdir(self) -> Path:
        """See `jobplatform.Context.workdir`. Created at its first use: most kinds need none."""
        return Path(tempfile.mkdtemp(prefix=f"run-{self._delivery.lease_id}-"))

    @cached_property
    def _store(self) -> ArtifactStore:
        return ArtifactStore(self._settings.artifact_url)

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """See `jobplatform.Context.progress`. When the ledger is down, progress is lost, not the run."""
        self._unwritten = {"current": current, "total": total, "message": message}
        now = time.monotonic()
        if now - self._written_at >= PROGRESS_SECONDS:
            self._written_at = now
            self._flush()

    def write_progress(self, progress: dict[str, Any]) -> None:
        """Write progress of any shape at once."""
        self._unwritten, self._written_at = progress, time.monotonic()
        self._flush()

    def _flush(self) -> None:
        if self._unwritten is None:
            return
        try:
            execute_run.write_progress(ledger(), self._delivery, self._unwritten)
        except LedgerUnavailable:
            return
        self._unwritten = None

    def finish(self) -> None:
        """Write the last progress and output. A cancel that comes now is too late: the first commit wins."""
        self._flush_output()
        if self._unwritten is not None:
            try:
                self._flush()
            except JobCancelled:
                pass

    def log(self, message: str, **fields: Any) -> None:
        """See `jobplatform.Context.log`."""
        execute_run.write_remark(ledger(), self._delivery, Event.LOG, {"message": message, **fields})

    def output(self, text: str) -> None:
        """See `jobplatform.Context.output`."""
        room = MOST_OUTPUT - self._output_size
        if room <= 0 or not text:
            return
        self._output.append(text[:room])
        self._output_size += len(text[:room])
        now = time.monotonic()
        if now - self._output_at >= OUTPUT_SECONDS or self._output_size >= MOST_OUTPUT:
            self._output_at = now
            self._flush_output()

    def _flush_output(self) -> None:
        """Write the output since the last write. When the ledger is down, this output is lost, not the run."""
        text, self._output = "".join(self._output), []
        if not text:
            return
        try:
            with ledger().statement() as connection:
                data = {"text": text.replace("\x00", "\ufffd")}
                runs.write_remark(connection, self.job_id, self._delivery.lease_id, Event.OUTPUT, data)
        except LedgerUnavailable:
            pass

    def artifact(self, name: str, source: Path | bytes, content_type: str | None = None) -> Mapping[str, Any]:
        """See `jobplatform.Context.artifact`."""
        guessed = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return keep_output(ledger(), self._store, self._delivery, name, source, guessed)

    def fetch_artifact(self, artifact_id: UUID) -> Path:
        """See `jobplatform.Context.fetch_artifact`."""

        def once() -> Path:
            return fetch_artifact(ledger(), self._store, self.tenant_id, artifact_id, self.workdir)

        try:
            artifact: Path = execute_run.retry_until_answered(once, "fetch_artifact", self._delivery)
            return artifact
        except ArtifactNotFound as error:
            raise Permanent(str(error), code=error.code) from None

    def add_steps(self, *parts: Part) -> None:
        """See `jobplatform.Context.add_steps`."""
        try:
            self.added.add(ledger(), parts)
        except (InvalidRequest, UnknownKind) as error:
            fields = [item.as_dict() for item in getattr(error, "errors", ())]
            raise Permanent(f"add_steps: {error}", code=error.code, detail={"errors": fields}) from None

    def acquire(self, key: str, units: int = 1) -> None:
        """See `jobplatform.Context.acquire`."""
        self._check_key(key)
        if not (isinstance(units, int) and 1 <= units <= MOST_UNITS):
            raise Permanent(f"acquire: expected units from 1 to {MOST_UNITS}, got {units!r}", code="invalid_limit_key")
        execute_run.acquire(ledger(), self._delivery, key, units, self.cancelled)

    def pause(self, key: str, seconds: float, reason: str = "") -> None:
        """See `jobplatform.Context.pause`."""
        self._check_key(key)
        execute_run.pause_key(ledger(), self._delivery, key, seconds, reason or f"job {self.job_id}")

    @staticmethod
    def _check_key(key: str) -> None:
        if not is_key(key):
            raise Permanent(f"expected a limit key like 'provider:openai', got {key!r:.100}", code="invalid_limit_key")

    def record_usage(self, **amounts: float) -> None:
        """See `jobplatform.Context.record_usage`."""
        for name, amount in amounts.items():
            whole = float(amount).is_integer()
            self.usage[name] = self.usage.get(name, 0) + (int(amount) if whole else float(amount))

    @contextmanager
    def effect(self, key: str, unknown: UnknownEffect | None = None) -> Iterator[RunEffect]:
        """See `jobplatform.Context.effect`."""
        if not 0 < len(key) <= MAX_EFFECT_CHARACTERS or "\x00" in key:
            expected = f"1 to {MAX_EFFECT_CHARACTERS} characters"
            raise Permanent(f"the key of an effect: expected {expected}, got {key[:60]!r}", code="invalid_effect")
        token = new_id()
        policy = unknown or self._kind.unknown_effects
        needed, receipt = execute_run.begin_effect(ledger(), self._delivery, key, token, policy)
        effect = RunEffect(needed, receipt)
        try:
            yield effect
        except (Retryable, Permanent) as error:
            if needed and not error.may_have_happened:
                execute_run.undo_effect(ledger(), self._delivery, key, token)
            raise
        if needed:
            execute_run.end_effect(ledger(), self._delivery, key, token, to_json_values(effect.receipt))

    def cancelled(self) -> bool:
        """See `jobplatform.Context.cancelled`."""
        now = time.monotonic()
        if not self._cancelled and now - self._asked_at >= CANCEL_POLL_SECONDS:
            self._asked_at = now
            try:
                self._cancelled = execute_run.is_cancelled(ledger(), self._delivery)
            except LedgerUnavailable:
                pass
        return self._cancelled


def remove_leftovers(lease_id: UUID) -> None:
    """Remove the folder of a run whose process was killed. Called by the parent of that process."""
    for folder in Path(tempfile.gettempdir()).glob(f"run-{lease_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_context(claimed: Claim, kind: Kind, settings: Settings) -> Iterator[RunContext]:
    """Open the context of a run; its folder is removed when it ends."""
    context = RunContext(claimed, kind, settings)
    try:
        yield context
    finally:
        if "workdir" in context.__dict__:
            shutil.rmtree(context.workdir, ignore_errors=True)
