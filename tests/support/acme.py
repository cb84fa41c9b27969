"""A team's own package, outside the repository: what docs/howto/add-a-kind.md shows, and kinds that misbehave."""

from __future__ import annotations

from pathlib import Path

#: the code of the how-to, verbatim (a test compares the two)
RESIZE = '''\
from jobplatform import Context, Permanent, Retryable, kind
from pydantic import BaseModel


class Resize(BaseModel):
    width: int
    height: int
    factor: float = 0.5


@kind("acme.resize", queue="gpu", max_attempts=3)
def resize(payload: Resize, ctx: Context) -> dict:
    """Make a picture smaller."""
    if payload.factor <= 0:
        raise Permanent("factor must be positive", code="bad_factor")
    for step in range(4):
        ctx.progress(step + 1, 4, "resizing")
    return {"width": int(payload.width * payload.factor), "height": int(payload.height * payload.factor)}
'''

MISBEHAVING = '''\
import os, signal, time
from pathlib import Path
from jobplatform import Context, Fixed, Permanent, Retryable, Snooze, Throttled, kind, limit_key, step
from pydantic import BaseModel


class Payload(BaseModel):
    path: str = ""
    seconds: float = 0.0
    times: int = 1


def count(path: str) -> int:
    """Count the calls outside the platform's own tables."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    return len(Path(path).read_text().splitlines())


@kind("acme.sleep", queue="gpu", retry=Fixed(0.1))
def sleep(payload: Payload, ctx: Context) -> dict:
    calls = count(payload.path)
    end = time.monotonic() + (payload.seconds if calls <= payload.times else 0)
    while time.monotonic() < end:
        time.sleep(0.02)
        ctx.progress(calls, None, "sleeping")
    return {"calls": calls, "pid": os.getpid()}


@kind("acme.quick", queue="gpu", retry=Fixed(0.1))
def quick(payload: Payload, ctx: Context) -> None:
    count(payload.path)
    time.sleep(payload.seconds)


@kind("acme.quick_thread", queue="loose", retry=Fixed(0.1))
def quick_thread(payload: Payload, ctx: Context) -> None:
    quick(payload, ctx)


@kind("acme.forged", queue="limbo", retry=Fixed(0.1))
def forged(payload: Payload, ctx: Context) -> dict:
    return {"calls": count(payload.path)}


@kind("acme.stuck", queue="loose", retry=Fixed(0.1))
def stuck(payload: Payload, ctx: Context) -> dict:
    calls = count(payload.path)
    if calls <= payload.times:
        time.sleep(payload.seconds)
    return {"calls": calls}


@kind("acme.deaf", queue="gpu", retry=Fixed(0.1))
def deaf(payload: Payload, ctx: Context) -> None:
    count(payload.path)
    time.sleep(payload.seconds)


@kind("acme.crash", queue="gpu", crash_limit=2)
def crash(payload: Payload, ctx: Context) -> None:
    count(payload.path)
    os.kill(os.getpid(), signal.SIGKILL)


@kind("acme.flaky", queue="gpu", retry=Fixed(0.05), max_attempts=4)
def flaky(payload: Payload, ctx: Context) -> dict:
    if count(payload.path) <= payload.times:
        raise Retryable("not yet", code="not_yet")
    return {"attempt": ctx.attempt, "run_no": ctx.run_no}


@kind("acme.broken", queue="gpu", retry=Fixed(0.05), max_attempts=2)
def broken(payload: Payload, ctx: Context) -> None:
    raise ValueError("a bug in the handler")


@kind("acme.snooze", queue="gpu")
def snooze(payload: Payload, ctx: Context) -> dict:
    if count(payload.path) <= payload.times:
        raise Snooze(0.05)
    return {"attempt": ctx.attempt, "run_no": ctx.run_no}


@kind("acme.slow", queue="gpu", hard_limit_seconds=1, max_attempts=1)
def slow(payload: Payload, ctx: Context) -> None:
    time.sleep(60)


@kind("acme.soft", queue="gpu", soft_limit_seconds=1, hard_limit_seconds=30, max_attempts=1)
def soft(payload: Payload, ctx: Context) -> None:
    time.sleep(60)


class Numbers(BaseModel):
    numbers: list[int] = []
    path: str = ""
    fails: int = 0


class Sum(BaseModel):
    sum: int


@kind("acme.sum", queue="gpu", retry=Fixed(0.1), max_attempts=1)
def add(numbers: Numbers, ctx: Context) -> Sum:
    if numbers.path and count(numbers.path) <= numbers.fails:
        raise Permanent("told to fail")
    return Sum(sum=sum(numbers.numbers))


class Call(BaseModel):
    path: str
    region: str
    seconds: float = 0.05
    calls: int = 1


@kind("acme.call", queue="gpu", limit_keys=["tenant", "region:{region}"])
def call(payload: Call, ctx: Context) -> dict:
    """Make one call to an external region."""
    time.sleep(payload.seconds)
    return {"calls": count(payload.path)}


@kind("acme.calls", queue="gpu")
def calls(payload: Call, ctx: Context) -> dict:
    """Many calls in one job, each of which takes a unit of the region."""
    times = []
    for _ in range(payload.calls):
        ctx.acquire(limit_key("region", payload.region))
        times.append(time.time())
    return {"times": times}


@kind("acme.busy", queue="gpu", limit_keys=["region:{region}"])
def busy(payload: Call, ctx: Context) -> dict:
    """The remote server throttles the first call."""
    if count(payload.path) == 1:
        raise Throttled("region:" + payload.region, payload.seconds, "429 from there")
    return {"attempt": ctx.attempt, "run_no": ctx.run_no}


@kind("acme.fan", queue="gpu")
def fan(numbers: Numbers, ctx: Context) -> Sum:
    ctx.add_steps(*(step("acme.sum", {"numbers": [n, n]}) for n in numbers.numbers))
    return Sum(sum=len(numbers.numbers))


@kind("acme.files", queue="gpu")
def files(payload: Payload, ctx: Context) -> dict:
    ctx.log("writing", step=1)
    (ctx.workdir / "out.txt").write_text("hello")
    return dict(ctx.artifact("out.txt", ctx.workdir / "out.txt"))
'''


def write_package(folder: Path) -> None:
    """Write the package `acme_jobs` into a folder."""
    package = folder / "acme_jobs"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("from acme_jobs import misbehaving, resize\n")
    (package / "resize.py").write_text(RESIZE)
    (package / "misbehaving.py").write_text(MISBEHAVING)
