"""Property test: under any sequence of operations, the ledger's SQL follows the transition table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from jobplatform.domain.states import FINAL, Event, State, may_lead_to
from jobplatform.ledger import dead_letters, dispatching, effects, jobs, queues, runs, workers
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import track_workers
from tests.support.ledger_harness import LedgerHarness

#: (outcome, state of the job that the caller decided on)
ENDS = [
    ("succeeded", "succeeded"),
    ("failed", "dead"),
    ("failed", "scheduled"),
    ("timed_out", "scheduled"),
    ("snoozed", "scheduled"),
    ("released", "available"),
    ("held", "held"),
    ("cancelled", "cancelled"),
    ("crashed", None),
    ("lost", None),
]
ERROR = {"code": "x", "message": "x", "retryable": True}


class Ledgers(RuleBasedStateMachine):
    """Two jobs and a worker; any call may come at any time, with stale leases and stale dispatch numbers."""

    harness: LedgerHarness

    @initialize()
    def begin(self) -> None:
        for table in ("jobs", "job_history", "job_runs", "job_events", "queue_counters", "effects"):
            self.harness.do(f"TRUNCATE {table}")
        self.harness.do("UPDATE queues SET paused_at = NULL")
        track_workers.register(self.harness.ledger, self.harness.worker)
        self.ids = [self.harness.submit(max_attempts=2), self.harness.submit()]
        self.leases = [new_id()]

    @rule(window=st.integers(1, 3), refused=st.integers(0, 2))
    def dispatch(self, window: int, refused: int) -> None:
        with self.harness.round(window=window) as (result, opened):
            if result and refused:
                opened.take_back(result[:refused])

    @rule(which=st.integers(0, 1), number=st.integers(0, 4))
    def claim(self, which: int, number: int) -> None:
        self.leases.append(new_id())
        self.harness.claim(self.ids[which], self.leases[-1], dispatch_no=number)

    @rule(
        which=st.integers(0, 1),
        lease=st.integers(0, 30),
        end=st.sampled_from(ENDS),
    )
    def settle(self, which: int, lease: int, end: tuple[str, str | None]) -> None:
        held = self.leases[-1 - lease % len(self.leases)]
        row = self.harness.row(self.ids[which])
        outcome, state = end
        if state == "scheduled" and outcome != "snoozed" and row is not None and row.attempt >= row.max_attempts:
            state = "dead"  # as the worker decides
        if outcome == "held":  # by an effect that an earlier run has left unknown
            effects.begin_effect(self.harness.ledger, self.ids[which], held, "e", new_id(), "hold")
        settlement = runs.Settlement(outcome, state, error=None if outcome == "succeeded" else ERROR)
        runs.settle_run(self.harness.ledger, self.ids[which], held, settlement)

    @rule(which=st.integers(0, 1))
    def cancel(self, which: int) -> None:
        with self.harness.ledger.transaction() as connection:
            jobs.cancel_job(connection, self.harness.tenant_id, self.ids[which], "p")

    @rule()
    def make_due(self) -> None:
        self.harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE state = 'scheduled'")
        dispatching.wake_jobs(self.harness.ledger, 10, None)

    @rule(which=st.integers(0, 1), number=st.integers(0, 4))
    def return_job(self, which: int, number: int) -> None:
        with self.harness.ledger.transaction() as connection:
            runs.return_job(connection, self.ids[which], number, "p")

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        with self.harness.ledger.transaction() as connection:
            queues.set_paused(connection, "email", paused)

    @rule(which=st.integers(0, 1), delay=st.sampled_from([0.0, 60.0]))
    def replay(self, which: int, delay: float) -> None:
        with self.harness.ledger.transaction() as connection:
            dead_letters.replay_job(connection, self.harness.tenant_id, self.ids[which], delay, {"by": "p"})

    @rule(which=st.integers(0, 1))
    def discard(self, which: int) -> None:
        with self.harness.ledger.transaction() as connection:
            dead_letters.discard_job(connection, self.harness.tenant_id, self.ids[which], "p", {"by": "p"})

    @rule(which=st.integers(0, 1), happened=st.booleans())
    def resolve(self, which: int, happened: bool) -> None:
        with self.harness.ledger.transaction() as connection:
            effects.resolve_effect(
                connection,
                self.harness.tenant_id,
                self.ids[which],
                "e",
                happened=happened,
                receipt=None,
                data={"by": "p"},
            )

    @rule(which=st.integers(0, 1), priority=st.sampled_from([None, 1, 9]), hours=st.sampled_from([None, -1, 1]))
    def change(self, which: int, priority: int | None, hours: int | None) -> None:
        run_at = datetime.now(UTC) + timedelta(hours=hours) if hours else None
        with self.harness.ledger.transaction() as connection:
            jobs.change_job(
                connection, self.harness.tenant_id, self.ids[which], priority=priority, run_at=run_at, data={"by": "p"}
            )

    @rule()
    def lose_the_worker(self) -> None:
        track_workers.deregister(self.harness.ledger, self.harness.worker)
        with self.harness.ledger.transaction() as connection:
            workers.rescue_runs(connection, 60.0)
        track_workers.register(self.harness.ledger, self.harness.worker)

    @rule()
    def wipe_the_broker(self) -> None:
        with self.harness.ledger.transaction() as connection:
            dispatching.return_other_epochs(connection, new_id(), 10)

    @rule(which=st.integers(0, 1))
    def expire(self, which: int) -> None:
        self.harness.do(
            "UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :id", id=self.ids[which]
        )
        dispatching.wake_jobs(self.harness.ledger, 10, None)
        self.harness.do("UPDATE jobs SET start_by = NULL")

    @invariant()
    def every_step_is_in_the_table(self) -> None:
        for job_id in getattr(self, "ids", []):
            before = None
            rows = self.harness.all("SELECT event, state FROM job_events WHERE job_id = :j ORDER BY id", j=job_id)
            for event, state in rows:
                assert State(state) in may_lead_to(before, Event(event)), f"{before} --{event}--> {state}"
                before = State(state)
            assert self.harness.row(job_id).state == before, "state and history change together"

    @invariant()
    def runs_are_numbered_and_counted(self) -> None:
        for job_id in getattr(self, "ids", []):
            row = self.harness.row(job_id)
            numbers = self.harness.all("SELECT run_no FROM job_runs WHERE job_id = :j ORDER BY run_no", j=job_id)
            ended = row.run_no - (row.state == "running")
            assert numbers == list(range(1, ended + 1))
            counted = self.harness.all(
                "SELECT count(*)::int FROM job_runs WHERE job_id = :j "
                "AND outcome IN ('succeeded', 'failed', 'timed_out', 'cancelled') AND run_no > coalesce(("
                "SELECT max(run_no) FROM job_events WHERE job_id = :j AND event = 'replayed'), 0)",
                j=job_id,
            )[0]
            assert row.attempt == counted + (row.state == "running")

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "ids"):
            self.harness.assert_conserved()
            assert all(self.harness.row(job_id) is not None for job_id in self.ids)

    @invariant()
    def final_is_final(self) -> None:
        for job_id in getattr(self, "ids", []):
            rows = self.harness.all("SELECT event, state FROM job_events WHERE job_id = :j ORDER BY id", j=job_id)
            for (_, before), (event, _) in pairwise(rows):
                assert State(before) not in FINAL or event == "replayed"


def test_the_ledger_follows_the_transition_table(harness: LedgerHarness) -> None:
    machine = type("Machine", (Ledgers,), {"harness": harness})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize("state", sorted(FINAL))
def test_only_a_replay_leads_out_of_a_final_state(state: State) -> None:
    out = {event for event in Event if may_lead_to(state, event)}
    assert out == ({Event.REPLAYED} if state in (State.CANCELLED, State.EXPIRED) else set())
