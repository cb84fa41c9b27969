"""Open event streams: the memory that they use, and their effect on other requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil

from bench.accept import BODY
from bench.load import run_wrk
from bench.sides import Ours
from jobplatform.client import Client, JobRequest
from jobplatform.devstack.processes import marked, wait_for, wait_gone
from jobplatform.devstack.stack import Stack


def measure(stack: Stack, ours: Ours, streams: int, seconds: int) -> dict[str, dict[str, float]]:
    """Return work → case → figure, without and with `streams` open streams, on one start of the API.

    Each stream follows its own job, which does not end meanwhile. Jobs accepted meanwhile belong to the same tenant.
    """
    process = stack.start_api()
    result: dict[str, dict[str, float]] = {}
    try:
        stack.wait_answers("API", stack.local_url("api", "/readyz"), process, "api")
        with Client(stack.local_url("api"), ours.key) as client:
            requests = (JobRequest("bench.noop", {"n": n}, priority=0) for n in range(streams))
            ids = [str(job_id) for job_id in client.submit_many(requests)]
        url, key, folder = stack.local_url("api"), ours.key, stack.instance.folder
        run_wrk(folder, f"{url}/v1/jobs", 1, body=BODY, key=key)
        for case, number in (("no stream", 0), (f"{streams} streams", streams)):
            with _following(url, key, ids[:number]):
                accepted = run_wrk(folder, f"{url}/v1/jobs", seconds, body=BODY, key=key)
                alive = run_wrk(folder, f"{url}/healthz", seconds)
                read = run_wrk(folder, f"{url}/v1/jobs/{ids[0]}", seconds, key=key)
                for work, value in (
                    ("accept beside streams (req/s)", accepted.per_second),
                    ("accept beside streams, p99 (ms)", accepted.p99_ms),
                    ("healthz beside streams, p99 (ms)", alive.p99_ms),
                    ("status read beside streams (req/s)", read.per_second),
                    ("memory of the API's processes (MB)", _memory(stack)),
                ):
                    result.setdefault(work, {})[case] = value
    finally:
        process.terminate()
        wait_gone([process.pid], 20)
    ours.clear()
    return result


def _memory(stack: Stack) -> float:
    pids = [pid for pid, name in marked(stack.instance).items() if name == "api"]
    return float(sum(psutil.Process(pid).memory_full_info().uss for pid in pids)) / 1e6


@contextmanager
def _following(url: str, key: str, ids: list[str]) -> Iterator[None]:
    """Keep a stream open for each job and read its events, from an event loop in its own thread."""
    if not ids:
        yield
        return
    position = urlsplit(url)
    loop = asyncio.new_event_loop()
    opened: set[str] = set()

    async def follow(job_id: str) -> None:
        reader, writer = await asyncio.open_connection(position.hostname, position.port)
        head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b"event: submitted"):
                    opened.add(job_id)
        finally:
            writer.close()

    async def follow_all() -> None:
        await asyncio.gather(*(follow(job_id) for job_id in ids))

    task = loop.create_task(follow_all())
    thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
    thread.start()
    try:
        wait_for(f"{len(ids)} streams", lambda: len(opened) == len(ids), seconds=60)
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()
