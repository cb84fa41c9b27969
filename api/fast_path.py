"""`POST /v1/jobs` without the framework's part, and many at once: the one request that teams make for every job.

Requests that come while a commit is under way are written together by the next one: one round trip, one commit and one
wake-up of Postgres for all of them. Nobody is answered before the commit that holds the job (I1), and at low load
nobody waits for anybody. What is checked, and what is answered, is the endpoint's own code; a request that is not plain
goes the usual way (docs/operations/performance.md has the figures).
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
from api.v1.jobs import Order, read_command, reply_to
from jobplatform.domain.jobs import JobView
from jobplatform.errors import JobPlatformError
from jobplatform.usecases.admit import read_key
from jobplatform.usecases.submit_job import ApiKey, CheckedSubmission, check_submission, submit_checked

PATH = "/v1/jobs"
JSON = ("content-type", "application/json")
#: how many jobs one commit takes
BATCH = 200


class FastPath:
    """Accepts plain orders on the event loop, with one thread that writes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: list[tuple[ApiKey, CheckedSubmission, asyncio.Future[JobView | None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = RequestThreads(1)

    async def answer(self, scope: Any, body: IO[bytes] | bytes) -> Reply | None:
        """Return status, headers and body; None when the request has to go the usual way."""
        if scope.path != PATH or scope.method != "POST" or not isinstance(body, bytes) or len(body) > PLAIN_BYTES:
            return None
        headers = scope.headers
        authorization = headers.get("authorization")
        if authorization is None or "idempotency-key" in headers:
            return None
        media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        try:
            caller = ApiKey(read_key(authorization))
            command = read_command(self._services.kinds, Order(body, media_type, authorization, None))
            if command.unique is not None:
                return None  # it may have to wait for another order
            checked = check_submission(self._services.kinds, command)
        except Exception:
            return None  # the usual way finds it again, asks for the key first, and says it in full
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

    async def _write(self, caller: ApiKey, order: CheckedSubmission) -> JobView | None:
        future: asyncio.Future[JobView | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((caller, order, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await future

    async def _write_all(self) -> None:
        """Write what waits, and what has come meanwhile, until nothing waits."""
        has = self._services
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            orders = [(caller, order) for caller, order, _ in batch]
            try:
                jobs = await self._thread.run(submit_checked, has.ledger, has.hints, orders)
            except Exception as error:
                # one order that the ledger can't take must not be everybody's error: each goes the usual way alone
                alone = getattr(error, "pgcode", None) is not None
                for _, _, future in batch:
                    if not future.done():
                        future.set_result(None) if alone else future.set_exception(error)
                continue
            for (_, _, future), job in zip(batch, jobs, strict=True):
                if not future.done():
                    future.set_result(job)
