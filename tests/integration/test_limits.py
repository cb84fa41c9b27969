"""Limits on keys: slots at dispatch, units at the claim, pauses; jobs that wait for one key block no other jobs."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from jobplatform.broker.publisher import Publisher
from jobplatform.config import Settings
from jobplatform.dispatch.audit import audit_ledger
from jobplatform.dispatch.policy import Policy
from jobplatform.dispatch.queue_round import RoundReport, run_round
from jobplatform.dispatch.waiting import Waiting
from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import LeaseLost, Permanent, QuotaExceeded
from jobplatform.ledger import dispatching, keys, limits, queues, workers
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import open_ledger
from jobplatform.usecases import execute_run, track_workers
from jobplatform.usecases.execute_run import Delivery
from jobplatform.usecases.explain_job import explain_job
from jobplatform.usecases.list_queues import list_queues
from jobplatform.usecases.submit_planned import submit_prepared, submit_steps
from tests.support.desk import Desk, limit, out, submit
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import eventually


def test_a_key_has_no_more_jobs_in_flight_than_its_limit_and_other_jobs_pass(
    harness: LedgerHarness, desk: Desk
) -> None:
    limit(harness, "provider:x", max_concurrent=2)
    held = [submit(harness, "provider:x") for _ in range(5)]
    free = [submit(harness), submit(harness, "provider:y")]
    assert desk.rounds() == 4
    assert out(harness, "provider:x") == 2
    assert {harness.row(job_id).state for job_id in free} == {"dispatched"}
    report = desk.round()
    assert report.sent == 0 and not report.waiting and report.limited_seconds
    lease = new_id()
    harness.claim(held[0], lease)
    assert desk.round().sent == 0, "a running job occupies a slot, too"
    harness.settle(held[0], lease)
    assert desk.round().sent == 1


def test_a_limit_applies_from_its_commit_on_even_to_a_dispatcher_that_has_not_read_it(
    harness: LedgerHarness, publisher: Publisher
) -> None:
    for _ in range(3):
        submit(harness, "k:1")
    free = submit(harness)
    limit(harness, "k:1", max_concurrent=1)
    waiting = Waiting(lambda tenant: 1.0)
    report = run_round(harness.ledger, publisher, waiting, Policy(), "email", 10, 10)
    assert (report.sent, harness.row(free).state) == (1, "dispatched")
    policy = Policy()
    policy.read(harness.ledger)
    for _ in range(3):
        run_round(harness.ledger, publisher, waiting, policy, "email", 10, 10)
    assert out(harness, "k:1") == 1


def test_a_key_is_limited_across_queues_and_dispatchers(
    harness: LedgerHarness, publisher: Publisher, broker_url: str
) -> None:
    limit(harness, "provider:*", max_concurrent=3)
    for queue in ("email", "video") * 10:
        submit(harness, "provider:x", queue=queue)
    desks = [Desk(harness, publisher), Desk(harness, Publisher(broker_url))]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            list(pool.map(lambda pair: pair[0].round(pair[1]), zip(desks, ("email", "video"), strict=True)))
    assert out(harness, "provider:x") == 3
    desks[1].publisher.close()


def test_two_dispatchers_never_assign_one_slot_twice(harness: LedgerHarness, desk: Desk) -> None:
    """Slots are counted under the key's lock: the second dispatcher sees the slot taken, or the key locked."""
    limit(harness, "k:1", max_concurrent=1)
    submit(harness, "k:1")
    submit(harness, "k:1", queue="video")
    ledger = open_ledger(harness.url, name="other")
    with dispatching.read_queue(ledger, "video", keys=["k:1"]) as opened:
        assert opened.queue_state.key_free == [1]
        assert desk.round().sent == 0 and desk.round().sent == 0
    assert desk.round().sent == 1
    with dispatching.read_queue(ledger, "video", keys=["k:1"]) as opened:
        assert opened.queue_state.key_free == [0]
    ledger.close()


