"""One round of one queue: lock, read → choose → mark → publish → await confirms → commit. Any doubt rolls back (I3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from jobplatform.broker.envelope import Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.config import Order
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.waiting import Waiting, in_fair_order
from jobplatform.domain.flows import Take
from jobplatform.domain.window import slots_of
from jobplatform.ledger.dispatching import Dispatched, OpenRound, QueueState, read_queue
from jobplatform.ledger.session import Ledger


@dataclass(frozen=True)
class RoundReport:
    """Result of a round."""

    sent: int = 0
    unroutable: int = 0
    refused: int = 0
    #: jobs in flight before the round
    active: int = 0
    #: the highest priority without a free slot; -1: every priority has one
    closed: int = -1
    #: the highest priority with jobs that a free slot, or another round, would dispatch; -1: none
    highest: int = -1
    #: jobs wait for a limit key: read again in this many seconds, or when one of its jobs ends
    limited_seconds: float | None = None
    skipped: str = ""

    @property
    def waiting(self) -> bool:
        """Return whether jobs are left that a free slot, or another round, would dispatch."""
        return self.highest >= 0

    @property
    def full(self) -> bool:
        """Return whether the window, not the backlog, was the limit."""
        return self.highest >= 0 and self.closed >= self.highest


#: s until a key whose slots are all taken is read again; the end of one of its jobs causes a hint, which may be lost
LIMITED_SECONDS = 0.25
#: … where there is more to read
SOON_SECONDS = 0.01


def run_round(
    ledger: Ledger,
    publisher: Publisher,
    waiting: Waiting,
    policy: Policy,
    queue: str,
    window: int,
    batch: int,
    order: Order = "shares",
) -> RoundReport:
    """Dispatch jobs of the queue, as many as its window and their limits allow, at most `batch`.

    The transaction is open while the broker confirms (2 s at most, and the server bounds it): the rows stay locked, so
    that a claim waits until their state says `dispatched`.

    Raises `BrokerUnavailable`, a `LedgerUnavailable` or `OutcomeUnknown`; nothing may be taken as marked then.
    """
    keys = waiting.keys_to_ask(policy.is_limited)
    takes: list[Take] = []
    jobs: list[Dispatched] = []
    unsent: set[str] = set()
    heads: list[float | None] = []
    unroutable = refused = 0
    try:
        with read_queue(ledger, queue, waiting.marks(), keys) as opened:
            queue_state = opened.queue_state
            if queue_state.verdict != "ready":
                return RoundReport(skipped=queue_state.verdict)
            waiting.learn(queue_state)
            free_slots = slots_of(queue_state.in_flight, window, batch)
            free = dict(zip(keys, queue_state.key_free, strict=True))
            promised = _mark_by_deadline(opened, waiting, policy, free_slots, free) if order == "start_by" else []
            takes = waiting.shares.plan(free_slots, free, policy.is_limited)
            if takes:
                flows = [(take.flow.id, take.jobs) for take in takes]
                jobs, heads = opened.dispatch(flows, waiting.marks_of(takes))
            publishing = [*promised, *in_fair_order(takes, jobs)]
            jobs += promised
            if publishing:
                receipt = publisher.publish(
                    [Envelope(job.id, job.dispatch_no, job.kind, queue, job.priority) for job in publishing]
                )
                unroutable, refused = len(receipt.unroutable), len(receipt.refused)
                unsent = {envelope.job_id for envelope in (*receipt.unroutable, *receipt.refused)}
                if unsent:
                    opened.take_back([job for job in jobs if job.id in unsent])
    except BaseException:
        waiting.forgo(takes)
        raise
    waiting.settle(takes, jobs, unsent, heads)
    sent = [job for job in jobs if job.id not in unsent]
    return RoundReport(
        sent=len(sent),
        unroutable=unroutable,
        refused=refused,
        active=sum(queue_state.in_flight),
        closed=_closed(queue_state, sent, window),
        highest=waiting.shares.highest(),
        limited_seconds=_limited_seconds(waiting, keys, queue_state, _fell_short(takes, jobs)),
    )


def _mark_by_deadline(
    opened: OpenRound, waiting: Waiting, policy: Policy, free_slots: list[int], free: dict[str, int]
) -> list[Dispatched]:
    """Mark jobs with deadlines, and subtract them from the free slots of the window and of the keys."""
    shares = waiting.shares
    rehearsal = shares.plan(free_slots, free, policy.is_limited)  # how many slots each priority would use
    waiting.forgo(rehearsal)
    above = [
        # below the priority at which it stopped, the slots for higher priorities are unknown
        position if priority < shares.broke_off_at else sum(t.jobs for t in rehearsal if t.flow.id.priority > priority)
        for priority, position in enumerate(free_slots)
    ]
    jobs, keys = opened.dispatch_by_deadline(free_slots, above, free)
    for job, named in zip(jobs, keys, strict=True):
        for key in named:
            if key in free:
                free[key] -= 1
        for priority in range(job.priority + 1):
            free_slots[priority] -= 1
    return jobs


def _closed(queue_state: QueueState, sent: list[Dispatched], window: int) -> int:
    out = list(queue_state.in_flight)
    for job in sent:
        out[job.priority] += 1
    return max((priority for priority, left in enumerate(slots_of(out, window, window)) if left <= 0), default=-1)


def _limited_seconds(waiting: Waiting, keys: list[str], queue_state: QueueState, fell_short: bool) -> float | None:
    blocking_keys = waiting.shares.blocking_keys
    if not blocking_keys:
        return None
    if fell_short:  # flows that were unblocked had fewer jobs than planned: the next ones get the slots
        return SOON_SECONDS
    asked = dict(zip(keys, queue_state.key_seconds, strict=True))
    # a key that has just arrived, or more keys than one query can ask for
    if any(key not in asked for key in blocking_keys):
        return SOON_SECONDS
    return min([LIMITED_SECONDS, *(seconds for key in blocking_keys if (seconds := asked[key]) is not None)])


def _fell_short(takes: list[Take], jobs: list[Dispatched]) -> bool:
    """Return whether a flow with limit keys had fewer jobs than planned."""
    counter = Counter(job.flow for job in jobs)
    return any(take.flow.id.keys and counter[position] < take.jobs for position, take in enumerate(takes))
