"""Checks of what the built-in kinds need (mail relay, ffmpeg, model server, storage), and of contradictory settings."""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Iterator
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jobplatform.broker.topology import job_queue_arguments
from jobplatform.config import Settings
from jobplatform.doctor.finding import Finding, failed, ok, warning
from jobplatform.domain.kinds import KindRegistry

SECONDS = 3.0
#: free share of the artifact store's disk below which the doctor warns
LEAST_FREE_BYTES, LEAST_FREE = 1_000_000_000, 0.05


def check_outside(config: Settings, kinds: KindRegistry) -> Iterator[Finding]:
    """Yield findings on the services that the registered kinds use, as seen from this machine."""
    yield _storage(config)
    if "email.send" in kinds:
        yield _mail(config)
    if "video.transcode" in kinds:
        yield _ffmpeg()
    if "llm.chat" in kinds:
        yield _models(config)


def _storage(config: Settings) -> Finding:
    name = f".doctor-{uuid.uuid4().hex}"
    try:
        system, root = fsspec.core.url_to_fs(config.artifact_url)
        system.makedirs(root, exist_ok=True)
        path = f"{root.rstrip('/')}/{name}"
        with system.open(path, "wb") as file:
            file.write(b"doctor")
        with system.open(path, "rb") as file:
            same = file.read() == b"doctor"
        system.rm(path)
    except Exception as error:  # each store raises its own errors
        return failed("storage", f"{config.artifact_url}: {error!r}", "mend JOBPLATFORM_ARTIFACT_URL, or its rights")
    if not same:
        return failed("storage", f"{config.artifact_url} gives back other bytes", "look at the store")
    if not isinstance(system, LocalFileSystem):
        return ok("storage", f"{config.artifact_url} can be written, read and deleted")
    usage = shutil.disk_usage(root)
    line = f"{config.artifact_url} can be written; {usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB are free"
    if usage.free < max(LEAST_FREE_BYTES, usage.total * LEAST_FREE):
        return warning(
            "storage", line, "free space, shorten JOBPLATFORM_HISTORY_DAYS, or move JOBPLATFORM_ARTIFACT_URL"
        )
    return ok("storage", line)


def _mail(config: Settings) -> Finding:
    parts = urlsplit(config.smtp_url.get_secret_value())
    if parts.scheme == "null":
        return warning("mail", "JOBPLATFORM_SMTP_URL is null: no mail is sent")
    address = (parts.hostname or "localhost", parts.port or (465 if parts.scheme == "smtps" else 25))
    try:
        with socket.create_connection(address, SECONDS) as connection:
            connection.settimeout(SECONDS)
            greeting = connection.recv(200) if parts.scheme == "smtp" else b"220"
    except OSError as error:
        return failed("mail", f"{address[0]}:{address[1]} can't be reached: {error}", "mend JOBPLATFORM_SMTP_URL")
    if not greeting.startswith(b"220"):
        return failed(
            "mail", f"{address[0]}:{address[1]} says {greeting[:60]!r}, expected 220", "is that a mail server?"
        )
    return ok("mail", f"{address[0]}:{address[1]} answers")


def _ffmpeg() -> Finding:
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if missing:
        return warning(
            "ffmpeg", f"not on this machine: {', '.join(missing)}; workers of video want it", "apt-get install ffmpeg"
        )
    return ok("ffmpeg", f"{shutil.which('ffmpeg')}")


def _models(config: Settings) -> Finding:
    address = config.llm_base_url.rstrip("/") + "/models"
    if config.llm_base_url.startswith("null:"):
        return warning("model server", "JOBPLATFORM_LLM_BASE_URL is null: nothing is answered")
    request = Request(address, headers={"Authorization": f"Bearer {config.llm_api_key.get_secret_value()}"})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            return ok("model server", f"{address} answers {answer.status}")
    except HTTPError as error:
        if error.code in (401, 403):
            return failed("model server", f"{address} answers {error.code}", "mend JOBPLATFORM_LLM_API_KEY")
        return ok("model server", f"{address} answers {error.code}: it is there")
    except (URLError, OSError, ValueError) as error:
        return failed("model server", f"{address}: {error}", "start it, or mend JOBPLATFORM_LLM_BASE_URL")


def check_settings(config: Settings, kinds: KindRegistry) -> Iterator[Finding]:
    """Yield findings on settings that contradict each other; invalid ones are refused when they are read."""
    wrong = []
    patience = job_queue_arguments("quorum")["x-consumer-timeout"] / 1000
    for kind in kinds:
        queue = config.queues.get(kind.queue)
        if queue is None:
            wrong.append((f"kind {kind.name} is of queue {kind.queue}, which is not in JOBPLATFORM_QUEUES", "add it"))
        elif kind.hard_limit_seconds and kind.hard_limit_seconds * queue.prefetch > patience:
            wrong.append(
                (
                    f"kind {kind.name} may run {kind.hard_limit_seconds:.0f} s, queue {kind.queue} has a prefetch of "
                    f"{queue.prefetch}: RabbitMQ takes a message back after {patience:.0f} s",
                    "set its prefetch to 1",
                )
            )
        elif kind.hard_limit_seconds and queue.prefetch > 1 and kind.hard_limit_seconds > 3600:
            wrong.append((f"queue {kind.queue} has a prefetch of {queue.prefetch} and jobs of hours", "set it to 1"))
    if config.cancel_grace_seconds > config.lease_seconds * 10:
        wrong.append(("cancel_grace_seconds is much longer than a lease: a cancelled run keeps its slot", "lower it"))
    for message, remedy in wrong:
        yield warning("settings", message, remedy)
    if not wrong:
        yield ok("settings", "none contradicts another")
