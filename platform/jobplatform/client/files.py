"""State and integrity of uploads and downloads, without network I/O."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jobplatform.client.errors import ClientError
from jobplatform.client.models import Artifact

CHUNK = 256 * 1024
#: a slower connection counts as dead (bytes/s)
SLOWEST = 100_000
PARTIAL_CONTENT = 206

#: called with bytes transferred and total
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Upload:
    """An upload; its file is opened again for each attempt."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]

    @property
    def patience(self) -> float:
        """The time-out of sending it (s)."""
        return self.size / SLOWEST

    def sent(self, count: int, on_progress: Progress | None) -> None:
        """Report how much has been sent."""
        if on_progress is not None:
            on_progress(count, self.size)


def open_upload(source: Path | bytes, filename: str | None) -> Upload:
    """Return an upload of a file, or of bytes. Raises `OSError` when the file can't be read."""
    if isinstance(source, bytes):
        return Upload(filename or "upload", len(source), lambda: io.BytesIO(source))
    return Upload(filename or source.name, source.stat().st_size, lambda: source.open("rb"))


class Download:
    """A download; kept beside its target until it is complete."""

    def __init__(self, artifact: Artifact, target: Path) -> None:
        self._artifact, self._target = artifact, target
        self._part = target.with_name(target.name + ".part")
        self._part.unlink(missing_ok=True)
        self._came = 0
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether it is complete."""
        return self._ended or (self._came >= self._artifact.size > 0)

    def headers(self) -> dict[str, str]:
        """Return the headers that request the missing part."""
        return {"Range": f"bytes={self._came}-"} if self._came else {}

    def open(self, status: int) -> IO[bytes]:
        """Open the partial file to append the rest, or to overwrite it when the server sends the whole."""
        if status != PARTIAL_CONTENT:
            self._came = 0
        self._ended = self._artifact.size == 0
        return self._part.open("ab" if status == PARTIAL_CONTENT else "wb")

    def came(self, count: int, on_progress: Progress | None) -> None:
        """Report how much has arrived."""
        self._came = count
        if on_progress is not None:
            on_progress(count, self._artifact.size)

    def finish(self) -> Path:
        """Move it to its target. Raises `ClientError` when its SHA-256 differs."""
        with self._part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self._artifact.sha256:
            raise ClientError(
                f"{self._artifact.name}: expected the SHA-256 {self._artifact.sha256}, got {digest}; "
                f"it is left as {self._part}"
            )
        return self._part.replace(self._target)
