"""Group commit: one thread of the worker's parent settles successful runs and claims deliveries ahead of free slots.

A slot that settles and claims by itself waits for two commits per job, and each wait costs the disk and then a place
on the processor. The committer puts everything that arrives during one commit into the next one, so all slots share
the wait (docs/decisions/0011-group-commit.md). A message is acknowledged after the commit that settles its run.

It decides the usual case only (`claim_runs.sql`, `settle_runs.sql`). The slot claims a delivery that the committer
could not claim, and a run that could not be settled with others is settled alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

import orjson
import structlog

from jobplatform.domain.states import State
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.ledger import runs
from jobplatform.ledger.runs import ClaimRequest, Success
from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import worker_metrics
from jobplatform.usecases import end_runs
from jobplatform.usecases.execute_run import Claim, Delivery, Settlement
from workers.runtime.attempt import Ended, settle_claim
from workers.runtime.process import ledger

log = get_log(__name__)
T = TypeVar("T")

#: from one commit to the next (s): under load more is committed together; at low load no commit waits
INTERVAL_SECONDS = 0.003
#: between two tries while the ledger is unavailable (s)
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Finished:
    """A successful run, as its slot hands it over."""

    delivery: Delivery
    run_no: int
    #: the handler's result as JSON, and what the run used
    result: bytes
    usage: bytes
    #: when its handler started (time.monotonic, which all processes of a machine share); None: at its claim
    began_at: float | None

    @property
    def success(self) -> Success:
        """The run as the ledger takes it."""
        delivery = self.delivery
        return Success(delivery.job_id, delivery.lease_id, self.result, self.usage, self.began_at)


@dataclass(frozen=True)
class _Settlement:
    run: Finished
    then: Callable[[Ended | Exception], None]


@dataclass(frozen=True)
class _Claim:
    delivery: Delivery
    then: Callable[[Claim | None], None]


@dataclass(frozen=True)
class _Release:
    job_id: UUID
    lease_id: UUID
    reason: str
    then: Callable[[], None]


class Committer:
    """Calls `wake` when there are answers for `deliver`, which the worker's own thread has to call."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        #: when the last commit began (time.monotonic)
        self._committed_at = 0.0
        self._answers: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._settlements: deque[_Settlement] = deque()
        self._claims: deque[_Claim] = deque()
        self._releases: deque[_Release] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def settle(self, run: Finished, then: Callable[[Ended | Exception], None]) -> None:
        """Settle a successful run with the next commit; `then` is delivered its end after it."""
        with self._changed:
            self._settlements.append(_Settlement(run, then))
            self._changed.notify()

    def claim(self, delivery: Delivery, then: Callable[[Claim | None], None]) -> None:
        """Claim a delivery with the next commit; `then` is delivered the claim, or None: its slot has to claim it."""
        with self._changed:
            self._claims.append(_Claim(delivery, then))
            self._changed.notify()

    def release(self, job_id: UUID, lease_id: UUID, reason: str, then: Callable[[], None]) -> None:
        """Give a claim back that no slot has begun: the job is available at once, and no attempt is counted.

        `then` is called on the committer's thread when the ledger has it.
        """
        self._put_release(_Release(job_id, lease_id, reason, then))

    def _put_release(self, release: _Release) -> None:
        with self._changed:
            self._releases.append(release)
            self._changed.notify()

    def deliver(self) -> None:
        """Call what the callers have asked for, in the order of the commits."""
        while self._answers:
            try:
                answer = self._answers.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                answer()
            except Exception:  # one delivery must not stop the others
                log.exception("answer_failed")

    def close(self, seconds: float | None = None) -> None:
        """Commit everything that waits, end the thread, and deliver the last answers; wait for at most `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=seconds)
        self.deliver()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            settlements, claims, releases = work
            try:
                if settlements or claims:
                    self._commit(settlements, claims)
                for release in releases:
                    self._release(release)
            except Exception:  # the thread must go on: without it no run of this worker is settled
                log.exception("commit_failed", runs=len(settlements), claims=len(claims))

    def _next(self) -> tuple[list[_Settlement], list[_Claim], list[_Release]] | None:
        """Wait for work; None at the end."""
        with self._changed:
            while not (self._settlements or self._claims or self._releases):
                if self._closing:
                    return None
                self._changed.wait()
        if (pause := self._committed_at + INTERVAL_SECONDS - time.monotonic()) > 0:
            time.sleep(pause)
        with self._changed:
            # all of them: the prefetch bounds how many there are. A release must not overtake its claim
            return _take(self._settlements), _take(self._claims), _take(self._releases)

    def _commit(self, settlements: list[_Settlement], claims: list[_Claim]) -> None:
        requests = [
            ClaimRequest(item.delivery.job_id, item.delivery.dispatch_no, item.delivery.kind, item.delivery.lease_id)
            for item in claims
        ]
        self._committed_at = time.monotonic()
        try:
            any_delivery = claims[0].delivery if claims else settlements[0].run.delivery
            settled, claimed = runs.commit_runs(
                ledger(),
                [item.run.success for item in settlements],
                requests,
                any_delivery.worker_id,
                any_delivery.node,
            )
        except Exception as error:
            # Nothing is known of the claims: a slot that repeats one finds it "mine" if it was committed. Nothing is
            # known of the runs, and one row may be at fault for all: each is settled alone, which waits for the ledger.
            reason = str(error).partition("\n")[0]
            log.warning("group_commit_failed", error=reason, runs=len(settlements), claims=len(claims))
            settled, claimed = set(), {}
        worker_metrics().commits.inc()
        for claim in claims:
            row = claimed.get(claim.delivery.lease_id)
            granted = None if row is None else Claim(claim.delivery, *row, is_plain=True)
            self._answers.append(partial(claim.then, granted))
        self._wake()  # settling alone may take long
        for settlement in settlements:
            self._answers.append(partial(settlement.then, _end(settlement.run, settled)))
        self._wake()

    def _release(self, release: _Release) -> None:
        try:
            released = end_runs.give_claim_back(ledger(), release.job_id, release.lease_id, release.reason)
        except (LedgerUnavailable, OutcomeUnknown) as error:
            log.warning("claim_not_released", job_id=str(release.job_id), error=str(error))
            time.sleep(RETRY_SECONDS)
            if not self._closing:  # else the worker's end gives it back
                self._put_release(release)
            return
        except Exception:
            release.then()  # heartbeats no longer name it: rescue ends the run
            raise
        release.then()
        log.info("claim_released", job_id=str(release.job_id), reason=release.reason, released=released)


def settle_alone(run: Finished) -> Ended | Exception:
    """Settle one run, and wait for the ledger if need be. Returns an error that is none of the ledger's outages."""
    with structlog.contextvars.bound_contextvars(job_id=str(run.delivery.job_id), run_no=run.run_no):
        try:
            result, usage = orjson.Fragment(run.result), orjson.loads(run.usage)
            settlement = Settlement("succeeded", State.SUCCEEDED, result=result, usage=usage)
            return settle_claim(run.delivery, run.run_no, settlement)
        except Exception as error:
            log.exception("settle_failed")
            return error


def _end(run: Finished, settled: set[UUID]) -> Ended | Exception:
    if run.delivery.lease_id not in settled:
        return settle_alone(run)
    job_id = str(run.delivery.job_id)
    log.info("run_settled", job_id=job_id, run_no=run.run_no, outcome="succeeded", state="succeeded")
    return Ended(State.SUCCEEDED, f"run {run.run_no}: succeeded → succeeded")


def _take(items: deque[T]) -> list[T]:
    return [items.popleft() for _ in range(len(items))]
