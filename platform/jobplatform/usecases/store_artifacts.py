"""Artifacts and uploads: bytes in the artifact store, their record in the ledger.

The bytes are written first, then the record, so that a record never names missing bytes. A crash in between leaves an
orphan file, which is harmless.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from uuid import UUID

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobplatform.errors import (
    ArtifactNotFound,
    JobPlatformError,
    LeaseLost,
    LedgerUnavailable,
    StorageFull,
    StorageUnavailable,
)
from jobplatform.ledger import artifacts
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.execute_run import Delivery, retry_until_answered

CHUNK_BYTES = 1024 * 1024
#: maximum length of a file name; most file systems allow 255 bytes
MAX_NAME_BYTES = 200


#: no space, over quota, read-only file system (errno.h)
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate the store's errors to ours: every type of store has its own."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"{error.strerror} in {url}: free space, or move JOBPLATFORM_ARTIFACT_URL") from error
        raise StorageUnavailable(f"{url}: {error}") from error
    except JobPlatformError:
        raise
    except Exception as error:  # botocore's, say
        raise StorageUnavailable(f"{url}: {error!r}") from error


@contextmanager
def _closed(target: Any, url: str) -> Iterator[None]:
    """Close a file at the end: buffered data is written then, and the store may be full."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            target.close()
        raise
    with _translated(url):
        target.close()


