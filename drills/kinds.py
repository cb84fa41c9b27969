"""The kinds of the drills: each performs its effect at a sink outside the platform, which counts it."""

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
    """The effect to perform at the sink, and the duration of the job."""

    sink: str
    key: str
    seconds: float = 0.02


def _post(work: Work) -> Any:
    request = Request(f"{work.sink}/{work.key}", data=b"", method="POST")
    with urlopen(request, timeout=10) as answer:
        return {**orjson.loads(answer.read()), "clock": time.time()}


@kind("drill.plain", queue="drill", retry=Fixed(0.2), max_attempts=20)
def plain(work: Work, ctx: Context) -> Any:
    """Perform the effect as most code does: when a run dies after it, the next run repeats it."""
    time.sleep(work.seconds / 2)
    said = _post(work)
    time.sleep(work.seconds / 2)
    return said


#: half of the load has a limit key, of which LIMIT_SLOTS jobs may be in flight at once
LIMIT_KEY, LIMIT_SLOTS = "lane:drill", 2
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
    """Perform the effect under the journal: if a crash leaves its outcome unknown, the job is held."""
    time.sleep(work.seconds / 2)
    with ctx.effect("post") as effect:
        if effect.needed:
            effect.receipt = _post(work)
    time.sleep(work.seconds / 2)
    return effect.receipt


@kind("drill.long", queue="drill", retry=Fixed(0.2), max_attempts=20)
def long(work: Work, ctx: Context) -> Any:
    """Run until the sink releases it, through a whole fault."""
    said = _post(work)
    while True:
        with urlopen(f"{work.sink}/{work.key}", timeout=10) as answer:
            if orjson.loads(answer.read())["released"]:
                return said
        time.sleep(0.2)


@kind("drill.poison", queue="drill", crash_limit=2)
def poison(work: Work, ctx: Context) -> None:
    """Kill its own process on every run."""
    os.kill(os.getpid(), signal.SIGKILL)
