"""Dead letters: replay one or many, discard; change the priority or time of a waiting job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from jobplatform.errors import JobNotFound, NotChangeable, NotDiscardable, NotReplayable, ReplayNotFound
from jobplatform.ledger.ids import new_id
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.change_job import change_job
from jobplatform.usecases.discard_job import discard_job
from jobplatform.usecases.replay_job import replay_job
from jobplatform.usecases.replay_many import DeadLetterFilter, get_replay, preview_replay, replay_many
from tests.support.ledger_harness import LedgerHarness

ERROR = {"code": "boom", "message": "boom", "retryable": False}


def dead(harness: LedgerHarness) -> UUID:
    job_id, lease_id = harness.running()
    assert harness.settle(job_id, lease_id, "failed", "dead", error=ERROR) == ("settled", "dead")
    return job_id


def replay(harness: LedgerHarness, job_id: UUID):
    return replay_job(harness.ledger, None, harness.tenant_id, job_id, by="ops", reason="fixed")


def test_a_replayed_dead_letter_runs_again_with_increasing_run_and_dispatch_numbers(harness: LedgerHarness) -> None:
    job_id = dead(harness)
    assert replay(harness, job_id).state == "available"
    row = harness.row(job_id)
    assert (row.attempt, row.run_no, row.dispatch_no) == (0, 1, 1)
    harness.dispatch(job_id)
    lease_id = new_id()
    claimed = harness.claim(job_id, lease_id)
    assert (claimed.verdict, claimed.run_no, claimed.attempt) == ("claimed", 2, 1)
    assert harness.settle(job_id, lease_id) == ("settled", "succeeded")
    assert harness.row(job_id).error is None
    assert harness.all("SELECT data ->> 'by' FROM job_events WHERE job_id = :j AND event = 'replayed'", j=job_id) == [
        "ops"
    ]
    harness.assert_conserved()


def test_the_message_of_the_dispatch_before_a_replay_is_stale(harness: LedgerHarness) -> None:
    job_id = dead(harness)
    replay(harness, job_id)
    harness.dispatch(job_id)
    assert harness.claim(job_id, dispatch_no=1).verdict == "stale"
    assert harness.claim(job_id, dispatch_no=2).verdict == "claimed"


def test_a_cancelled_job_is_replayed_from_history(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    cancel_job(harness.ledger, harness.tenant_id, job_id)
    harness.assert_conserved()
    assert replay(harness, job_id).state == "available"
    assert harness.all("SELECT count(*)::int FROM job_history") == [0]
    harness.assert_conserved()
    harness.dispatch(job_id)
    assert harness.claim(job_id).verdict == "claimed"


def test_a_replayed_expired_job_does_not_expire_again_at_once(harness: LedgerHarness) -> None:
    job_id = harness.submit()
    harness.do("UPDATE jobs SET start_by = clock_timestamp() - interval '1 s' WHERE id = :i", i=job_id)
    harness.all("SELECT * FROM wake_jobs(10, NULL)")
    assert harness.row(job_id).state == "expired"
    replay(harness, job_id)
    harness.all("SELECT * FROM wake_jobs(10, NULL)")
    assert (harness.row(job_id).state, harness.row(job_id).start_by) == ("available", None)


@pytest.mark.parametrize("source", ["dead", "cancelled"])
def test_only_one_of_many_concurrent_replays_succeeds(harness: LedgerHarness, source: str) -> None:
    if source == "dead":
        job_id = dead(harness)
    else:
        job_id = harness.submit()
        cancel_job(harness.ledger, harness.tenant_id, job_id)

    def replay_once(_: int) -> str:
        try:
            return replay(harness, job_id).state.value
        except NotReplayable as error:
            return f"refused: {error.state}"

    with ThreadPoolExecutor(8) as pool:
        result = list(pool.map(replay_once, range(8)))
    assert sorted(result) == ["available"] + ["refused: available"] * 7
    assert harness.events(job_id).count("replayed") == 1
    harness.assert_conserved()


def test_waiting_running_and_succeeded_jobs_are_not_replayed(harness: LedgerHarness) -> None:
    waiting = harness.submit()
    running, lease_id = harness.running()
    with pytest.raises(NotReplayable, match=r"is available: expected a job that is dead"):
        replay(harness, waiting)
    with pytest.raises(NotReplayable, match="is running"):
        replay(harness, running)
    harness.settle(running, lease_id)
    with pytest.raises(NotReplayable, match="is succeeded"):
        replay(harness, running)
    with pytest.raises(JobNotFound):
        replay(harness, new_id())
    assert harness.events(running) == ["submitted", "dispatched", "started", "succeeded"]


def test_another_tenants_dead_letter_is_not_found(harness: LedgerHarness) -> None:
    job_id, stranger = dead(harness), new_id()
    with pytest.raises(JobNotFound):
        replay_job(harness.ledger, None, stranger, job_id, by="x")
    with pytest.raises(JobNotFound):
        discard_job(harness.ledger, stranger, job_id, "x", by="x")
    with pytest.raises(JobNotFound):
        change_job(harness.ledger, None, stranger, job_id, priority=1, by="x")
    assert harness.row(job_id).state == "dead"


def test_a_discarded_job_is_final_and_records_the_reason(harness: LedgerHarness) -> None:
    job_id = dead(harness)
    job = discard_job(harness.ledger, harness.tenant_id, job_id, "obsolete", by="ops")
    assert (job.state, job.error["message"], job.error["last"]["code"]) == ("discarded", "obsolete", "boom")
    assert discard_job(harness.ledger, harness.tenant_id, job_id, "again", by="ops").error["message"] == "obsolete"
    with pytest.raises(NotReplayable):
        replay(harness, job_id)
    harness.assert_conserved()


def test_a_job_that_is_not_dead_is_not_discarded(harness: LedgerHarness) -> None:
    with pytest.raises(NotDiscardable, match="others can be cancelled"):
        discard_job(harness.ledger, harness.tenant_id, harness.submit(), "x", by="ops")


def test_a_dispatched_job_with_a_new_priority_is_published_again(harness: LedgerHarness) -> None:
    job_id = harness.submit(priority=1)
    harness.dispatch(job_id)
    job = change_job(harness.ledger, None, harness.tenant_id, job_id, priority=9, by="ops")
    assert (job.state, job.priority) == ("available", 9)
    assert harness.claim(job_id, dispatch_no=1).verdict == "stale"
    harness.dispatch(job_id)
    assert harness.claim(job_id, dispatch_no=2).verdict == "claimed"
    assert harness.events(job_id) == ["submitted", "dispatched", "changed", "dispatched", "started"]


def test_a_job_can_be_postponed_and_made_due_now(harness: LedgerHarness) -> None:
    job_id, later = harness.submit(), datetime.now(UTC) + timedelta(hours=1)
    assert change_job(harness.ledger, None, harness.tenant_id, job_id, run_at=later, by="ops").state == "scheduled"
    same = change_job(harness.ledger, None, harness.tenant_id, job_id, run_at=later, by="ops")
    assert (same.state, harness.events(job_id)) == ("scheduled", ["submitted", "changed"]), "no change, no event"
    assert change_job(harness.ledger, None, harness.tenant_id, job_id, priority=7, by="ops").state == "scheduled"
    now = change_job(harness.ledger, None, harness.tenant_id, job_id, run_at=datetime.now(UTC), by="ops")
    assert (now.state, now.priority) == ("available", 7)


def test_a_running_or_dead_job_is_not_changed(harness: LedgerHarness) -> None:
    running, _ = harness.running()
    for job_id in (running, dead(harness)):
        with pytest.raises(NotChangeable, match="expected a job that is scheduled, available or dispatched"):
            change_job(harness.ledger, None, harness.tenant_id, job_id, priority=1, by="ops")


# --- bulk replay


def replay_all(harness: LedgerHarness, **more) -> dict:
    options = {"limit": 100, "rate_per_second": None, "stop_after": None} | more
    wanted = options.pop("wanted", DeadLetterFilter())
    return replay_many(harness.ledger, harness.tenant_id, wanted, by="ops", **options)


def die_again(harness: LedgerHarness, job_id: UUID) -> None:
    harness.do("UPDATE jobs SET run_at = clock_timestamp() WHERE id = :i AND state = 'scheduled'", i=job_id)
    harness.all("SELECT * FROM wake_jobs(10, NULL)")
    harness.dispatch(job_id)
    lease_id = new_id()
    harness.claim(job_id, lease_id)
    harness.settle(job_id, lease_id, "failed", "dead", error=ERROR)


def watch(harness: LedgerHarness) -> list[tuple]:
    return harness.all("SELECT state, died_again, stopped FROM watch_replays()")


def test_a_preview_counts_jobs_and_changes_nothing(harness: LedgerHarness) -> None:
    for _ in range(3):
        dead(harness)
    result = preview_replay(harness.ledger, harness.tenant_id, DeadLetterFilter(code="boom"), 100)
    assert (result["jobs"], [(item["kind"], item["code"], item["jobs"]) for item in result["groups"]]) == (
        3,
        [("test.echo", "boom", 3)],
    )
    assert preview_replay(harness.ledger, harness.tenant_id, DeadLetterFilter(code="other"), 100)["jobs"] == 0
    assert preview_replay(harness.ledger, harness.tenant_id, DeadLetterFilter(), 2)["jobs"] == 2, "capped"
    assert preview_replay(harness.ledger, new_id(), DeadLetterFilter(), 100)["jobs"] == 0, "jobs of another tenant"
    assert harness.all("SELECT DISTINCT state FROM jobs") == ["dead"]


def test_a_bulk_replay_takes_the_oldest_matching_jobs_at_its_rate(harness: LedgerHarness) -> None:
    ids = [dead(harness) for _ in range(4)]
    result = replay_all(harness, limit=3, rate_per_second=0.1, wanted=DeadLetterFilter(kind="test.echo"))
    assert (result["state"], result["chosen"]) == ("running", 3)
    rows = [harness.row(job_id) for job_id in ids]
    assert [row.state for row in rows] == ["available", "scheduled", "scheduled", "dead"]
    assert [round((row.run_at - rows[0].run_at).total_seconds() / 10) for row in rows[:3]] == [0, 1, 2]
    harness.assert_conserved()


def test_a_bulk_replay_stops_when_too_many_jobs_die_again(harness: LedgerHarness) -> None:
    ids = [dead(harness) for _ in range(5)]
    result = replay_all(harness, rate_per_second=0.001, stop_after=2)
    die_again(harness, ids[0])
    assert watch(harness) == []
    assert get_replay(harness.ledger, harness.tenant_id, result["id"])["died_again"] == 1
    die_again(harness, ids[1])
    assert watch(harness) == [("stopped", 2, 3)]
    assert {harness.row(job_id).state for job_id in ids} == {"dead"}
    assert harness.events(ids[4])[-2:] == ["replayed", "replay_stopped"]
    assert watch(harness) == [], "reported once"
    with pytest.raises(ReplayNotFound):
        get_replay(harness.ledger, new_id(), result["id"])


def test_a_bulk_replay_is_done_when_all_its_jobs_have_ended(harness: LedgerHarness) -> None:
    first, second = dead(harness), dead(harness)
    replay_all(harness, stop_after=5)
    die_again(harness, first)
    harness.dispatch(second)
    assert watch(harness) == []
    lease_id = new_id()
    harness.claim(second, lease_id)
    harness.settle(second, lease_id)
    assert watch(harness) == [("done", 1, 0)]


def test_an_empty_bulk_replay_is_done_at_once(harness: LedgerHarness) -> None:
    assert replay_all(harness)["state"] == "done"
