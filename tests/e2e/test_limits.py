"""Limits with real processes: set on the command line, enforced by dispatchers and workers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import orjson
import pytest

from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

#: each change of a job's state is an event: one more job in flight, or one less
MOST_OUT = """
    WITH change AS (
        SELECT at, out - coalesce(lag(out) OVER (PARTITION BY job_id ORDER BY id), 0) AS positions
        FROM (SELECT job_id, id, at, (state IN ('dispatched', 'running'))::integer AS out FROM job_events
              WHERE job_id = ANY (CAST(:ids AS uuid[]))) AS event)
    SELECT max(out)::integer FROM (SELECT sum(positions) OVER (ORDER BY at, positions) AS out FROM change) AS sums
"""


@pytest.fixture(autouse=True)
def no_limits_left(platform: Platform) -> Iterator[None]:
    yield
    platform.sql("WITH gone AS (DELETE FROM limits RETURNING name) SELECT count(*) FROM gone")


def limit(platform: Platform, name: str, *values: str) -> None:
    platform.stack.run("limits", "set", name, *values)


def test_a_limit_applies_only_to_jobs_with_its_key(platform: Platform) -> None:
    limit(platform, "region:north", "--max-concurrent", "1")
    submitted = {region: [] for region in ("north", "south")}
    for _ in range(6):
        for region, ids in submitted.items():
            ids.append(platform.submit("acme.call", {"path": platform.file(region), "region": region, "seconds": 0.1}))
    (listed,) = orjson.loads(platform.stack.run("limits", "list", "--json"))["limits"]
    assert listed["name"] == "region:north"
    jobs = {region: [platform.wait(job_id) for job_id in ids] for region, ids in submitted.items()}
    assert {job["state"] for some in jobs.values() for job in some} == {"succeeded"}
    assert platform.sql(MOST_OUT, ids=submitted["north"]) == [1]
    assert platform.sql(MOST_OUT, ids=submitted["south"])[0] > 1
    last = max(datetime.fromisoformat(job["completed_at"]) for job in jobs["south"])
    assert last < max(datetime.fromisoformat(job["completed_at"]) for job in jobs["north"]), (
        "no job of south waited for north"
    )


def test_a_rate_is_enforced_at_the_claim_and_all_jobs_run_in_the_end(platform: Platform) -> None:
    limit(platform, "region:*", "--rate", "3", "--seconds", "0.6", "--sliding")
    ids = [
        platform.submit("acme.call", {"path": platform.file("rate"), "region": "east", "seconds": 0}) for _ in range(9)
    ]
    assert {platform.wait(job_id)["state"] for job_id in ids} == {"succeeded"}
    began = sorted(
        platform.sql(
            "SELECT extract(epoch FROM at)::float8 FROM job_events "
            "WHERE event = 'started' AND job_id = ANY (CAST(:ids AS uuid[]))",
            ids=ids,
        )
    )
    # the units are taken a moment before the event is written
    assert all(later - first > 0.55 for first, later in zip(began, began[3:], strict=False)), began


def test_one_job_takes_units_for_each_of_its_calls(platform: Platform) -> None:
    limit(platform, "region:west", "--rate", "10", "--seconds", "1", "--burst", "1")
    job = platform.wait(platform.submit("acme.calls", {"path": "", "region": "west", "calls": 6}))
    times = job["result"]["times"]
    assert job["state"] == "succeeded" and times[-1] - times[0] > 0.45


def test_a_pause_that_a_provider_requests_applies_to_all_jobs_and_counts_no_attempt(platform: Platform) -> None:
    payload = {"path": platform.file("busy"), "region": "far", "seconds": 1.0}
    first = platform.submit("acme.busy", payload)
    platform.wait_state(first, "scheduled")
    second = platform.submit("acme.call", {**payload, "path": platform.file("other"), "seconds": 0})
    eventually(
        lambda: (
            "key_paused"
            in [reason["code"] for reason in platform.api.call("GET", f"/v1/jobs/{second}/explain")["reasons"]]
        ),
        seconds=5,
    )
    assert platform.wait(second)["state"] == "succeeded"
    assert platform.wait(first)["result"] == {"attempt": 1, "run_no": 2}
    said = platform.sql("SELECT paused_reason FROM limit_states WHERE key = 'region:far'")
    assert said == ["429 from there"]