def test_the_slots_of_a_slow_round_of_another_queue_are_counted_too(harness: LedgerHarness, desk: Desk) -> None:
    """The slow round's marks are older than this dispatcher's last count of jobs in flight, but commit after it."""
    limit(harness, "k:1", max_concurrent=1)
    limit(harness, "other:1", max_concurrent=5)
    slow = submit(harness, "k:1", queue="video")
    ledger = open_ledger(harness.url, name="other")
    with dispatching.read_queue(ledger, "video", keys=["k:1"]) as opened:
        (line,) = opened.queue_state.arrivals
        opened.dispatch([(line.id, 1)], [0.0])
        harness.do("SELECT pg_sleep(0.3)")
        submit(harness, "other:1")
        assert desk.rounds() == 1
        assert desk.round().sent == 0
    submit(harness, "k:1")
    assert desk.rounds() == 0 and out(harness, "k:1") == 1
    assert harness.row(slow).state == "dispatched"
    ledger.close()


@pytest.mark.parametrize("how", ["crash", "rescue", "return", "cancel", "expire"])
def test_a_slot_is_released_once_however_a_run_ends(harness: LedgerHarness, desk: Desk, how: str) -> None:
    limit(harness, "k:1", max_concurrent=1)
    first = submit(harness, "k:1")
    submit(harness, "k:1")
    assert desk.rounds() == 1
    lease = new_id()
    match how:
        case "crash":
            harness.claim(first, lease)
            track_workers.beat(harness.ledger, harness.worker, [])
            track_workers.beat(harness.ledger, harness.worker, [])
            track_workers.beat(harness.ledger, harness.worker, [])
        case "rescue":
            harness.claim(first, lease)
            track_workers.deregister(harness.ledger, harness.worker)
        case "return":
            harness.do("SELECT return_job(:j, 1, 'test')", j=first)
            harness.do("UPDATE jobs SET state = 'scheduled', run_at = now() + interval '1 h' WHERE id = :j", j=first)
        case "cancel":
            harness.do("SELECT cancel_job(:t, :j, now() - interval '1 day', 'x')", t=harness.tenant_id, j=first)
        case "expire":
            harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :j", j=first)
            dispatching.wake_jobs(harness.ledger, 10, None)
    with harness.ledger.transaction() as connection:
        workers.rescue_runs(connection, 60.0)
    assert harness.row(first).state not in ("dispatched", "running")
    assert desk.rounds() == 1 and out(harness, "k:1") == 1


def test_limits_change_at_run_time_and_a_single_key_may_have_its_own_limit(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "domain:*", max_concurrent=1)
    for _ in range(6):
        submit(harness, "domain:a.example")
        submit(harness, "domain:b.example")
    assert desk.rounds() == 2
    limit(harness, "domain:a.example", max_concurrent=4)
    assert desk.rounds() == 3
    limit(harness, "domain:a.example", max_concurrent=0)
    harness.do("DELETE FROM limits WHERE name = 'domain:*'")
    assert desk.rounds() == 5
    assert (out(harness, "domain:a.example"), out(harness, "domain:b.example")) == (4, 6)
    harness.do("DELETE FROM limits")
    assert desk.rounds() == 2


def test_the_key_tenant_stands_for_the_jobs_own_tenant(harness: LedgerHarness) -> None:
    with harness.ledger.transaction() as connection:
        tenant = keys.create_tenant(connection, "Größe & Co: 100%")
    job_id = submit(harness, "tenant", "a:1", tenant=tenant)
    from jobplatform.domain.limits import key

    assert harness.row(job_id).limit_keys == ["a:1", key("tenant", "Größe & Co: 100%")]


def test_tenants_share_a_queue_by_their_weights(harness: LedgerHarness, desk: Desk) -> None:
    with harness.ledger.transaction() as connection:
        heavy, light = (keys.create_tenant(connection, name) for name in ("heavy", "light"))
    harness.do("UPDATE tenants SET weight = 3 WHERE name = 'heavy'")
    for tenant in (heavy, light):
        for _ in range(40):
            submit(harness, tenant=tenant)
    assert desk.rounds(window=20) == 20
    counter = Counter(
        harness.all("SELECT t.name FROM jobs j JOIN tenants t ON t.id = j.tenant_id WHERE state = 'dispatched'")
    )
    assert counter == {"heavy": 15, "light": 5}


