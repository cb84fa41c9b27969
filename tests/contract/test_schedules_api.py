"""Schedules over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import EMAIL, Client

DAILY = {**EMAIL, "cron": "0 7 * * mon-fri", "time_zone": "Europe/Berlin"}


def test_put_read_list_pause_run_delete(api: Client, stranger: Client) -> None:
    status, made, _ = api.call("PUT", "/v1/schedules/daily.report", DAILY)
    assert status == 200, made
    assert made["in_words"] == "At 07:00 on Monday through Friday (Europe/Berlin)"
    assert (made["overlap"], made["missed"], made["paused"]) == ("skip", "once", False)
    assert api.call("PUT", "/v1/schedules/daily.report", DAILY)[1]["id"] == made["id"]
    assert api.get("/v1/schedules/daily.report")[1]["next_at"] == made["next_at"]
    _, preview, _ = api.get("/v1/schedules/daily.report/preview?count=5")
    assert len(preview["times"]) == 5 and preview["times"][0] == made["next_at"]
    assert api.post("/v1/schedules/daily.report/pause")[1]["paused"] is True
    status, ran, headers = api.post("/v1/schedules/daily.report/run")
    assert status == 202 and headers["Location"] == f"/v1/jobs/{ran['job_id']}"
    _, fires, _ = api.get("/v1/schedules/daily.report/fires")
    assert [(fire["outcome"], fire["by"], fire["job_id"]) for fire in fires["fires"]] == [
        ("fired", "test", ran["job_id"])
    ]
    assert api.post("/v1/schedules/daily.report/resume")[1]["paused"] is False
    for method, path in (
        ("GET", ""),
        ("GET", "/preview"),
        ("GET", "/fires"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/run"),
        ("DELETE", ""),
    ):
        assert stranger.call(method, f"/v1/schedules/daily.report{path}")[1]["code"] == "schedule_not_found"
    assert stranger.get("/v1/schedules")[1]["schedules"] == []
    assert api.call("DELETE", "/v1/schedules/daily.report")[0] == 204
    assert api.get("/v1/schedules/daily.report")[0] == 404


def test_schedules_are_paged_by_name(api: Client) -> None:
    for name in "cab":
        api.call("PUT", f"/v1/schedules/{name}", {**EMAIL, "every_seconds": 60})
    _, first, _ = api.get("/v1/schedules?limit=2")
    assert ([item["name"] for item in first["schedules"]], first["next_cursor"]) == (["a", "b"], "b")
    _, rest, _ = api.get("/v1/schedules?limit=2&cursor=b")
    assert ([item["name"] for item in rest["schedules"]], rest["next_cursor"]) == (["c"], None)


def test_a_preview_stores_nothing(api: Client) -> None:
    status, rows, _ = api.post("/v1/schedules/preview?count=3", {**EMAIL, "every_seconds": 90})
    assert (status, rows["in_words"], len(rows["times"])) == (200, "Every 0:01:30", 3)
    assert api.get("/v1/schedules")[1]["schedules"] == []


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ({**EMAIL}, "body"),
        ({**EMAIL, "cron": "* * * *"}, "cron"),
        ({**EMAIL, "cron": "* * * * *", "time_zone": "Berlin"}, "time_zone"),
        ({**EMAIL, "every_seconds": 0.5}, "every_seconds"),
        ({**EMAIL, "times": ["tomorrow"]}, "times.0"),
        ({"kind": "email.send", "payload": {}, "every_seconds": 60}, "payload.to"),
        ({**EMAIL, "every_seconds": 60, "overlap": "maybe"}, "overlap"),
        (
            {**EMAIL, "every_seconds": 60, "start_at": "2030-01-02T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"},
            "end_at",
        ),
    ],
)
def test_an_invalid_schedule_names_the_field(api: Client, definition: Any, field: str) -> None:
    status, problem, _ = api.call("PUT", "/v1/schedules/x", definition)
    assert status == 422, problem
    assert field in {item["field"] for item in problem["errors"]}
    assert api.get("/v1/schedules/x")[0] == 404


def test_invalid_names_and_unknown_kinds_are_refused(api: Client) -> None:
    assert api.call("PUT", "/v1/schedules/a b", DAILY)[1]["errors"][0]["field"] == "name"
    assert api.call("PUT", "/v1/schedules/x", {**DAILY, "kind": "email.sned"})[1]["code"] == "unknown_kind"
