"""Stops runs from outside: cancelled ones, ones that were lost while this worker was frozen, and all at shutdown.

A prefork child is killed, and its death is reported. A thread can't be stopped: its run is ended in the
ledger, its later writes are discarded, and it is counted: a worker with too many such threads restarts.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

from jobplatform.config import Settings
from jobplatform.errors import LeaseLost, LedgerUnavailable, OutcomeUnknown
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import worker_metrics
from jobplatform.usecases import end_runs, track_workers
from jobplatform.usecases.track_workers import CancelRequest, WorkerInfo
from workers.runtime.deliveries import Deliveries, Held
from workers.runtime.process import parent_ledger

log = get_log(__name__)


class Stopper:
    """Called at every heartbeat. `end` asks this worker to shut down, `leave` exits at once."""

    def __init__(
        self,
        card: WorkerInfo,
        deliveries: Deliveries,
        settings: Settings,
        end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
        leave: Callable[[], None] = lambda: os._exit(0),
    ) -> None:
        self._card, self._deliveries, self._settings = card, deliveries, settings
        self._end, self._leave = end, leave
        self._can_kill = card.pool == "prefork"
        #: when SIGTERM came (time.monotonic): from then on the death of a child is not blamed on its job
        self.shutting_down_since: float | None = None
        #: leases of runs that are given back, not lost; on threads they go on
        self.given_back: set[UUID] = set()
        #: leases of runs that have ended in the ledger and go on in a thread
        self._abandoned: set[UUID] = set()
        #: of the leases that children have: those whose run was seen, and those whose run was missing at the last check
        self._seen_running: set[UUID] = set()
        self._missing: set[UUID] = set()
        self._recycling = False

    def stop_runs(self, requests: Sequence[CancelRequest]) -> None:
        """Stop runs that must be stopped now. Raises `LedgerUnavailable`."""
        if self.shutting_down_since is not None:
            self._give_back()
        for request in requests:
            if self._deliveries.withdraw(request.lease_id) is not None:  # claimed, and not begun: nothing to wait for
                self._abandon(request, "cancelled before it began")
            elif request.signal is not None and self._can_kill:
                self._terminate(request, request.signal)
            elif request.seconds >= self._settings.cancel_grace_seconds:
                self._cancel(request)
        self._stop_zombies()
        self._count_leaked()

    def _cancel(self, request: CancelRequest) -> None:
        """End a cancelled run whose grace period is over."""
        held = self._deliveries.get(request.lease_id)
        if held is None:
            return
        if self._can_kill:
            self._kill(held, "run_killed_on_cancel")
            return
        with suppress(LeaseLost):
            end_runs.abandon_run(parent_ledger(), request.job_id, request.lease_id)
            self._abandoned.add(request.lease_id)
            log.warning("run_abandoned_on_cancel", job_id=str(request.job_id))

    def _abandon(self, request: CancelRequest, message: str) -> None:
        with suppress(LeaseLost):
            end_runs.abandon_run(parent_ledger(), request.job_id, request.lease_id, message)

    def _terminate(self, request: CancelRequest, name: str) -> None:
        """Send a signal to a run's process, and end the run: later writes of the process are refused."""
        held = self._deliveries.get(request.lease_id)
        if held is None or not held.pid:
            return
        self._kill(held, "run_terminated_on_cancel", signal.Signals[name])
        self._abandon(request, f"cancelled, its process got {name}")

    def _give_back(self) -> None:
        """When the shutdown time is over, stop running jobs, and make them available again."""
        limit, since = self._settings.shutdown_seconds, self.shutting_down_since
        alive = [held for held in self._deliveries.in_pool() if held.lease_id not in self._abandoned]
        if limit and since is not None and time.monotonic() - since >= limit:
            for held in alive:
                if self._can_kill:
                    if held.pid and held.lease_id not in self.given_back:
                        self.given_back.add(held.lease_id)
                        self._kill(held, "run_given_back")
                else:
                    if end_runs.release_run(parent_ledger(), held.job_id, held.lease_id):
                        log.warning("run_given_back", job_id=str(held.job_id))
                    self._deliveries.remove(held.lease_id)
                    self.given_back.add(held.lease_id)
            alive = alive if self._can_kill else []
        if self._leaked() and not alive:  # only threads are left that can't be stopped; Celery would wait forever
            with suppress(LedgerUnavailable, OutcomeUnknown):
                track_workers.deregister(parent_ledger(), self._card)
            self._leave()

    def _stop_zombies(self) -> None:
        """Stop processes whose run was ended while this worker was frozen or cut off; their writes are refused.

        Such a run was seen before, and is missing at two checks in a row. A claim without an answer has not been seen
        yet, and the parent has heard of a settled run by the second check.
        """
        taken = self._deliveries.taken()
        leases = {held.lease_id for held in taken}
        running = track_workers.find_running(parent_ledger(), self._card.id, list(leases)) if leases else set()
        missing = (self._seen_running & leases) - running
        for held in taken:
            if held.lease_id not in missing & self._missing:
                continue
            if not self._can_kill:
                self._abandoned.add(held.lease_id)
            elif sum(item.pid == held.pid for item in taken) == 1:
                self._kill(held, "zombie_killed")  # its death is reported; the report finds that the job moved on
        self._seen_running, self._missing = (self._seen_running | running) & leases, missing

    def _leaked(self) -> set[UUID]:
        """Return the leases of runs that have ended in the ledger and still have a thread."""
        if self._can_kill:
            return set()
        self._abandoned = {lease_id for lease_id in self._abandoned if self._deliveries.get(lease_id) is not None}
        return self._abandoned | self.given_back

    def _count_leaked(self) -> None:
        """Report the number of abandoned threads; restart the worker when they take half of its slots."""
        if self._can_kill:
            return
        leaked = len(self._leaked())
        worker_metrics().abandoned.set(leaked)
        if leaked and leaked * 2 >= self._card.slots and not self._recycling:
            self._recycling = True
            log.error("worker_starts_anew", why="threads of ended runs can't be stopped", threads=leaked)
            self._end()

    def _kill(self, held: Held, event: str, number: signal.Signals = signal.SIGKILL) -> None:
        if held.pid:
            log.warning(event, job_id=str(held.job_id), pid=held.pid)
            with suppress(ProcessLookupError):
                os.kill(held.pid, number)
