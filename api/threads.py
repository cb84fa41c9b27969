"""The threads in which requests run, called from the event loop.

`loop.run_in_executor` wraps two futures and three locks around every call: a third of the bridge's time. This hands the
call over with one queue and wakes the loop once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class RequestThreads:
    """A fixed number of daemon threads, started at the first call, after any fork."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._started = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in one of the threads; return its result or raise its exception."""
        if not self._started:
            self._started = True
            for number in range(self._count):
                threading.Thread(target=self._work, name=f"requests-{number}", daemon=True).start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((future, function, arguments))
        return await future

    def _work(self) -> None:
        while True:
            future, function, arguments = self._calls.get()
            try:
                result, error = function(*arguments), None
            except BaseException as raised:
                result, error = None, raised
            future.get_loop().call_soon_threadsafe(_resolve, future, result, error)
            del future, function, arguments, result, error  # keep no reference until the next call


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # the caller has disconnected
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
