"""Long polls without a thread each: requests are parked in the event loop, and one poll checks all their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

from jobplatform.errors import JobPlatformError

#: in the WSGI environ: the server can park requests; it has parked this one; the job that the endpoint waits for
CAN_PARK, PARKED, WAIT = "jobplatform.can_park", "jobplatform.parked", "jobplatform.wait"

POLL_SECONDS = 0.05
#: maximum number of jobs per statement of a poll
BATCH = 1000


@dataclass(frozen=True)
class Wait:
    """The job or workflow that a request waits for."""

    job_id: UUID
    seconds: float


class WaitRegistry:
    """The parked requests of one process, on one event loop."""

    def __init__(self, find_settled: Callable[[Sequence[UUID]], set[UUID]]) -> None:
        self._find_ended = find_settled
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}
        self._poll: asyncio.Task[None] | None = None
        # its own thread: polls must not queue behind requests, nor requests behind polls
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waits")

    async def wait(self, wait: Wait) -> bool:
        """Return True when the job has ended or is dead-lettered, False at the time-out."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wait.job_id, set()).add(future)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(future, wait.seconds)
        except TimeoutError:
            return False
        finally:
            others = self._waiting.get(wait.job_id)
            if others is not None:
                others.discard(future)
                if not others:
                    del self._waiting[wait.job_id]
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            ids = list(self._waiting)
            for start in range(0, len(ids), BATCH):
                batch = ids[start : start + BATCH]
                try:
                    ended = await loop.run_in_executor(self._thread, self._find_ended, batch)
                except JobPlatformError:
                    continue  # the ledger is not reachable: poll again, each wait has its own time-out
                for job_id in ended:
                    for future in self._waiting.get(job_id, ()):
                        if not future.done():
                            future.set_result(None)
