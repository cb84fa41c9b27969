"""The kinds of the drills: each does its effect at a sink that is no part of the platform, and counts."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from urllib.request import Request, urlopen

import orjson
from pydantic import BaseModel

from jobplatform import Context, Fixed, kind


class Work(BaseModel):
    """What to tell the sink, and how long it takes."""

    sink: str
    key: str
    seconds: float = 0.02


def _post(work: Work) -> Any:
    request = Request(f"{work.sink}/{work.key}", data=b"", method="POST")
    with urlopen(request, timeout=10) as answer:
        return {**orjson.loads(answer.read()), "clock": time.time()}


@kind("drill.plain", queue="drill", retry=Fixed(0.2), max_attempts=20)
def plain(work: Work, ctx: Context) -> Any:
    """Do the effect as most code does: a run that dies behind it does it again."""
    time.sleep(work.seconds / 2)
    said = _post(work)
    time.sleep(work.seconds / 2)
    return said


#: half of the load has a limit key, of which so many may be dispatched or running at once
LIMIT_KEY, PLACES = "lane:drill", 2
LIMITED_KIND = "drill.journaled"


@kind(
    LIMITED_KIND,
    queue="drill",
    retry=Fixed(0.2),
    max_attempts=20,
    unknown_effects="hold",
    limit_keys=[LIMIT_KEY],
)
def journaled(work: Work, ctx: Context) -> Any:
    """Do the effect under the journal: where a crash leaves it unknown, a person is asked."""
    time.sleep(work.seconds / 2)
    with ctx.effect("post") as effect:
        if effect.needed:
            effect.receipt = _post(work)
    time.sleep(work.seconds / 2)
    return effect.receipt


@kind("drill.long", queue="drill", retry=Fixed(0.2), max_attempts=20)
def long(work: Work, ctx: Context) -> Any:
    """Last until the sink says that it is enough: through a whole fault."""
    said = _post(work)
    while True:
        with urlopen(f"{work.sink}/{work.key}", timeout=10) as answer:
            if orjson.loads(answer.read())["released"]:
                return said
        time.sleep(0.2)


@kind("drill.poison", queue="drill", crash_limit=2)
def poison(work: Work, ctx: Context) -> None:
    """Take the process down, each time."""
    os.kill(os.getpid(), signal.SIGKILL)
