"""A model of the protocol of one job: a ledger, a dispatcher, RabbitMQ, two workers, and their faults.

Each action is one transaction or one message of the real system (docs/concepts/delivery.md). Each safeguard of the
platform is a `Rule`, which can be switched off. Time is left out: an action that waits for a time may happen at any
time.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.model.explore import Step


class Rule(Enum):
    """The safeguards of the protocol. A value says what the naive protocol does instead."""

    COMMIT_AFTER_CONFIRM = "the mark is committed, then the message is published"
    LOCK_THEN_LOOK = "the claim is one UPDATE with conditions, which does not see an open transaction's mark"
    CLAIM_WHAT_IS_DISPATCHED = "the claim takes what the message names, whatever the job's state"
    CLAIM_AGAIN_IS_MINE = "a claim whose answer was lost is stale when it is repeated"
    CLAIM_UNTIL_ANSWERED = "a message whose claim failed is acknowledged"
    PAUSE_UNDER_THE_LOCK = "the claim reads the pause before it locks the job"
    FENCE = "a settle looks at the state, not at the lease"
    SETTLED_ALREADY = "a settle whose answer was lost finds its lease gone when it is repeated"
    CANCEL_IS_FINAL = "a run that fails after a cancel was requested is retried"
    RETURN_WHAT_WAS_NOT_CLAIMED = "a child's death before its claim is acknowledged, and nothing else"
    CRASH_AFTER_A_HEARTBEAT = "a dead child is reported at once, also while the whole worker is being killed"
    UNBROKEN_VIEW = "a run whose worker's heartbeat is old is lost, also after an outage of the ledger"
    SESSION_AND_SILENCE = "a worker whose session with the ledger has ended is lost, whether it has heartbeats or not"
    EPOCH_ALWAYS = "what a wiped broker held is dispatched again once, when the wipe is found"
    RECORDER = "what the broker dead-letters is left there"
    RECORDER_LOOKS = "what the broker dead-letters is dispatched again, without a look at the job"
    MARKER = "a message that a queue has lost is not looked for"
    GIVE_BACK = "a run that was claimed ahead, and that the pool has dropped, is named in heartbeats and never started"
    LEASE_ONCE = "a delivery whose claim was given back before its answer claims again with the same lease"


TWO_AT_A_TIME = "one run at a time"
UNFENCED = "what has lost its lease can't settle"
LIED = "a run that has settled is not reported to have lost its lease"
NOT_CANCELLED = "after a cancel no run begins"
NOT_PAUSED = "while its queue is paused no run begins"
FALSE_CRASH = "only a run that took its process down counts as crashed"
ROBBED = "no run is taken from a worker that lives"
WAITS_FOR_EVER = "no job waits forever"

CRASH_LIMIT = 2
MARKER = -1


class Job(NamedTuple):
    """The job's row: available, dispatched, running, succeeded, cancelled or dead."""

    state: str = "available"
    no: int = 0
    epoch: int = 0
    lease: int = 0
    crashes: int = 0
    cancel: bool = False


class Dispatcher(NamedTuple):
    """Idle, or in a round: its transaction is open from `marked` to the commit."""

    phase: str = "idle"
    no: int = 0
    epoch: int = 0


class Worker(NamedTuple):
    """Idle, or with one delivery: got · looked · ahead · dropped · runs · done · handed · child dead · acks."""

    phase: str = "idle"
    no: int = 0
    lease: int = 0
    #: RabbitMQ still waits for the acknowledgement on this connection
    unacked: bool = False
    frozen: bool = False
    #: its process is being killed; its child was killed first
    doomed: bool = False
    #: the lease that its committer is going to give back
    withdrawn: int = 0


class World(NamedTuple):
    """The state of the whole system."""

    job: Job = Job()
    dispatcher: Dispatcher = Dispatcher()
    workers: tuple[Worker, ...] = (Worker(), Worker())
    queue: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    broker_epoch: int = 0
    ledger_epoch: int = 0
    leases: int = 0
    #: the lease that succeeded
    settled: int = 0
    #: leases whose worker process is gone
    gone: frozenset[int] = frozenset()
    paused: bool = False
    old_heartbeats: bool = False
    #: the session of a live worker has ended; it writes heartbeats on its next one
    cut_session: bool = False
    #: dispatch number after which the outstanding marker was sent; 0: none is outstanding
    marker: int = 0
    marker_seen: bool = False
    cancel_wanted: bool = False
    faults: int = 0
    wishes: int = 0
    wrong: str = ""