class ArtifactStore:
    """Files below one URL: `file:///…`, or `s3://…` where s3fs is installed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._files, self._root = fsspec.core.url_to_fs(self._url)

    def write(self, location: str, source: IO[bytes]) -> tuple[int, str]:
        """Copy a stream to `location`; returns (bytes, sha256). Leaves nothing behind when it fails.

        Raises `StorageFull` or `StorageUnavailable` for the store's errors; errors of `source` are passed on.
        """
        path = f"{self._root}/{location}"
        digest, size = hashlib.sha256(), 0
        try:
            with _translated(self._url):
                self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                target = self._files.open(path, "wb")
            with _closed(target, self._url):
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    with _translated(self._url):
                        target.write(chunk)
        except BaseException:
            self.remove(location)
            raise
        return size, digest.hexdigest()

    def local_path(self, location: str) -> Path | None:
        """Return the path of a file on this machine; None in a remote store, or if it is missing."""
        if not isinstance(self._files, LocalFileSystem):
            return None
        path = Path(self._root) / location
        return path if path.is_file() else None

    def remove(self, location: str) -> None:
        """Remove a file that may be missing."""
        try:
            self._files.rm_file(f"{self._root}/{location}")
        except (FileNotFoundError, OSError):
            pass

    def remove_surely(self, location: str) -> None:
        """Remove a file, or raise the store's error. A missing file counts as removed if the store itself exists."""
        if isinstance(self._files, LocalFileSystem) and not Path(self._root).is_dir():
            raise FileNotFoundError(f"the artifact store {self._root} is not there: is it mounted?")
        try:
            self._files.rm_file(f"{self._root}/{location}")
        except FileNotFoundError:
            pass

    def read(self, location: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to, not including, `end`. Raises `ArtifactNotFound` for a missing file."""
        try:
            source = self._files.open(f"{self._root}/{location}", "rb")
        except FileNotFoundError:
            raise ArtifactNotFound(location.rsplit("/", 1)[-1]) from None
        with source:
            source.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                chunk = source.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk


def free_bytes(url: str) -> int | None:
    """Return the free space of a store on this machine, in bytes; None for a remote or missing store."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        return None
    try:
        return shutil.disk_usage(parts.path).free
    except OSError:
        return None


def safe_name(name: str) -> str:
    """Return a file name without folders or control characters; "file" when nothing is left."""
    last = re.split(r"[\\/]", name)[-1]
    clean = re.sub(r"[\x00-\x1f\x7f]", "", last).strip(". ")
    stem, dot, suffix = clean.rpartition(".")
    room = MAX_NAME_BYTES - len(suffix.encode()) - 1
    if len(clean.encode()) > MAX_NAME_BYTES and dot and room > 0:  # file systems count bytes; the suffix is kept
        clean = stem.encode()[:room].decode(errors="ignore") + "." + suffix
    return clean.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "file"


def keep_upload(
    ledger: Ledger, store: ArtifactStore, tenant_id: UUID, name: str, content_type: str, source: IO[bytes]
) -> dict[str, Any]:
    """Store an upload; returns its `{id, name, size, sha256, content_type}`."""
    artifact_id = new_id()
    location = f"uploads/{tenant_id}/{artifact_id}"
    size, sha256 = store.write(location, source)
    values = {
        "id": artifact_id,
        "tenant_id": tenant_id,
        "name": safe_name(name),
        "content_type": content_type,
        "size": size,
        "sha256": sha256,
        "location": location,
    }
    try:
        with ledger.transaction() as connection:
            artifacts.insert_upload(connection, values)
    except LedgerUnavailable:
        store.remove(location)
        raise
    return _public(values)


def keep_output(
    ledger: Ledger, store: ArtifactStore, delivery: Delivery, name: str, source: Path | bytes, content_type: str
) -> dict[str, Any]:
    """Store a run's output; returns the same as `keep_upload`. Waits for the ledger, so that no output is lost.

    Raises `LeaseLost`; the file is removed again then.
    """
    artifact_id = new_id()
    location = f"jobs/{delivery.job_id}/{artifact_id}"
    if isinstance(source, bytes):
        size, sha256 = store.write(location, io.BytesIO(source))
    else:
        with source.open("rb") as stream:
            size, sha256 = store.write(location, stream)
    values = {
        "id": artifact_id,
        "job_id": delivery.job_id,
        "lease_id": delivery.lease_id,
        "name": safe_name(name),
        "content_type": content_type,
        "size": size,
        "sha256": sha256,
        "location": location,
    }

    def once() -> bool:
        with ledger.transaction() as connection:
            return artifacts.insert_output(connection, values)

    if not retry_until_answered(once, "keep_output", delivery):
        store.remove(location)
        raise LeaseLost()
    return _public(values)


def sweep_removals(ledger: Ledger, url: str, limit: int = 100) -> int:
    """Remove unreferenced files from the store at `url`; returns how many. Safe for concurrent callers.

    The record is deleted after the file. After a crash in between the file is removed again; if removing fails,
    it is retried later. Raises a `LedgerUnavailable`, or the store's own error if no file could be removed.
    """
    with ledger.statement() as connection:
        locations = artifacts.removals(connection, limit)
    if not locations:
        return 0
    store, removed, failure = ArtifactStore(url), [], None
    for location in locations:
        try:
            store.remove_surely(location)
        except Exception as error:  # whatever the store's library raises: this file must not delay the others
            failure = error
        else:
            removed.append(location)
    with ledger.statement() as connection:
        artifacts.note_removed(connection, removed)
    if failure is not None and not removed:
        raise failure
    return len(removed)


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(values["id"]),
        "name": values["name"],
        "size": values["size"],
        "sha256": values["sha256"],
        "content_type": values["content_type"],
    }


def find_artifact(ledger: Ledger, tenant_id: UUID, artifact_id: UUID) -> dict[str, Any]:
    """Return an artifact's record. Raises `ArtifactNotFound`, also for another tenant's artifact."""
    with ledger.statement() as connection:
        row = artifacts.get_artifact(connection, tenant_id, artifact_id)
    if row is None:
        raise ArtifactNotFound(artifact_id)
    return dict(row._mapping)


def fetch_artifact(ledger: Ledger, store: ArtifactStore, tenant_id: UUID, artifact_id: UUID, folder: Path) -> Path:
    """Copy an artifact of the tenant to a local file with its name, in a separate folder below `folder`.

    Raises `ArtifactNotFound`.
    """
    record = find_artifact(ledger, tenant_id, artifact_id)
    target = folder / str(artifact_id) / safe_name(record["name"])
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as stream:
        for chunk in store.read(record["location"]):
            stream.write(chunk)
    return target
