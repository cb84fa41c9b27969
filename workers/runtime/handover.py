"""Decide when a delivery goes to the pool, and which deliveries the committer claims before a slot is free for them.

A delivery that finds a free slot goes there at once, and its slot claims it: at low load no delivery waits for a
commit. A delivery that would wait for a slot anyway is claimed meanwhile if its kind is short, by the measured mean of
its runs; its slot then starts the handler at once. A claimed job is running for the ledger, so only deliveries that
start within a moment are claimed, and a claim that does not start is given back. Beside kinds whose runs are longer
than that nothing is claimed ahead: their slots would not become free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state

from jobplatform.usecases.execute_run import Claim
from workers.runtime.attempt import Ended
from workers.runtime.committer import Committer, Finished, settle_alone
from workers.runtime.deliveries import Deliveries, Held
from workers.runtime.task import CLAIM, claim_header

#: deliveries are claimed ahead as far as the slots reach them within this time (s), by the mean of their kind's runs
AHEAD_SECONDS = 0.05
#: … and at most this many per slot
AHEAD_PER_SLOT = 16
#: runs of a kind that are measured before any is claimed ahead
MEASURED_RUNS = 5
#: the weight of the last run in the mean of a kind
WEIGHT = 0.1
#: a claim whose slot has not become free for this long is given back (s)
GIVE_BACK_SECONDS = 1.0


class RunTimes:
    """The mean duration of the runs of each kind, as this worker has measured them; recent runs weigh more."""

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._means: dict[str, float] = {}

    def note(self, kind: str, seconds: float) -> None:
        """Note the duration of a run."""
        self._runs[kind] = self._runs.get(kind, 0) + 1
        mean = self._means.get(kind, seconds)
        self._means[kind] = mean + (seconds - mean) * max(WEIGHT, 1 / self._runs[kind])

    def longest(self) -> float | None:
        """Return the mean of the kind with the longest runs (s); None before any is known."""
        return max((self._means[kind] for kind, runs in self._runs.items() if runs >= MEASURED_RUNS), default=None)

    def mean(self, kind: str) -> float | None:
        """Return the mean (s); None while it is not known."""
        return self._means[kind] if self._runs.get(kind, 0) >= MEASURED_RUNS else None


class Handover:
    """Between Celery's consumer and its pool. Used by the worker's own thread, and by the threads of a thread pool."""

    def __init__(
        self,
        deliveries: Deliveries,
        committer: Committer,
        *,
        slots: Callable[[], int],
        is_full: Callable[[], bool],
        give: Callable[[Any], Any],
        free_slot: Callable[[], None],
        set_ahead: Callable[[int], None],
    ) -> None:
        self._deliveries, self.committer = deliveries, committer
        self._slots, self._is_full = slots, is_full
        self._give, self._free_slot = give, free_slot
        #: tells the consumer how many messages to prefetch beyond its setting
        self._set_ahead = set_ahead
        self._times = RunTimes()
        #: claims were given back since the last run of a slot ended: more of them would be, again and again
        self._is_stalled = False
        self._lock = threading.Lock()

    def receive(self, request: Any) -> None:
        """Claim a delivery ahead, if it would wait and is short."""
        if self._is_full() and self._may_claim(request.name):
            request.is_claim_pending = True
            self._deliveries.claim_ahead(request.held())
            self.committer.claim(request.delivery(), partial(self._claimed, request))

    def _may_claim(self, kind: str) -> bool:
        if state.should_stop is not None or self._is_stalled or (self._times.longest() or 0.0) > GIVE_BACK_SECONDS:
            return False
        return self._deliveries.ahead(self._slots()) < self._most_ahead(self._times.mean(kind))

    def _most_ahead(self, mean: float | None) -> int:
        """Return how many deliveries may be claimed ahead, given the mean duration of their runs."""
        if mean is None:
            return 0
        return int(self._slots() * min(AHEAD_PER_SLOT, AHEAD_SECONDS / max(mean, 1e-6)))

    def _claimed(self, request: Any, claimed: Claim | None) -> None:
        """Take the committer's answer."""
        if claimed is None and self._deliveries.withdraw(request.lease_id) is None:
            request.renew_lease()  # the other is being given back, maybe later than its slot claims (rule "Lease once")
        with self._lock:
            request.is_claim_pending = False
            request.claimed = claimed
            has_slot = request.has_slot
        if has_slot:
            self._hand_over(request)

    def hand_over(self, request: Any) -> None:
        """Give a delivery to the pool, which has a slot for it: at once, or when its claim is committed."""
        with self._lock:
            request.has_slot = True
            if request.is_claim_pending:
                return
        self._hand_over(request)

    def _hand_over(self, request: Any) -> None:
        held = request.held()
        if request.claimed is None:
            self._deliveries.add(held)
        elif self._deliveries.add_claimed(held):
            request.request_dict[CLAIM] = claim_header(request.claimed)
        else:  # its run was given back or cancelled: this delivery is over
            request.acknowledge()
            self._free_slot()
            return
        self._give(request)

    def finish(self, request: Any, run: Finished, seconds: float, then: Callable[[Ended | Exception], None]) -> None:
        """Settle a success that its slot has deferred; `then` is called when it is committed."""
        self._deliveries.finish(request.lease_id)
        self._times.note(request.name, seconds)
        self._is_stalled = False
        self._set_ahead(self._most_ahead(self._times.longest()))
        if state.should_stop is not None:  # the worker's thread waits for its pool, and handles nothing else any more
            then(settle_alone(run))
        else:
            self.committer.settle(run, then)

    def give_back(self, reason: str, older_than_seconds: float = 0.0) -> None:
        """Give back what was claimed ahead this long ago and has not got a slot. Thread-safe."""
        for held in self._deliveries.withdraw_all(older_than_seconds):
            self._is_stalled = True
            self._release(held, reason)

    def close(self, reason: str, seconds: float | None) -> None:
        """Give back all claims that no slot has begun, and commit everything that waits. The pool has ended."""
        for held in self._deliveries.withdraw_unstarted():
            self._release(held, reason)
        self.committer.close(seconds)

    def _release(self, held: Held, reason: str) -> None:
        then = partial(self._deliveries.given_back, held.lease_id)
        self.committer.release(held.job_id, held.lease_id, reason, then)