def is_good(world: World) -> bool:
    """Return whether the platform has nothing left to do: the job has ended, or is dead and needs an operator."""
    return world.job.state in ("succeeded", "cancelled", "dead")


def broken(world: World) -> Iterator[str]:
    """Yield the property that this state breaks."""
    if world.wrong:
        yield world.wrong


class Model:
    """The actions of a world under a set of rules, with a maximum number of faults and of callers' requests."""

    def __init__(self, without: Rule | None = None, *, faults: int, wishes: int = 1, marker: bool = False) -> None:
        self._without, self._faults, self._wishes, self._marker = without, faults, wishes, marker

    def _on(self, rule: Rule) -> bool:
        return rule is not self._without

    def steps(self, world: World) -> Iterator[Step[World]]:
        """Yield the actions that are possible next."""
        yield from self._dispatch(world)
        yield from self._broker(world)
        yield from self._ledger(world)
        for position, worker in enumerate(world.workers):
            if worker.frozen:
                yield Step(f"worker {position + 1} goes on", _put(world, position, worker._replace(frozen=False)))
            else:
                yield from self._work(world, position, worker)
        if world.wishes < self._wishes:
            yield from self._wish(world._replace(wishes=world.wishes + 1))
        if world.faults < self._faults:
            yield from self._fail(world._replace(faults=world.faults + 1))

    # --- the dispatcher (dispatch/queue_round.py, ledger/sql/85_dispatch_jobs.sql)

    def _is_locked(self, world: World) -> bool:
        return world.dispatcher.phase in ("marked", "sent") and self._on(Rule.COMMIT_AFTER_CONFIRM)

    def _dispatch(self, world: World) -> Iterator[Step[World]]:
        job, dispatcher = world.job, world.dispatcher
        if dispatcher.phase == "idle" and job.state == "available" and not world.paused:
            opened = Dispatcher("marked", job.no + 1, world.ledger_epoch)
            marked = world._replace(dispatcher=opened)
            if not self._on(Rule.COMMIT_AFTER_CONFIRM):
                marked = _mark(marked)
            yield Step("dispatcher marks", marked)
        if dispatcher.phase == "marked":
            sent = world._replace(queue=(*world.queue, dispatcher.no))
            after = dispatcher._replace(phase="sent") if self._on(Rule.COMMIT_AFTER_CONFIRM) else Dispatcher()
            yield Step("dispatcher publishes", sent._replace(dispatcher=after))
        if dispatcher.phase == "sent":
            yield Step("dispatcher commits", _mark(world)._replace(dispatcher=Dispatcher()))

    # --- RabbitMQ, its guard, its recorder and the marker (dispatch/)

    def _broker(self, world: World) -> Iterator[Step[World]]:
        job = world.job
        free = not self._is_locked(world)
        if world.broker_epoch != world.ledger_epoch:
            guarded = world._replace(ledger_epoch=world.broker_epoch)
            once = not self._on(Rule.EPOCH_ALWAYS) and free
            if once and job.state == "dispatched" and job.epoch != world.broker_epoch:
                guarded = _again(guarded)
            yield Step("guard finds the broker wiped", guarded)
        if self._on(Rule.EPOCH_ALWAYS) and free and job.state == "dispatched" and job.epoch != world.ledger_epoch:
            yield Step("guard returns what another epoch held", _again(world))
        if world.dead and free:
            number, rest = world.dead[0], world._replace(dead=world.dead[1:])
            if not self._on(Rule.RECORDER):
                yield Step("RabbitMQ drops it", rest)
            elif self._on(Rule.RECORDER_LOOKS):
                current = job.state == "dispatched" and job.no == number
                yield Step("recorder looks at the job", _again(rest) if current else rest)
            else:
                taken = _again(rest)._replace(wrong=ROBBED if job.state == "running" else world.wrong)
                yield Step("recorder dispatches again", rest if is_good(world) else taken)
        if self._marker and self._on(Rule.MARKER) and free:
            yield from self._mark_queue(world)

    def _mark_queue(self, world: World) -> Iterator[Step[World]]:
        job = world.job
        if world.marker_seen:
            held = {worker.no for worker in world.workers if worker.phase in ("got", "looked", "child dead")}
            lost = job.state == "dispatched" and job.no <= world.marker and job.no not in held
            done = world._replace(marker=0, marker_seen=False)
            yield Step("dispatcher takes the marker's evidence", _again(done) if lost else done)
        elif job.state == "dispatched" and MARKER not in world.queue:
            marked = world._replace(queue=(*world.queue, MARKER), marker=job.no)
            yield Step("dispatcher sends a marker", marked)

    # --- rescue (ledger/sql/80_rescue_runs.sql)

    def _ledger(self, world: World) -> Iterator[Step[World]]:
        if world.old_heartbeats:
            yield Step("heartbeats resume", world._replace(old_heartbeats=False))
        if world.cut_session:
            yield Step("the worker writes a heartbeat on another session", world._replace(cut_session=False))
        if world.paused:
            yield Step("the queue is resumed", world._replace(paused=False))
        if world.job.state != "running":
            return
        lease = world.job.lease
        holder = next((worker for worker in world.workers if _names(worker, lease)), None)
        if lease in world.gone or (holder is not None and holder.frozen):
            yield Step("rescue: its worker is gone", self._end(world))
        elif holder is None:
            yield Step("rescue: no heartbeat names its lease", self._end(_crash(world))._replace(wrong=FALSE_CRASH))
        elif world.old_heartbeats and not self._on(Rule.UNBROKEN_VIEW):
            yield Step("rescue: its worker's heartbeat is old", self._end(world)._replace(wrong=ROBBED))
        elif world.cut_session and not self._on(Rule.SESSION_AND_SILENCE):
            yield Step("rescue: its worker's session has ended", self._end(world)._replace(wrong=ROBBED))

    def _end(self, world: World) -> World:
        """End the run without success: the job becomes available again, or final."""
        job = world.job
        if job.cancel and self._on(Rule.CANCEL_IS_FINAL):
            state = "cancelled"
        else:
            state = "dead" if job.crashes >= CRASH_LIMIT else "available"
        return world._replace(job=job._replace(state=state, lease=0, cancel=False))

    # --- a worker (workers/, usecases/execute_run.py)

    def _work(self, world: World, position: int, worker: Worker) -> Iterator[Step[World]]:
        name = f"worker {position + 1}"
        if worker.withdrawn:
            yield Step(f"{name}'s committer gives the claim back", self._give_back_late(world, position, worker))
        if worker.phase == "idle" and world.queue and not worker.withdrawn:
            yield self._deliver(world, position)
        elif worker.phase == "got" and not self._on(Rule.PAUSE_UNDER_THE_LOCK) and not world.paused:
            yield Step(f"{name} reads the pause", _put(world, position, worker._replace(phase="looked")))
        elif worker.phase in ("got", "looked"):
            after = self._claim(world, position, worker)
            if after is not None:
                yield Step(f"{name} claims", after)
            ahead = self._claim_ahead(world, position, worker)
            if ahead is not None:
                yield Step(f"{name} claims ahead of a free slot", ahead)
        elif worker.phase == "ahead":
            yield Step(f"{name} has a slot for it", _put(world, position, worker._replace(phase="runs")))
        elif worker.phase == "dropped":
            if self._on(Rule.GIVE_BACK):
                yield Step(f"{name} gives it back", self._give_back(world, position, worker))
        elif worker.phase == "runs":
            yield Step(f"{name} does the work", _put(world, position, worker._replace(phase="done")))
        elif worker.phase == "done":
            yield Step(f"{name} settles", self._settle(world, position, worker))
            yield Step(f"{name}'s child hands its outcome over", _put(world, position, worker._replace(phase="handed")))
        elif worker.phase == "handed":
            yield Step(f"{name} settles with others", self._settle(world, position, worker))
        elif worker.phase == "acks":
            yield Step(f"{name} acknowledges", _put(world, position, Worker(withdrawn=worker.withdrawn)))
        elif worker.phase == "child dead":
            if worker.doomed:
                yield Step(f"{name} dies", _kill(world, position))
            if not self._is_locked(world) and (not worker.doomed or not self._on(Rule.CRASH_AFTER_A_HEARTBEAT)):
                yield Step(f"{name} reports its child", self._report(world, position, worker))

    def _deliver(self, world: World, position: int) -> Step[World]:
        number, rest = world.queue[0], world.queue[1:]
        if number == MARKER:
            return Step(f"worker {position + 1} reports the marker", world._replace(queue=rest, marker_seen=True))
        lease = world.leases + 1
        taken = _put(world._replace(queue=rest, leases=lease), position, Worker("got", number, lease, unacked=True))
        return Step(f"RabbitMQ delivers to worker {position + 1}", taken)

    def _claim(self, world: World, position: int, worker: Worker) -> World | None:
        """Return the world after a claim; None while it waits for the row's lock."""
        job, acks = world.job, worker._replace(phase="acks")
        if self._is_locked(world):
            return None if self._on(Rule.LOCK_THEN_LOOK) else _put(world, position, acks)
        if job.lease == worker.lease and self._on(Rule.CLAIM_AGAIN_IS_MINE):
            return _put(world, position, worker._replace(phase="runs"))
        takes = ("dispatched",) if self._on(Rule.CLAIM_WHAT_IS_DISPATCHED) else ("dispatched", "running", "available")
        if job.state not in takes or job.no != worker.no or job.lease == worker.lease:
            return _put(world, position, acks)
        if world.paused and self._on(Rule.PAUSE_UNDER_THE_LOCK):
            return _put(_again(world), position, acks)
        wrong = world.wrong
        if job.state == "running":
            wrong = TWO_AT_A_TIME
        elif world.cancel_wanted:
            wrong = NOT_CANCELLED
        elif world.paused:
            wrong = NOT_PAUSED
        running = job._replace(state="running", lease=worker.lease)
        return _put(world._replace(job=running, wrong=wrong), position, worker._replace(phase="runs"))

    def _claim_ahead(self, world: World, position: int, worker: Worker) -> World | None:
        """Return the world after the committer's claim, which decides the usual case only and waits for no lock."""
        job = world.job
        if self._is_locked(world) or world.paused or job.state != "dispatched" or job.no != worker.no:
            return None
        running = job._replace(state="running", lease=worker.lease)
        wrong = NOT_CANCELLED if world.cancel_wanted else world.wrong
        return _put(world._replace(job=running, wrong=wrong), position, worker._replace(phase="ahead"))

    def _give_back(self, world: World, position: int, worker: Worker) -> World:
        after = _put(world, position, worker._replace(phase="acks"))
        return self._end(after) if world.job.lease == worker.lease else after

    def _withdraw(self, world: World, position: int, worker: Worker) -> World:
        """Return the world after a claim was withdrawn before its answer; the ledger then does not grant it."""
        leases = world.leases + self._on(Rule.LEASE_ONCE)
        lease = leases if self._on(Rule.LEASE_ONCE) else worker.lease
        withdrawn = worker._replace(withdrawn=worker.lease, lease=lease)
        return _put(world._replace(leases=leases), position, withdrawn)

    def _give_back_late(self, world: World, position: int, worker: Worker) -> World:
        after = _put(world, position, worker._replace(withdrawn=0))
        if world.job.lease != worker.withdrawn:
            return after
        claimed_again = worker.lease == worker.withdrawn
        return self._end(after)._replace(wrong=ROBBED if claimed_again else world.wrong)

    def _settle(self, world: World, position: int, worker: Worker) -> World:
        job = world.job
        after = _put(world, position, worker._replace(phase="acks"))
        if job.lease == worker.lease or (job.state == "running" and not self._on(Rule.FENCE)):
            succeeded = job._replace(state="succeeded", lease=0, cancel=False)
            wrong = UNFENCED if job.lease != worker.lease else world.wrong
            return after._replace(job=succeeded, settled=worker.lease, wrong=wrong)
        if world.settled == worker.lease and not self._on(Rule.SETTLED_ALREADY):
            return after._replace(wrong=LIED)
        return after

    def _report(self, world: World, position: int, worker: Worker) -> World:
        job = world.job
        after = _put(world, position, worker._replace(phase="acks", doomed=False))
        if job.lease == worker.lease:
            return self._end(_crash(after)._replace(wrong=FALSE_CRASH if worker.doomed else world.wrong))
        unclaimed = job.state == "dispatched" and job.no == worker.no
        return _again(after) if unclaimed and self._on(Rule.RETURN_WHAT_WAS_NOT_CLAIMED) else after

    # --- callers' requests, and faults

    def _wish(self, world: World) -> Iterator[Step[World]]:
        job = world.job
        if not world.paused:
            yield Step("the queue is paused", world._replace(paused=True), fault=True)
        if job.state == "running":
            asked = job._replace(cancel=True)
            yield Step("a cancel is requested", world._replace(job=asked, cancel_wanted=True), fault=True)
        elif not is_good(world) and not self._is_locked(world):
            ended = job._replace(state="cancelled")
            yield Step("the job is cancelled", world._replace(job=ended, cancel_wanted=True), fault=True)

    def _fail(self, world: World) -> Iterator[Step[World]]:
        if world.dispatcher.phase != "idle":
            yield Step("FAULT: the dispatcher dies", world._replace(dispatcher=Dispatcher()), fault=True)
        if not world.old_heartbeats:
            yield Step("FAULT: the ledger was away", world._replace(old_heartbeats=True), fault=True)
        if not world.cut_session and world.job.state == "running":
            cut = world._replace(cut_session=True)
            yield Step("FAULT: its worker's session with the ledger is killed", cut, fault=True)
        if world.queue and self._marker:
            yield Step("FAULT: the queue is purged", world._replace(queue=()), fault=True)
        if world.queue and world.queue[0] != MARKER:
            dead_lettered = world._replace(queue=world.queue[1:], dead=(*world.dead, world.queue[0]))
            yield Step("FAULT: RabbitMQ dead-letters the message", dead_lettered, fault=True)
        workers = tuple(worker._replace(unacked=False) for worker in world.workers)
        wiped = world._replace(queue=(), dead=(), workers=workers, broker_epoch=world.broker_epoch + 1)
        yield Step("FAULT: the broker is wiped", wiped, fault=True)
        for position, worker in enumerate(world.workers):
            for step in self._fail_worker(world, position, worker):
                yield Step(step.name, step.after, fault=True)

    def _fail_worker(self, world: World, position: int, worker: Worker) -> Iterator[Step[World]]:
        name = f"FAULT: worker {position + 1}"
        if worker.phase == "idle" or worker.frozen:
            return
        yield Step(f"{name} is killed", _kill(world, position))
        yield Step(f"{name} freezes", _put(world, position, worker._replace(frozen=True)))
        if worker.unacked:
            requeued = world._replace(queue=(worker.no, *world.queue))
            phase = "dropped" if worker.phase == "ahead" else worker.phase  # its pool forgets what no slot has begun
            cut = worker._replace(unacked=False, phase=phase)
            yield Step(f"{name} loses its connection", _put(requeued, position, cut))
        if worker.phase == "got" and not worker.withdrawn:
            yield Step(f"{name} withdraws its claim before the answer", self._withdraw(world, position, worker))
        if worker.phase == "ahead":
            yield Step(f"{name} gets no free slot, and gives it back", self._give_back(world, position, worker))
        if worker.phase in ("got", "looked", "runs", "done"):
            dead = worker._replace(phase="child dead")
            yield Step(f"{name}'s child is killed", _put(world, position, dead))
            yield Step(f"{name} is killed, its child first", _put(world, position, dead._replace(doomed=True)))
        if worker.phase in ("got", "looked") and not self._is_locked(world):
            claimed = self._claim(world, position, worker)
            if claimed is not None and claimed.job.lease == worker.lease:  # it does not know, and claims again
                yield Step(f"{name} claims, the answer is lost", _put(claimed, position, worker))
            if not self._on(Rule.CLAIM_UNTIL_ANSWERED):
                yield Step(f"{name}'s claim fails", _put(world, position, worker._replace(phase="acks")))
        if worker.phase in ("done", "handed") and world.job.lease == worker.lease:
            settled = self._settle(world, position, worker)
            yield Step(f"{name} settles, the answer is lost", _put(settled, position, worker))


def _names(worker: Worker, lease: int) -> bool:
    """Return whether the worker's heartbeats name the lease."""
    return worker.withdrawn == lease or (worker.lease == lease and worker.phase not in ("idle", "acks"))


def _put(world: World, position: int, worker: Worker) -> World:
    workers = list(world.workers)
    workers[position] = worker
    return world._replace(workers=tuple(workers))


def _mark(world: World) -> World:
    dispatcher = world.dispatcher
    return world._replace(job=world.job._replace(state="dispatched", no=dispatcher.no, epoch=dispatcher.epoch))


def _again(world: World) -> World:
    """Make the job available: its next dispatch has the next number."""
    return world._replace(job=world.job._replace(state="available", lease=0))


def _crash(world: World) -> World:
    return world._replace(job=world.job._replace(crashes=world.job.crashes + 1))


def _kill(world: World, position: int) -> World:
    """End a worker's process: RabbitMQ requeues its message, and another process takes its place."""
    worker = world.workers[position]
    queue = (worker.no, *world.queue) if worker.unacked else world.queue
    gone = world.gone | {worker.lease} | ({worker.withdrawn} if worker.withdrawn else set())
    return _put(world._replace(queue=queue, gone=gone), position, Worker())