def test_a_single_job_overtakes_a_backlog_without_reading_it(harness: LedgerHarness, desk: Desk) -> None:
    with harness.ledger.transaction() as connection:
        big = keys.create_tenant(connection, "big")
    harness.do(
        "INSERT INTO jobs (id, tenant_id, queue, kind, state, priority, payload, max_attempts, crash_limit, "
        "lost_limit, run_at) SELECT gen_random_uuid(), :t, 'email', 'test.echo', 'available', 4, '{}', 3, 3, 3, now() "
        "FROM generate_series(1, 20000)",
        t=big,
    )
    harness.do("VACUUM (ANALYZE) jobs")  # by these statistics, all waiting jobs belong to one tenant
    desk.rounds(window=10)
    lone = submit(harness)

    def read() -> int:
        with harness.ledger.statement() as connection:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        desk.harness.ledger.call("waiting_queues", [], [])
        (tuples,) = harness.all(
            "SELECT (seq_tup_read + idx_tup_fetch)::int FROM pg_stat_user_tables WHERE relname = 'jobs'"
        )
        return tuples

    harness.do("UPDATE jobs SET state = 'available' WHERE state = 'dispatched'")
    desk.round(window=12)
    assert desk.round(window=14).sent and harness.row(lone).state == "dispatched"
    for _ in range(8):  # Postgres plans each of the first calls of a session anew
        desk.round(window=16)
        harness.do("UPDATE jobs SET state = 'available' WHERE state = 'dispatched' AND tenant_id = :t", t=big)
    submit(harness)
    before = read()
    desk.round(window=18)
    assert read() - before < 3000, "at most 2,000 arrivals are read, then one probe per flow"


# --- units per period, taken at the claim


def test_units_are_taken_at_the_claim_and_a_job_without_units_is_snoozed(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "mail:x", rate_units=2, rate_seconds=3600)
    ids = [submit(harness, "mail:x") for _ in range(3)]
    harness.dispatch(*ids)  # as if units had been available for all of them
    verdicts = [harness.claim(job_id).verdict for job_id in ids]
    assert verdicts == ["claimed", "claimed", "limited"]
    row = harness.row(ids[2])
    assert (row.state, row.attempt, row.run_no, row.lease_id) == ("scheduled", 0, 0, None)
    assert 1700 < (row.run_at - row.state_at).total_seconds() < 2000
    assert harness.events(ids[2])[-1] == "limited"
    submit(harness, "mail:x")
    report = desk.round()
    assert report.sent == 0, "no message without units"
    assert_audit_is_clean(harness)


def test_a_rate_limit_holds_after_a_pause_of_the_workers(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "mail:x", rate_units=5, rate_seconds=3600)
    for _ in range(20):
        submit(harness, "mail:x")
    sent = desk.rounds()
    assert sent == 5, "only jobs with available units are dispatched"
    assert [
        harness.claim(job_id).verdict for job_id in harness.all("SELECT id FROM jobs WHERE state = 'dispatched'")
    ] == ["claimed"] * 5
    assert desk.rounds() == 0


def test_a_job_takes_units_of_all_its_keys_or_of_none(harness: LedgerHarness) -> None:
    limit(harness, "a:1", rate_units=10, rate_seconds=3600)
    limit(harness, "b:1", rate_units=1, rate_seconds=3600)
    ids = [submit(harness, "a:1", "b:1") for _ in range(2)]
    harness.dispatch(*ids)
    assert [harness.claim(job_id).verdict for job_id in ids] == ["claimed", "limited"]
    (level,) = harness.all("SELECT level FROM limit_states WHERE key = 'a:1'")
    assert level == pytest.approx(9, abs=0.1)


def test_a_job_that_needs_more_units_than_its_key_ever_has_is_dead_lettered(harness: LedgerHarness) -> None:
    limit(harness, "t:1", rate_units=100, rate_seconds=60)
    job_id = submit(harness, "t:1", units=101)
    harness.dispatch(job_id)
    assert harness.claim(job_id).verdict == "dead"
    row = harness.row(job_id)
    assert (row.state, row.error["code"]) == ("dead", "units_above_limit")
    assert "101 units of t:1" in row.error["message"]
    assert_audit_is_clean(harness)


def assert_audit_is_clean(harness: LedgerHarness) -> None:
    assert audit_ledger(harness.ledger, hours=1, budget_seconds=60, patience_seconds=60).findings == []


