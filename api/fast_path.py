"""`POST /v1/jobs` and `GET /v1/jobs/{id}` without Flask, in groups: the two requests that teams make for every job.

Requests that arrive while the ledger answers others go together in the next call: one round trip, one wake-up of
Postgres, and for submissions one commit, for all of them. At low load no request waits for another. No submission is
answered before the commit of its job (I1), and a read sees all that was committed before its request arrived.
Validation and answers are the endpoints' own code; a request with other features goes through Flask
(docs/operations/performance.md has the figures).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Generic, TypeVar
from uuid import UUID

from werkzeug.http import generate_etag, parse_etags

from api import problems
from api.auth import PLAIN_BYTES
from api.metrics import count_request
from api.pages import NO_SNIFFING
from api.problems import Reply
from api.responses import REVALIDATE, as_json
from api.services import Services
from api.threads import RequestThreads
from api.v1.jobs import SubmitRequest, read_command, reply_to
from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobPlatformError
from jobplatform.usecases.admit import read_key
from jobplatform.usecases.read_jobs import get_plain_jobs
from jobplatform.usecases.submit_job import ApiKey, CheckedSubmission, check_submission, submit_checked

I = TypeVar("I")  # noqa: E741 - an item
O = TypeVar("O")  # noqa: E741 - its outcome

PATH = "/v1/jobs"
JSON = ("content-type", "application/json")
#: maximum number of requests per call of the ledger
BATCH = 200
_JOB = re.compile(r"/v1/jobs/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")


class Grouped(Generic[I, O]):
    """Calls a function, in a thread of its own, with all items that arrived during its last call."""

    def __init__(self, call: Callable[[Sequence[I]], Sequence[O | None]]) -> None:
        self._call = call
        self._waiting: list[tuple[I, asyncio.Future[O | None]]] = []
        self._running: asyncio.Task[None] | None = None
        self._thread = RequestThreads(1)

    async def outcome(self, item: I) -> O | None:
        """Return the outcome of an item. Raises what the call raises; None if the ledger refused the whole group."""
        future: asyncio.Future[O | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        """Call for all waiting items, and for those that have arrived meanwhile, until none waits."""
        while self._waiting:
            group, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                outcomes = await self._thread.run(self._call, [item for item, _ in group])
            except Exception as error:
                # one item that the ledger refuses must not fail the others: each goes through Flask alone
                alone = getattr(error, "pgcode", None) is not None
                for _, future in group:
                    if not future.done():
                        future.set_result(None) if alone else future.set_exception(error)
                continue
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)


class FastPath:
    """Answers plain submissions and reads of jobs on the event loop, with one thread each."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._submissions: Grouped[tuple[ApiKey, CheckedSubmission], JobView] = Grouped(
            lambda items: submit_checked(services.ledger, services.hints, items)
        )
        self._reads: Grouped[tuple[str, UUID], JobView] = Grouped(lambda items: get_plain_jobs(services.ledger, items))

    async def answer(self, scope: Any, body: IO[bytes] | bytes) -> Reply | None:
        """Return status, headers and body; None when the request has to go through Flask."""
        if scope.method == "POST" and scope.path == PATH:
            return await self._submit(scope, body)
        if scope.method == "GET" and (path := _JOB.fullmatch(scope.path)):
            return await self._read(scope, UUID(path[1]))
        return None

    async def _submit(self, scope: Any, body: IO[bytes] | bytes) -> Reply | None:
        if not isinstance(body, bytes) or len(body) > PLAIN_BYTES:
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

        def reply(job: JobView) -> Reply:
            status, content, more = reply_to(job, created=True)
            return status, [JSON, NO_SNIFFING, *more], content

        return await _answer("submit_job", scope, self._submissions.outcome((caller, checked)), reply)

    async def _read(self, scope: Any, job_id: UUID) -> Reply | None:
        headers = scope.headers
        if scope.query_string or "prefer" in headers:  # it may have to wait
            return None
        try:
            key = read_key(headers.get("authorization"))
        except JobPlatformError:
            return None

        def reply(job: JobView) -> Reply:
            content = as_json(job.as_dict())
            tag = generate_etag(content)
            about = [("etag", f'W/"{tag}"'), REVALIDATE, NO_SNIFFING]
            if parse_etags(headers.get("if-none-match")).contains_weak(tag):
                return 304, about, b""
            return 200, [JSON, *about], content

        return await _answer("get_job", scope, self._reads.outcome((key, job_id)), reply)


async def _answer(endpoint: str, scope: Any, job: Any, reply: Callable[[JobView], Reply]) -> Reply | None:
    """Return the reply with an awaited job, or the problem; None when there is no job. Counts the request."""
    began = time.perf_counter()
    try:
        result = await job
        if result is None:
            return None
        answer = reply(result)
    except JobPlatformError as error:
        answer = problems.as_reply(problems.from_error(error))
    except Exception as error:
        answer = problems.as_reply(problems.from_bug(error, scope.path))
    count_request(endpoint, scope.method, answer[0], time.perf_counter() - began)
    return answer
