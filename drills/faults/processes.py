"""Faults of the platform's processes: killed, frozen, restarted, with a wrong clock, or crashed by a job."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from drills.faults.fault import CanNotBeDone, Hits, Runs, fault, lasting
from drills.world import API, DISPATCHERS, HEARTBEAT_SECONDS, LEASE_SECONDS, WORKERS, World, wait
from jobplatform.devstack.instance import CHECKOUT
from jobplatform.devstack.processes import wait_for
from jobplatform.devstack.system import apt_install
from jobplatform.dispatch.rescue import GONE_BEATS
from jobplatform.errors import ConfigurationError


@fault("none", shows=("succeeded", "slots of the limit in use"))
def none(world: World, size: float) -> Hits:
    """Nothing goes wrong."""
    wait(10 * size)
    return {}


@fault("kill -9 at random: child, worker, dispatcher, API", Runs.CUT, shows=("runs crashed or lost",))
def kills(world: World, size: float) -> Hits:
    """A pool child, a worker, a dispatcher or the API is killed at random, about every second, for a minute."""
    dice, since = random.Random(1), world.now()
    hits = {"children": 0, "workers": 0, "APIs and dispatchers": 0}
    goes_on = lasting(60 * size, lambda: all(hits.values()) and world.runs_ended(since, "crashed", "lost") > 0)
    while goes_on():
        name = dice.choice([*WORKERS, *WORKERS, *DISPATCHERS, API])
        # a Celery worker exits when a child dies while its pool starts
        children = world.pool_children(name) if name in WORKERS and dice.random() < 0.5 and world.works(name) else []
        world.kill(dice.choice(children) if children else world.head(name))
        what = "children" if children else "workers" if name in WORKERS else "APIs and dispatchers"
        hits[what] += 1
        wait(dice.uniform(0.5, 1.5))
    return hits


@fault("three rolling SIGKILLs of all workers", Runs.CUT, shows=("runs crashed or lost",))
def rolling(world: World, size: float) -> Hits:
    """All workers are killed, one after the other, at least three times: healthy jobs must not be dead-lettered."""
    since, rounds = world.now(), 0
    goes_on = lasting(0, lambda: rounds >= 3 and world.runs_ended(since, "crashed", "lost") > 0)
    while goes_on():
        rounds += 1
        for name in WORKERS:
            world.kill(world.head(name))
            wait(max(0.5, 3 * size))
    return {"rounds": rounds}


@fault("rolling restart of everything (SIGTERM)", Runs.FINISH)
def restarts(world: World, size: float) -> Hits:
    """A deployment under load: each process is stopped with SIGTERM once the successor of the one before works."""
    restarted = 0
    for _ in range(max(1, int(3 * size))):
        for name in (*WORKERS, *DISPATCHERS, API):
            world.restart(name)
            restarted += 1
    return {"restarted": restarted}


@fault("SIGSTOP zombie", Runs.CUT, shows=("runs crashed or lost",))
def zombie(world: World, size: float) -> Hits:
    """A worker and its children are frozen for longer than a lease, lose their runs, and continue."""
    since, rounds, least = world.now(), 0, max(1, int(5 * size))
    goes_on = lasting(0, lambda: rounds >= least and world.runs_ended(since, "lost") > 0)
    while goes_on():
        rounds += 1
        wait_for("a run to freeze", lambda: world.runs_on(WORKERS[0]) > 0, seconds=60)
        with world.frozen([world.head(WORKERS[0]), *world.pool_children(WORKERS[0])]):
            wait(2 * LEASE_SECONDS)
        wait(4 * HEARTBEAT_SECONDS)
    return {"frozen": rounds}


@fault("clocks of the workers one hour off, both ways", Runs.FINISH)
def clock(world: World, size: float) -> Hits:
    """One worker's clock is an hour behind, the other's an hour ahead: the database's clock decides."""
    library = _libfaketime()
    since, shifts = world.now(), dict(zip(WORKERS, ("-1h", "+1h"), strict=True))

    def counts() -> Hits:
        return {f"runs {shift} off": world.runs_with_another_clock(since, shift) for shift in shifts.values()}

    shim = {
        "LD_PRELOAD": str(library),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{CHECKOUT / 'drills' / 'clock_shim'}{os.pathsep}{CHECKOUT}",
    }
    with world.started_with({name: {**shim, "FAKETIME": shift} for name, shift in shifts.items()}):
        wait(20 * size)
        wait_for("runs with another clock", lambda: all(counts().values()), seconds=60)
    return counts()


def _libfaketime() -> Path:
    def locate() -> Path | None:
        return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)

    try:
        if locate() is None and os.geteuid() == 0 and shutil.which("apt-get"):
            apt_install(["libfaketime"])
    except ConfigurationError as error:
        raise CanNotBeDone(str(error)) from None
    library = locate()
    if library is None:
        raise CanNotBeDone("libfaketime is not installed: apt-get install libfaketime")
    return library


@fault("poison job")
def poisoned(world: World, size: float) -> Hits:
    """Jobs that crash their process each time are dead-lettered at their limit; the others continue."""
    jobs = []
    for number in range(3):
        body = {"kind": "drill.poison", "payload": {"sink": world.sink.url, "key": f"poison-{number}"}}
        jobs.append(world.caller.call("POST", "/v1/jobs", body)["id"])
        world.wait_state(jobs[-1], "dead", seconds=60)
    crashed = world.sql(
        "SELECT count(*) FROM job_runs WHERE job_id = ANY (CAST(:ids AS uuid[])) AND outcome = 'crashed'", ids=jobs
    )
    return {"children crashed": crashed[0][0], "poison jobs dead-lettered": len(jobs)}


@fault("workers frozen for less than a lease")
def hiccups(world: World, size: float) -> Hits:
    """Workers freeze, as on an overloaded machine, for longer than a worker without a session may be silent."""
    rounds = max(1, int(10 * size))
    for _ in range(rounds):
        wait(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)  # until rescue has seen heartbeats without a gap
        with world.frozen([pid for name in WORKERS for pid in (world.head(name), *world.pool_children(name))]):
            # longer than a worker without a session may be silent, and well below the lease: the last heartbeat may be
            # one interval old, and a busy machine continues late
            wait(GONE_BEATS * HEARTBEAT_SECONDS + 0.3)
    return {"frozen": rounds}