@pytest.mark.parametrize("sliding", [False, True], ids=["bucket", "sliding window"])
def test_units_never_exceed_the_rate_in_any_period_and_the_rate_is_used(harness: LedgerHarness, sliding: bool) -> None:
    """Take units as fast as possible, by the ledger's clock; a bucket allows a burst on top of the rate."""
    units, seconds = 5, 0.5
    values = {"sliding": True} if sliding else {"burst_units": 2}
    limit(harness, "r:1", rate_units=units, rate_seconds=seconds, **values)
    taken: list[float] = []
    deadline = time.monotonic() + 4 * seconds
    while time.monotonic() < deadline:
        ((wait, _),) = harness.ledger.call("take_units", new_id(), 0, ["r:1"], [1])
        if wait == 0:
            # the time of taking, not of this query: a stall of the machine in between would look like a burst
            taken += harness.all("SELECT extract(epoch FROM coalesce(slices_at, level_at))::float8 FROM limit_states")
        else:
            time.sleep(min(wait, 0.05))
    most = units if sliding else units + 2
    for first in taken:
        assert sum(first <= item < first + seconds * 0.98 for item in taken) <= most
    assert len(taken) >= 2 * units, "the rate is used"


def test_a_paused_key_starts_no_jobs_until_the_pause_ends(harness: LedgerHarness, desk: Desk) -> None:
    waits, goes = submit(harness, "provider:x"), submit(harness, "provider:y")
    other = submit(harness, "provider:x")
    harness.dispatch(other)
    limits.pause_key(harness.ledger, "provider:x", 3600, "Retry-After")
    assert harness.claim(other).verdict == "limited"
    assert desk.rounds() == 1 and harness.row(goes).state == "dispatched"
    report = desk.round()
    assert report.sent == 0 and report.limited_seconds
    limits.pause_key(harness.ledger, "provider:x", 1, "a shorter one changes nothing")
    assert desk.round().sent == 0
    limits.pause_key(harness.ledger, "provider:x", 0, "", exactly=True)
    eventually(lambda: desk.round().sent == 1, seconds=5)
    assert harness.row(waits).state == "dispatched"


def test_a_run_takes_units_for_each_of_its_calls(harness: LedgerHarness) -> None:
    limit(harness, "p:1", rate_units=2, rate_seconds=0.2)
    job_id, lease_id = harness.running()
    delivery = Delivery(job_id, 1, "test.echo", lease_id, harness.worker.id, "n")
    began = time.monotonic()
    for _ in range(6):
        execute_run.acquire(harness.ledger, delivery, "p:1", 1, lambda: False)
    assert time.monotonic() - began >= 0.35, "two at once, then one every 0.1 s"
    with pytest.raises(Permanent, match="never has so many"):
        execute_run.acquire(harness.ledger, delivery, "p:1", 3, lambda: False)
    assert execute_run.acquire(harness.ledger, delivery, "free:1", 1000, lambda: False) < 1
    harness.settle(job_id, lease_id)
    with pytest.raises(LeaseLost):
        execute_run.acquire(harness.ledger, delivery, "p:1", 1, lambda: False)


def test_the_dispatcher_is_notified_when_a_job_with_limit_keys_ends(harness: LedgerHarness) -> None:
    from jobplatform.ledger import runs
    from jobplatform.ledger.runs import Settlement

    job_id, lease = submit(harness, "k:1"), new_id()
    harness.dispatch(job_id)
    harness.claim(job_id, lease)
    assert runs.settle_run(harness.ledger, job_id, lease, Settlement("succeeded", "succeeded")).freed


# --- deadlines


