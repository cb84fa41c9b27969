"""One drill: a load, a fault in the middle of it, and the outcome of every job."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from drills import evidence
from drills.faults import Fault, Runs
from drills.kinds import LIMIT_SLOTS
from drills.load import Accepted, Load
from drills.world import World
from jobplatform.devstack.processes import wait_for

#: jobs per second, and how long each works: a third of the five slots that the long run leaves is busy
PER_SECOND, WORK_SECONDS = 16.0, 0.1
CALM_SECONDS = 2.0
#: time for all jobs to end after the fault
PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """A row of the table. `lost`: accepted, but without an effect or an end (a workflow: did not succeed, or ran out of
    order); `dead`: healthy jobs that were dead-lettered."""

    fault: str
    #: what the fault has hit: name → count. No count may be zero
    hits: dict[str, int]
    accepted: int
    lost: int
    twice_plain: int
    twice_journaled: int
    held: int
    dead: int
    #: runs that did not succeed although the fault may not end them
    cut: int
    #: jobs in flight at one time beyond the limit of their key
    above_limit: int
    refused: int
    unknown: int
    #: submissions that a caller gave up, unexpected responses, and processes that exited on their own
    unexplained: int
    recovery_seconds: float
    audit: str
    may_run_twice: bool

    @property
    def wrong(self) -> list[str]:
        """Return what is wrong: figures that must be 0, targets that the fault missed, findings of the audit."""
        zero = ["lost", "twice_journaled", "dead", "cut", "above_limit", "unexplained"]
        zero += [] if self.may_run_twice else ["twice_plain"]
        result = [f"{name} is {getattr(self, name)}" for name in zero if getattr(self, name)]
        result += [f"the fault did not hit: {name}" for name, count in self.hits.items() if not count]
        return result + (["the audit has findings"] if self.audit != "clean" else [])

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def play(world: World, fault: Fault, size: float) -> Outcome:
    """Run a drill. Raises `CanNotBeDone` when the fault can't be injected."""
    load = Load(
        world.stack.local_url("api"),
        world.api_key,
        world.sink.url,
        name=f"{fault.key}-{time.time_ns()}",
        per_second=PER_SECOND,
        seconds_each=WORK_SECONDS,
    )
    long = _start_long_run(world, load)
    world.load = load
    load.start()
    try:
        time.sleep(CALM_SECONDS * max(size, 0.25))
        hits = fault.do(world, size)
        began = time.monotonic()
        world.wait_for_flow(PATIENCE_SECONDS)
        recovery = time.monotonic() - began
        time.sleep(CALM_SECONDS * max(size, 0.25))
    finally:
        world.sink.release(long.key)
        load.stop()
    held = _drain(world, load.accepted)
    return _judge(world, fault, load, hits, held, recovery)


def _start_long_run(world: World, load: Load) -> Accepted:
    """Start a run that lasts through the whole fault."""
    long = load.submit("drill.long")
    if long is None:
        raise AssertionError("the platform accepted no job before the fault")
    wait_for("the long run", lambda: world.sink.count(long.key) > 0, seconds=PATIENCE_SECONDS)
    return long


def _drain(world: World, accepted: list[Accepted]) -> int:
    """Wait until every job has ended, and resolve held jobs as an operator; returns how many were held."""
    resolved: set[str] = set()
    keys = {item.job_id: item.key for item in accepted}

    def drained() -> bool:
        rows = world.sql(
            "SELECT id::text, state FROM jobs WHERE id = ANY (CAST(:ids AS uuid[])) AND state <> 'dead'",
            ids=list(keys),
        )
        for job_id, state in rows:
            if state == "held":
                body = {"effect": "post", "happened": world.sink.count(keys[job_id]) > 0}
                world.caller.call("POST", f"/v1/jobs/{job_id}/resolve", body)
                resolved.add(job_id)
        return not rows

    try:
        wait_for("the end of all jobs", drained, seconds=PATIENCE_SECONDS)
    except Exception as error:  # the table counts them as lost
        world.stack.echo(str(error).split(":")[0])
    return len(resolved)


def _report_unexplained(world: World, load: Load) -> int:
    """Count and print the failures that no fault excuses; clears the world's list."""
    ours = [*load.given_up, *load.wrong, *world.ended_unasked]
    world.ended_unasked.clear()
    for our in ours:
        world.stack.echo(f"unexplained: {our}")
    return len(ours)


def _judge(world: World, fault: Fault, load: Load, hits: dict[str, int], held: int, recovery: float) -> Outcome:
    result = evidence.collect(world, load)
    states = world.states([item.job_id for item in load.accepted])
    counts = {item.key: world.sink.count(item.key) for item in load.accepted}
    clean, said = world.audit()
    if not clean:
        world.stack.echo(said)
    if result[evidence.MOST_OUT] > LIMIT_SLOTS:
        for line in evidence.report_limit_slots(world, load):
            world.stack.echo(line)
    if cut := _count_cut(fault, result):
        for line in evidence.report_ends(world, load):
            world.stack.echo(line)
    twice = {
        kind: sum(counts[item.key] > 1 for item in load.accepted if item.kind == kind)
        for kind in ("drill.plain", "drill.journaled")
    }
    repeated = [item.job_id for item in load.accepted if item.kind in twice and counts[item.key] > 1]
    if repeated and fault.runs is not Runs.CUT:
        for line in evidence.report_runs(world, repeated):
            world.stack.echo(f"ran twice: {line}")
    return Outcome(
        fault=fault.name,
        hits={**hits, **{name: result[name] for name in fault.shows}},
        accepted=len(load.accepted),
        lost=sum(states.get(item.job_id) not in ("succeeded", "dead") or not counts[item.key] for item in load.accepted)
        + _unfinished(world, load),
        twice_plain=twice["drill.plain"],
        twice_journaled=twice["drill.journaled"],
        held=held,
        dead=sum(states.get(item.job_id) == "dead" for item in load.accepted),
        cut=cut,
        above_limit=max(0, result[evidence.MOST_OUT] - LIMIT_SLOTS),
        refused=load.refused,
        unknown=load.unknown,
        unexplained=_report_unexplained(world, load),
        recovery_seconds=round(recovery, 1),
        audit="clean" if clean else "findings",
        may_run_twice=fault.runs is Runs.CUT,
    )


def _unfinished(world: World, load: Load) -> int:
    """Count workflows that have not succeeded, and steps that started before their dependencies had ended."""
    return sum(
        row[0]
        for row in world.sql(
            """
            SELECT count(*)::int FROM workflows WHERE id = ANY (CAST(:ids AS uuid[])) AND state <> 'succeeded'
            UNION ALL
            SELECT count(*)::int FROM workflow_steps p JOIN workflow_steps g ON g.id = ANY (p.children)
            JOIN workflow_steps s ON s.id = g.id OR s.id = ANY (g.children)
            JOIN job_history a ON a.id = p.id JOIN job_history b ON b.id = s.id
            WHERE p.workflow_id = ANY (CAST(:ids AS uuid[])) AND b.started_at < a.finished_at
            """,
            ids=load.workflows,
        )
    )


def _count_cut(fault: Fault, result: dict[str, int]) -> int:
    """Count the runs that did not succeed although this fault may not end them."""
    if fault.runs is Runs.CUT:
        return 0
    return result["runs ended otherwise"] - (result["runs released"] if fault.runs is Runs.FINISH else 0)
