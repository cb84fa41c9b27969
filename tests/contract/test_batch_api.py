"""Batch submission: all or none, or every valid item; one Idempotency-Key; JSON array and NDJSON."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.contract.conftest import EMAIL, Client
from tests.contract.test_access_api import client_of
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import wait_until_blocked

WRONG: dict[str, Any] = {"kind": "email.send", "payload": {"to": "nobody"}}
PATH = "/v1/jobs/batch"


def mail(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {**EMAIL, "payload": {**EMAIL["payload"], "subject": f"mail {number}"}, **fields}


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer["jobs"]]


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
def test_a_whole_batch_is_accepted_in_order(api: Client, harness: LedgerHarness, media_type: str) -> None:
    submissions = [mail(number, priority=number % 10, tags=[f"n{number}"]) for number in range(25)]
    body = (
        json.dumps(submissions)
        if "x-" not in media_type
        else "\n".join(json.dumps(submission) for submission in submissions) + "\n\n"
    )
    status, answer, _ = api.post(PATH, data=body, headers={"Content-Type": media_type})
    assert status == 202, answer
    assert (answer["accepted"], answer["refused"], len(answer["jobs"])) == (25, 0, 25)
    for number, job_id in enumerate(ids(answer)):
        row = harness.row(job_id)
        assert (row.payload["subject"], row.priority, row.tags) == (f"mail {number}", number % 10, [f"n{number}"])
        assert (row.state, row.queue, row.kind) == ("available", "email", "email.send")
    (event,) = api.get(f"/v1/jobs/{ids(answer)[3]}/events")[1]["events"]
    assert event["data"] == {"by": "test", "batch": answer["batch_id"]}
    harness.assert_conserved()


def test_with_one_invalid_submission_nothing_is_accepted(api: Client, harness: LedgerHarness) -> None:
    submissions = [mail(), WRONG, mail(), {"kind": "no.such", "payload": {}}, mail(color="red"), 7]
    status, problem, _ = api.post(PATH, submissions[:5])
    assert (status, problem["code"]) == (422, "invalid_request")
    assert problem["detail"].startswith("nothing was accepted: 3 of 5 submissions are not as expected (1, 3, 4)")
    assert {"1.payload.to", "3.kind", "4.color"} <= {item["field"] for item in problem["errors"]}
    status, problem, _ = api.post(PATH, submissions)
    assert (status, problem["code"]) == (400, "not_json") and "submission 5" in problem["detail"]
    assert harness.all("SELECT count(*) FROM jobs") == [0]


def test_valid_items_are_accepted_and_the_others_name_their_problem(api: Client, harness: LedgerHarness) -> None:
    submissions = [mail(1), WRONG, mail(2, run_at="2020-01-01T00:00:00Z"), 7, mail(3)]
    status, answer, _ = api.post(f"{PATH}?per_item=true", submissions)
    assert (status, answer["accepted"], answer["refused"]) == (202, 2, 3)
    codes = [item.get("problem", {}).get("code") for item in answer["jobs"]]
    assert codes == [None, "invalid_payload", "invalid_request", "not_json", None]
    assert answer["jobs"][1]["problem"]["errors"][0]["field"] == "payload.to"
    assert [
        harness.row(job_id).payload["subject"] for job_id in (answer["jobs"][0]["id"], answer["jobs"][4]["id"])
    ] == [
        "mail 1",
        "mail 3",
    ]


@pytest.mark.parametrize("per_item", ["false", "true"])
def test_a_repeated_batch_gets_the_first_answer(api: Client, harness: LedgerHarness, per_item: str) -> None:
    submissions = [mail(1, unique={"key": "u"}), mail(2, unique={"key": "u"}), mail(3)]
    key = {"Idempotency-Key": "batch-1"}
    first = api.post(f"{PATH}?per_item={per_item}", submissions, headers=key)
    again = api.post(f"{PATH}?per_item={per_item}", submissions, headers=key)
    assert (first[0], again[0]) == (202, 202)
    assert first[1] == again[1]
    assert again[2]["Idempotent-Replayed"] == "true" and "Idempotent-Replayed" not in first[2]
    assert first[1]["jobs"][1] == {**first[1]["jobs"][0], "state": None}, "the job that holds the unique key"
    assert harness.all("SELECT count(*) FROM jobs") == [2]
    for status, problem, _ in (
        api.post(f"{PATH}?per_item={per_item}", submissions[:2], headers=key),
        api.post(PATH, submissions, headers=key) if per_item == "true" else api.post("/v1/jobs", mail(1), headers=key),
    ):
        assert (status, problem["code"]) == (422, "idempotency_key_reused")


def test_two_simultaneous_requests_create_one_batch(app: Any, api: Client, harness: LedgerHarness) -> None:
    answers: list[Any] = []
    submissions, key = [mail(n) for n in range(3)], {"Idempotency-Key": "twins"}

    def submit() -> None:
        answers.append(Client(app.test_client(), api.key).post(PATH, submissions, headers=key))

    twins = [threading.Thread(target=submit) for _ in range(2)]
    with harness.ledger.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE jobs IN SHARE MODE")
        for twin in twins:
            twin.start()
        wait_until_blocked(harness, 2)
    for twin in twins:
        twin.join()
    assert [answer[0] for answer in answers] == [202, 202]
    assert answers[0][1] == answers[1][1]
    assert harness.all("SELECT count(*) FROM jobs") == [3]


def test_a_refused_batch_uses_up_no_key(api: Client, harness: LedgerHarness) -> None:
    late = mail(run_at="2020-01-01T00:00:00Z", unique={"key": "u"})
    other = mail(unique={"key": "v"})
    key = {"Idempotency-Key": "again"}
    status, problem, _ = api.post(PATH, [other, late], headers=key)
    assert (status, problem["errors"][0]["field"]) == (422, "1.run_at")
    assert harness.all("SELECT count(*) FROM unique_locks") == [0]
    assert api.post(PATH, [mail()], headers=key)[0] == 202, "a new submission with the key"
    assert api.post(PATH, [mail(unique={"key": "u"}), other])[0] == 202


def test_unique_submissions_of_a_batch(api: Client, harness: LedgerHarness) -> None:
    holder = api.submit(unique={"key": "u"})
    refuse = {"key": "u", "on_conflict": "refuse"}
    status, problem, _ = api.post(PATH, [mail(), mail(unique=refuse)])
    assert (status, problem["code"], problem["job_id"]) == (409, "duplicate_job", holder["id"])
    status, answer, _ = api.post(f"{PATH}?per_item=1", [mail(unique={"key": "u"}), mail(unique=refuse), mail()])
    assert status == 202
    assert answer["jobs"][0]["id"] == holder["id"] and answer["jobs"][0]["state"] is None
    assert answer["jobs"][1]["problem"]["code"] == "duplicate_job"
    assert harness.all("SELECT count(*) FROM jobs") == [2]


def test_a_quota_counts_every_submission(api: Client, harness: LedgerHarness) -> None:
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', 'email', 3, 'test')")
    submissions = [
        mail(1, unique={"key": "a"}),
        mail(2),
        mail(3),
        mail(4, unique={"key": "b"}),
        mail(5, unique={"key": "b"}),
    ]
    status, problem, headers = api.post(PATH, submissions)
    assert (status, problem["code"]) == (429, "quota_exceeded") and int(headers["Retry-After"]) >= 1
    assert harness.all("SELECT count(*) FROM jobs") == [0]
    status, answer, _ = api.post(f"{PATH}?per_item=true", submissions)
    assert (answer["accepted"], answer["refused"]) == (3, 2), "the twin of a submission over quota is over quota too"
    assert [item["problem"]["code"] for item in answer["jobs"][3:]] == ["quota_exceeded"] * 2
    assert harness.all("SELECT key FROM unique_locks ORDER BY 1") == ["a"], "refused submissions hold no unique key"
    harness.assert_conserved()


def test_a_batch_without_valid_items_has_a_repeatable_answer_too(api: Client) -> None:
    key = {"Idempotency-Key": "hopeless"}
    first = api.post(f"{PATH}?per_item=true", [WRONG, WRONG], headers=key)
    again = api.post(f"{PATH}?per_item=true", [WRONG, WRONG], headers=key)
    assert (first[0], again[0]) == (202, 202) and first[1] == again[1]
    assert again[2]["Idempotent-Replayed"] == "true"


def test_the_twin_of_a_submission_over_quota_is_over_quota_too(api: Client, harness: LedgerHarness) -> None:
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', 'email', 0, 'test')")
    submissions = [mail(1, unique={"key": "k"}), mail(2, unique={"key": "k", "on_conflict": "refuse"})]
    _, answer, _ = api.post(f"{PATH}?per_item=true", submissions)
    assert [item["problem"]["code"] for item in answer["jobs"]] == ["quota_exceeded"] * 2, (
        "no reference to a job that was never created"
    )


def test_many_submissions_whose_unique_keys_are_held(api: Client, harness: LedgerHarness) -> None:
    submissions = [mail(n, unique={"key": f"k{n}"}) for n in range(1000)]
    first, again = api.post(PATH, submissions)[1], api.post(PATH, submissions)[1]
    assert ids(first) == ids(again) and again["accepted"] == 1000
    assert harness.all("SELECT count(*) FROM jobs") == [1000]


def test_a_key_without_the_right_is_refused(app: Any, harness: LedgerHarness) -> None:
    small = client_of(app, harness, kinds=("email.*",), max_priority=5)
    llm = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "hi"}]}}
    for submissions, code in (([mail(), llm], "kind_not_allowed"), ([mail(priority=6)], "priority_too_high")):
        status, problem, _ = small.post(PATH, submissions)
        assert (status, problem["code"]) == (403, code)
    _, answer, _ = small.post(f"{PATH}?per_item=true", [mail(), llm])
    assert answer["jobs"][1]["problem"]["code"] == "kind_not_allowed"
    reader = client_of(app, harness, scopes=("jobs:read",))
    assert reader.post(PATH, [mail()])[0] == 403


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b"[]", "application/json", 422, "invalid_request"),
        (b"\n\n", "application/x-ndjson", 422, "invalid_request"),
        (b"{}", "application/json", 400, "not_json"),
        (b"[1", "application/json", 400, "not_json"),
        (b"{}\n{", "application/x-ndjson", 400, "not_json"),
        (b"[{}]", "text/csv", 415, "unsupported_media_type"),
        (b"[" + b"{}," * 10_000 + b"{}]", "application/json", 422, "invalid_request"),
        (b'[{"kind":"email.send","payload":{"x":"\\u0000"}}]', "application/json", 422, "invalid_request"),
    ],
)
def test_invalid_batch_bodies_are_refused(api: Client, body: bytes, media_type: str, status: int, code: str) -> None:
    rows, problem, _ = api.post(PATH, data=body, headers={"Content-Type": media_type})
    assert (rows, problem["code"]) == (status, code)


def test_a_thousand_at_once(api: Client, harness: LedgerHarness) -> None:
    status, answer, _ = api.post(
        PATH, data=json.dumps([mail(n) for n in range(1000)]), headers={"Content-Type": "application/json"}
    )
    assert status == 202 and len(set(ids(answer))) == 1000
    harness.assert_conserved()