def in_hours(hours: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


def sent_in_order(harness: LedgerHarness) -> list[UUID]:
    return harness.all("SELECT job_id FROM job_events WHERE event = 'dispatched' ORDER BY id")


def test_within_a_priority_jobs_with_deadlines_go_first_and_the_earliest_deadline_before_others(
    harness: LedgerHarness, desk: Desk
) -> None:
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    plain = [submit(harness) for _ in range(3)]
    late, soon = submit(harness, start_by=in_hours(2)), submit(harness, start_by=in_hours(1), tenant=other)
    urgent = submit(harness, priority=9)
    desk.order = "start_by"
    while len(sent_in_order(harness)) < 5:  # sometimes a flow's jobs have already gone by their deadline
        desk.round(window=1)
        harness.do("UPDATE jobs SET state = 'scheduled', run_at = now() + interval '1 h' WHERE state = 'dispatched'")
    names = {urgent: "urgent", soon: "soon", late: "late"} | {job_id: f"plain {n}" for n, job_id in enumerate(plain)}
    assert [names[job_id] for job_id in sent_in_order(harness)] == ["urgent", "soon", "late", "plain 0", "plain 1"]


def test_jobs_with_deadlines_respect_limits_and_are_not_blocked_by_jobs_of_other_keys(
    harness: LedgerHarness, desk: Desk
) -> None:
    limit(harness, "k:1", max_concurrent=1)
    limit(harness, "r:1", max_concurrent=0)
    held = [submit(harness, "k:1", start_by=in_hours(1)) for _ in range(3)]
    closed = submit(harness, "r:1", start_by=in_hours(1))
    free, plain = submit(harness, start_by=in_hours(5)), submit(harness, "k:1")
    desk.order = "start_by"
    assert desk.rounds(window=10) == 2
    assert out(harness, "k:1") == 1
    states = {job_id: harness.row(job_id).state for job_id in (*held, closed, free, plain)}
    assert [job_id for job_id, state in states.items() if state == "dispatched"] == [held[0], free]


def test_deadlines_are_counted_as_met_or_missed(harness: LedgerHarness) -> None:
    kept, broken, missed = (submit(harness, start_by=in_hours(1)) for _ in range(3))
    harness.dispatch(kept, missed)
    lease = new_id()
    assert harness.claim(kept, lease).verdict == "claimed"
    harness.settle(kept, lease, "failed")
    harness.do("UPDATE jobs SET start_by = now() - interval '1 s' WHERE id = ANY (:ids)", ids=[broken, missed])
    assert harness.claim(missed).verdict == "expired"
    dispatching.wake_jobs(harness.ledger, 10, None)
    harness.do("UPDATE jobs SET state = 'available' WHERE id = :id", id=kept)
    harness.dispatch(kept)
    assert harness.claim(kept).verdict == "claimed", "a second run has no second deadline"
    (queue,) = (queue for queue in list_queues(harness.ledger, harness.tenant_id, 20) if queue["name"] == "email")
    assert (queue["deadlines_met"], queue["deadlines_missed"]) == (1, 2)
    assert harness.all("SELECT deadlines_met, deadlines_missed FROM reporting.queues WHERE queue = 'email'") == [(1, 2)]


def test_explain_names_the_key_that_a_job_waits_for(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "k:1", max_concurrent=1)
    limit(harness, "r:1", rate_units=1, rate_seconds=60)
    submit(harness, "k:1", "r:1")
    desk.rounds()
    job_id = submit(harness, "k:1", "r:1", units=1)
    harness.do("SELECT * FROM take_units(gen_random_uuid(), 0, '{r:1}', '{1}')")
    limits.pause_key(harness.ledger, "r:1", 60, "a Retry-After")
    settings = Settings(database_url=harness.url)
    reasons = {
        reason.code: reason.message
        for reason in explain_job(harness.ledger, settings, harness.tenant_id, job_id).reasons
    }
    assert "at most 1 jobs of all tenants" in reasons["key_full"]
    assert "by a run or an operator" in reasons["key_paused"] and "Retry-After" not in reasons["key_paused"]
    assert "it gets 1 in 60 s" in reasons["key_without_units"]


def test_jobs_with_deadlines_of_several_priorities_share_the_slots_of_a_key(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "k:1", max_concurrent=1)
    for priority in range(10):
        submit(harness, "k:1", start_by=in_hours(1), priority=priority)
    desk.order = "start_by"
    desk.rounds(window=20)
    assert out(harness, "k:1") == 1


def test_a_rate_below_one_unit_allows_one_unit_in_a_longer_period(harness: LedgerHarness, desk: Desk) -> None:
    limit(harness, "slow:1", rate_units=0.5, rate_seconds=60)
    ids = [submit(harness, "slow:1") for _ in range(2)]
    assert desk.rounds() == 1
    assert harness.claim(ids[0]).verdict == "claimed"
    harness.dispatch(ids[1])
    assert harness.claim(ids[1]).verdict == "limited"
    assert 100 < (harness.row(ids[1]).run_at - harness.row(ids[1]).state_at).total_seconds() < 140


def test_jobs_submitted_while_a_queue_was_paused_are_dispatched_when_it_is_resumed(
    harness: LedgerHarness, publisher: Publisher
) -> None:
    now = [0.0]
    waiting = Waiting(lambda tenant: 1.0, clock=lambda: now[0])
    while waiting.sweep(partial(dispatching.sweep_flows, harness.ledger, "email"), 10):
        pass

    def play() -> RoundReport:
        return run_round(harness.ledger, publisher, waiting, Policy(), "email", 10, 10)

    play()
    with harness.ledger.transaction() as connection:
        queues.set_paused(connection, "email", True)
    submit(harness)
    # half a minute passes, for the dispatcher and for the ledger
    for _ in range(4):
        now[0] += 7.0
        assert play().skipped == "paused"
    harness.do("UPDATE jobs SET state_at = state_at - interval '20 s'")
    waiting._arrived_from -= timedelta(seconds=28)
    with harness.ledger.transaction() as connection:
        queues.set_paused(connection, "email", False)
    assert play().sent == 1


def test_the_key_tenant_works_inside_a_run_and_a_pause_lasts_a_day_at_most(harness: LedgerHarness) -> None:
    job_id, lease_id = harness.running()
    delivery = Delivery(job_id, 1, "test.echo", lease_id, harness.worker.id, "n")
    execute_run.pause_key(harness.ledger, delivery, "tenant", 1e9, "a Retry-After in milliseconds")
    (row,) = harness.all("SELECT key, extract(epoch FROM paused_until - now())::float8 FROM limit_states")
    assert row[0].startswith("tenant:") and 86_000 < row[1] <= 86_400
    harness.settle(job_id, lease_id)
    with pytest.raises(LeaseLost):
        execute_run.pause_key(harness.ledger, delivery, "tenant", 1, "")


def test_the_first_limit_keys_of_a_kind_are_kept_when_there_are_too_many(harness: LedgerHarness) -> None:
    from workers.handlers.email_send import EmailSend, send_email  # noqa: F401 - registers the kind

    payload = {"to": [f"a@{letter}.example.com" for letter in "abcdefghijkl"], "subject": "x", "text": "x"}
    keys_found, _ = REGISTRY.get("email.send").limits_of(EmailSend.model_validate(payload))
    assert len(keys_found) == 8 and {"relay:smtp", "tenant"} < set(keys_found)


def test_limit_states_are_deleted_when_their_keys_are_at_full_capacity_again(harness: LedgerHarness) -> None:
    limit(harness, "month:*", rate_units=1, rate_seconds=30 * 86_400)
    harness.do(
        "INSERT INTO limit_states (key, level, level_at, paused_until) VALUES "
        "('old:1', 1, now() - interval '3 days', NULL), "
        "('new:1', 1, now() - interval '1 h', NULL), ('held:1', NULL, NULL, now() + interval '1 h'), "
        "('month:1', 0, now() - interval '3 days', NULL), ('was held:1', NULL, NULL, now() - interval '1 h')"
    )
    with harness.ledger.transaction() as connection:
        assert limits.forget_states(connection) == 2
    assert set(harness.all("SELECT key FROM limit_states")) == {"new:1", "held:1", "month:1"}


def test_a_quota_refuses_planned_jobs_with_an_error(harness: LedgerHarness) -> None:
    """Celery calls submit planned jobs: a task that was refused must not look accepted."""
    planned = {
        "queue": "email",
        "kind": "test.echo",
        "priority": 4,
        "payload": {},
        "tags": [],
        "max_attempts": 3,
        "crash_limit": 3,
        "lost_limit": 3,
        "run_at": None,
        "start_by": None,
        "limit_keys": [],
        "limit_units": [],
    }
    step = {"name": "1", "position": 0, "type": "job", "pending": 0, "children": [], "on_failure": "fail", "item": None}
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', 'email', 1, 'test')")
    assert submit_prepared(harness.ledger, None, harness.tenant_id, new_id(), planned)
    with pytest.raises(QuotaExceeded):
        submit_prepared(harness.ledger, None, harness.tenant_id, new_id(), planned)
    with pytest.raises(QuotaExceeded):
        submit_steps(harness.ledger, None, harness.tenant_id, "w", [{**step, **planned, "id": str(new_id())}], 1)
    assert harness.all("SELECT count(*)::int FROM jobs") == [1]
    assert harness.all("SELECT count(*)::int FROM workflows") == [0]
    harness.assert_conserved()
