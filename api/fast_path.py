"""`POST /v1/jobs` without Flask, in batches: the one request that teams make for every job.

Requests that arrive during a commit are written together by the next one (group commit): one round trip, one commit
and one wake-up of Postgres for all of them. No request is answered before the commit of its job (I1), and at low load
no request waits for another. Validation and answers are the endpoint's own code; a request with other features goes
through Flask (docs/operations/performance.md has the figures).
"""

from __future__ import annotations

import asyncio
import time
from typing import IO, Any

from api import problems
from api.auth import PLAIN_BYTES
from api.metrics import count_request
from api.problems import Reply
from api.services import Services
from api.threads import RequestThreads
from api.v1.jobs import SubmitRequest, read_command, reply_to
from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobPlatformError
from jobplatform.usecases.admit import read_key
from jobplatform.usecases.submit_job import ApiKey, CheckedSubmission, check_submission, submit_checked

PATH = "/v1/jobs"
JSON = ("content-type", "application/json")
#: maximum number of jobs per commit
BATCH = 200


class FastPath:
    """Accepts plain submissions on the event loop, with one thread that writes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: list[tuple[ApiKey, CheckedSubmission, asyncio.Future[JobView | None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = RequestThreads(1)

    async def answer(self, scope: Any, body: IO[bytes] | bytes) -> Reply | None:
        """Return status, headers and body; None when the request has to go through Flask."""
        if scope.path != PATH or scope.method != "POST" or not isinstance(body, bytes) or len(body) > PLAIN_BYTES:
            return None
        headers = scope.headers
        authorization = headers.get("authorization")
        if authorization is None or "idempotency-key" in headers:
            return None
        media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        try:
            caller = ApiKey(read_key(authorization))
            command = read_command(self._services.kinds, SubmitRequest(body, media_type, authorization, None))
            if command.unique is not None:
                return None  # it may have to wait for another submission
            checked = check_submission(self._services.kinds, command)
        except Exception:
            return None  # Flask finds the error again, checks the key first, and reports it in full
        began = time.perf_counter()
        try:
            job = await self._write(caller, checked)
            if job is None:
                return None
            status, content, more = reply_to(job, created=True)
            reply = status, [JSON, *more], content
        except JobPlatformError as error:
            reply = problems.as_reply(problems.from_error(error))
        except Exception as error:
            reply = problems.as_reply(problems.from_bug(error, PATH))
        count_request("submit_job", "POST", reply[0], time.perf_counter() - began)
        return reply

    async def _write(self, caller: ApiKey, submission: CheckedSubmission) -> JobView | None:
        future: asyncio.Future[JobView | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((caller, submission, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await future

    async def _write_all(self) -> None:
        """Write all waiting requests, and those that have arrived meanwhile, until none waits."""
        has = self._services
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            submissions = [(caller, submission) for caller, submission, _ in batch]
            try:
                jobs = await self._thread.run(submit_checked, has.ledger, has.hints, submissions)
            except Exception as error:
                # one submission that the ledger refuses must not fail the others: each goes through Flask alone
                alone = getattr(error, "pgcode", None) is not None
                for _, _, future in batch:
                    if not future.done():
                        future.set_result(None) if alone else future.set_exception(error)
                continue
            for (_, _, future), job in zip(batch, jobs, strict=True):
                if not future.done():
                    future.set_result(job)
