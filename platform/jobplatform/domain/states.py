"""The state machine of a job: one transition table, mirrored by named CHECK constraints in the ledger.

docs/concepts/state-machine.md is generated from this table (`jobplatform states`), and property tests compare the
ledger's SQL functions with it.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """State of a job."""

    #: a workflow step that waits for others, or a job whose payload is validated first
    BLOCKED = "blocked"
    #: waits for its run_at: the first run, a retry, or a snooze
    SCHEDULED = "scheduled"
    #: ready; waits in the ledger for a free slot in its queue's window
    AVAILABLE = "available"
    #: its message is in RabbitMQ
    DISPATCHED = "dispatched"
    #: a run has the lease
    RUNNING = "running"
    #: waits for an operator to record whether an effect took place
    HELD = "held"
    #: dead-lettered; needs an operator; live until it is replayed or discarded
    DEAD = "dead"
    #: final: the handler returned
    SUCCEEDED = "succeeded"
    #: final: cancelled by a caller
    CANCELLED = "cancelled"
    #: final: its start_by passed before a run started
    EXPIRED = "expired"
    #: final: an operator discarded the dead letter
    DISCARDED = "discarded"


class Status(StrEnum):
    """Public status: a coarser view of the state."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Event(StrEnum):
    """Event of a job; every change of state is one of these, written in the same transaction."""

    SUBMITTED = "submitted"
    DUE = "due"
    UNBLOCKED = "unblocked"
    DISPATCHED = "dispatched"
    RETURNED = "returned"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SNOOZED = "snoozed"
    RELEASED = "released"
    CRASHED = "crashed"
    LOST = "lost"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    #: a claim found no units of its limit keys, or needs more than there can ever be
    LIMITED = "limited"
    REFUSED = "refused"
    HELD = "held"
    RESOLVED = "resolved"
    REPLAYED = "replayed"
    REPLAY_STOPPED = "replay_stopped"
    DISCARDED = "discarded"
    CHANGED = "changed"
    LOG = "log"
    #: a piece of what the handler streams
    OUTPUT = "output"


#: events without a change of state
REMARKS = frozenset({Event.LOG, Event.OUTPUT})


FINAL = frozenset({State.SUCCEEDED, State.CANCELLED, State.EXPIRED, State.DISCARDED})
LIVE = frozenset(State) - FINAL
#: states that end `?wait=`: nothing more happens without an operator
SETTLED = FINAL | {State.DEAD}
#: states in which a cancellation takes effect at once
CANCELLABLE_AT_ONCE = LIVE - {State.RUNNING}
#: states from which a job can be replayed: same id, history kept
REPLAYABLE = frozenset({State.DEAD, State.CANCELLED, State.EXPIRED})
#: states in which priority and run_at can be changed: the job is not running
CHANGEABLE = frozenset({State.BLOCKED, State.SCHEDULED, State.AVAILABLE, State.DISPATCHED})

_S = State
_RUN_MAY_END_IN = frozenset({_S.SCHEDULED, _S.DEAD, _S.CANCELLED})

#: (state before, event) → the states it may lead to. `None` is "does not exist yet".
TRANSITIONS: dict[tuple[State | None, Event], frozenset[State]] = {
    (None, Event.SUBMITTED): frozenset({_S.BLOCKED, _S.SCHEDULED, _S.AVAILABLE}),
    (_S.BLOCKED, Event.REFUSED): frozenset({_S.DEAD}),
    (_S.BLOCKED, Event.UNBLOCKED): frozenset({_S.SCHEDULED, _S.AVAILABLE}),
    (_S.SCHEDULED, Event.DUE): frozenset({_S.AVAILABLE}),
    (_S.AVAILABLE, Event.DISPATCHED): frozenset({_S.DISPATCHED}),
    (_S.DISPATCHED, Event.RETURNED): frozenset({_S.AVAILABLE}),
    (_S.DISPATCHED, Event.LOST): frozenset({_S.AVAILABLE, _S.DEAD}),
    (_S.DISPATCHED, Event.LIMITED): frozenset({_S.SCHEDULED}),
    (_S.DISPATCHED, Event.REFUSED): frozenset({_S.DEAD}),
    (_S.DISPATCHED, Event.STARTED): frozenset({_S.RUNNING}),
    (_S.RUNNING, Event.SUCCEEDED): frozenset({_S.SUCCEEDED}),
    (_S.RUNNING, Event.FAILED): _RUN_MAY_END_IN,
    (_S.RUNNING, Event.TIMED_OUT): _RUN_MAY_END_IN,
    (_S.RUNNING, Event.CRASHED): _RUN_MAY_END_IN,
    (_S.RUNNING, Event.LOST): _RUN_MAY_END_IN,
    (_S.RUNNING, Event.SNOOZED): frozenset({_S.SCHEDULED, _S.CANCELLED}),
    (_S.RUNNING, Event.RELEASED): frozenset({_S.AVAILABLE, _S.CANCELLED}),
    (_S.RUNNING, Event.CANCEL_REQUESTED): frozenset({_S.RUNNING}),
    (_S.RUNNING, Event.CANCELLED): frozenset({_S.CANCELLED}),
    (_S.RUNNING, Event.HELD): frozenset({_S.HELD, _S.CANCELLED}),
    (_S.HELD, Event.RESOLVED): frozenset({_S.HELD, _S.AVAILABLE}),
    (_S.SCHEDULED, Event.REPLAY_STOPPED): frozenset({_S.DEAD}),
    (_S.AVAILABLE, Event.REPLAY_STOPPED): frozenset({_S.DEAD}),
    (_S.BLOCKED, Event.CHANGED): frozenset({_S.BLOCKED}),
    **{(state, Event.CHANGED): frozenset({_S.SCHEDULED, _S.AVAILABLE}) for state in CHANGEABLE - {_S.BLOCKED}},
    **{(state, Event.REPLAYED): frozenset({_S.BLOCKED, _S.SCHEDULED, _S.AVAILABLE}) for state in REPLAYABLE},
    **{(state, Event.DISCARDED): frozenset({_S.DISCARDED}) for state in (_S.DEAD, _S.HELD)},
    **{(state, Event.CANCELLED): frozenset({_S.CANCELLED}) for state in CANCELLABLE_AT_ONCE},
    **{
        (state, Event.EXPIRED): frozenset({_S.EXPIRED})
        for state in (_S.BLOCKED, _S.SCHEDULED, _S.AVAILABLE, _S.DISPATCHED)
    },
}


def may_lead_to(before: State | None, event: Event) -> frozenset[State]:
    """Return the states that `event` may lead to; empty when it is not allowed in `before`."""
    return TRANSITIONS.get((before, event), frozenset())


def status_of(state: State, run_no: int) -> Status:
    """Return the public status of a state. A scheduled job that has run before is being retried: processing."""
    if state in (State.RUNNING, State.HELD) or (state is State.SCHEDULED and run_no > 0):
        return Status.PROCESSING
    if state is State.SUCCEEDED:
        return Status.COMPLETED
    if state in (State.DEAD, State.CANCELLED, State.EXPIRED, State.DISCARDED):
        return Status.FAILED
    return Status.PENDING
