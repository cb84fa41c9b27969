"""Workflows over HTTP: what is accepted, what is refused and how, and what is returned about a workflow."""

from __future__ import annotations

from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest

from jobplatform.ledger import workflows
from tests.contract.conftest import Client
from tests.support.ledger_harness import LedgerHarness

CHAT = {"kind": "llm.chat", "payload": {"messages": [{"role": "user", "content": "Hello"}]}}


def mail(text: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "email.send", "payload": {"to": ["a@example.com"], "subject": "Hi", "text": text}, **more}


GRAPH = {
    "name": "welcome",
    "steps": [{"name": "text", **CHAT}, {"name": "mail", **mail({"$from": "text.result.content"})}],
}


def test_a_workflow_is_accepted_whole_and_read_back(api: Client, stranger: Client) -> None:
    status, accepted, headers = api.post("/v1/workflows", GRAPH)
    assert status == 202 and headers["Location"] == f"/v1/workflows/{accepted['id']}"
    assert set(accepted["steps"]) == {"text", "mail"}
    status, rows, _ = api.get(headers["Location"])
    assert (status, rows["state"], rows["progress"]) == (200, "running", 0.0)
    assert rows["steps"] == {"available": 1, "waiting": 1}
    _, job, _ = api.get(f"/v1/jobs/{accepted['steps']['mail']}")
    assert (job["state"], job["workflow_id"]) == ("blocked", accepted["id"])
    _, explained, _ = api.get(f"/v1/jobs/{accepted['steps']['mail']}/explain")
    assert "waits for step text" in explained["reasons"][0]["message"]
    _, page, _ = api.get("/v1/workflows?state=running")
    assert [row["id"] for row in page["workflows"]] == [accepted["id"]]
    for path in ("", "/graph"):
        assert stranger.get(f"/v1/workflows/{accepted['id']}{path}")[1]["code"] == "workflow_not_found"
    for verb in ("cancel", "replay"):
        assert stranger.post(f"/v1/workflows/{accepted['id']}/{verb}")[0] == 404
    assert stranger.get("/v1/workflows")[1]["workflows"] == []


def test_pages_of_workflows(api: Client) -> None:
    made = [api.post("/v1/workflows", {"flow": CHAT})[1]["id"] for _ in range(5)]
    seen, cursor = [], ""
    while True:
        _, page, _ = api.get(f"/v1/workflows?limit=2{cursor}")
        seen += [item["id"] for item in page["workflows"]]
        if not page["next_cursor"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1]


def test_all_forms_of_a_flow_can_be_combined(api: Client) -> None:
    flow = {
        "chain": [
            {"group": [CHAT, {"chain": [CHAT, mail({"$from": "previous.result.content"})]}], "name": "g", "then": CHAT},
            {"map": [1, 2, 3], "step": mail({"$item": ""})},
            {"map": {"$from": "g.results"}, "step": mail("x"), "then": mail("end", name="end")},
        ]
    }
    status, accepted, _ = api.post("/v1/workflows", {"flow": flow})
    assert status == 202, accepted
    assert {"g", "g[0]", "g[1]/1", "g[1]/2", "g/then", "1/2", "1/2[2]", "1/3", "end"} <= set(accepted["steps"])


def test_an_idempotency_key_creates_one_workflow(api: Client) -> None:
    key = {"headers": {"Idempotency-Key": "w-1"}}
    first = api.post("/v1/workflows", GRAPH, **key)
    again = api.post("/v1/workflows", GRAPH, **key)
    assert again[1] == first[1] and again[2]["Idempotent-Replayed"] == "true"
    assert api.post("/v1/workflows", {"flow": CHAT}, **key)[0] == 422


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({}, "body", "exactly one of steps and flow"),
        ({"flow": {}}, "flow", "exactly one of kind"),
        ({"flow": {"kind": "llm.chat", "chain": []}}, "flow", "exactly one of kind"),
        ({"flow": {"chain": []}}, "flow.chain", "at least one part"),
        ({"steps": []}, "steps", "at least one step"),
        ({"steps": [CHAT]}, "steps.0.name", "a name"),
        ({"steps": [{"name": "a", **CHAT}, {"name": "a", **CHAT}]}, "steps.1.name", "a name that no other part has"),
        ({"steps": [{"name": "a", "after": ["b"], **CHAT}]}, "steps.0.after.0", "the name of a part"),
        ({"steps": [{"name": "abc", **CHAT}, {"name": "b", "after": ["abd"], **CHAT}]}, "steps.1.after.0", "'abc'?"),
        (
            {"steps": [{"name": "a", "after": ["b"], **CHAT}, {"name": "b", "after": ["a"], **CHAT}]},
            "steps",
            "steps that come one after the other",
        ),
        ({"flow": mail({"$from": "nobody.result.text"})}, "flow.payload.text", "a step that comes before"),
        ({"flow": mail({"$from": "nobody"})}, "flow.payload", "'step.result'"),
        ({"flow": mail({"$item": "x"})}, "flow.payload.text", "a map only"),
        ({"flow": {"chain": [CHAT, mail({"$from": "previous.result.txet"})]}}, "flow.chain.1.payload.text", "returns"),
        ({"flow": {"chain": [CHAT, mail({"$from": "previous.result.usage"})]}}, "flow.chain.1.payload.text", "string"),
        (
            {"flow": {"chain": [{"group": [CHAT], "name": "g"}, mail({"$from": "g.result"})]}},
            "flow.chain.1.payload.text",
            "g.results",
        ),
        ({"flow": {"chain": [CHAT, {"kind": "email.sned"}]}}, "flow.chain.1.kind", "'email.send'?"),
        ({"flow": {"chain": [CHAT, {"kind": "email.send", "payload": {}}]}}, "flow.chain.1.payload.to", "a value"),
        ({"flow": {"map": {"a": 1}, "step": CHAT}}, "flow.map", "a list, or a reference"),
        ({"flow": {"map": [1]}}, "flow", "map and step together"),
        ({"flow": {"group": [CHAT], "priority": 3}}, "flow", "priority in the steps"),
        ({"flow": {**CHAT, "name": "previous"}}, "flow.name", "another name"),
        ({"flow": {**CHAT, "name": "a.b"}}, "flow.name", "String should match"),
        ({"flow": CHAT, "time_limit_seconds": 0}, "time_limit_seconds", "greater than 0"),
    ],
)
def test_an_invalid_workflow_names_the_field(
    api: Client, harness: LedgerHarness, body: Any, field: str, expected: str
) -> None:
    status, problem, _ = api.post("/v1/workflows", body)
    assert status == 422, problem
    expectations = {item["field"]: item["expected"] for item in problem["errors"]}
    assert field in expectations, expectations
    assert expected in expectations[field]
    assert harness.all("SELECT count(*)::int FROM workflow_steps") == [0]


def test_a_lone_unknown_kind_is_reported_as_for_a_single_job(api: Client) -> None:
    status, problem, _ = api.post("/v1/workflows", {"flow": {"kind": "email.sned"}})
    assert (status, problem["code"]) == (422, "unknown_kind")


def test_cancel_and_replay(api: Client) -> None:
    workflow = api.post("/v1/workflows", GRAPH)[1]["id"]
    status, rows, _ = api.post(f"/v1/workflows/{workflow}/cancel", {"reason": "no more"})
    assert (status, rows["state"], rows["error"]["message"]) == (202, "cancelled", "no more")
    assert api.post(f"/v1/workflows/{workflow}/cancel")[0] == 202, "a second cancel changes nothing"
    status, rows, _ = api.post(f"/v1/workflows/{workflow}/replay")
    assert (status, rows["state"], rows["steps"]) == (202, "running", {"available": 1, "waiting": 1})
    status, problem, _ = api.post(f"/v1/workflows/{workflow}/replay")
    assert (status, problem["code"]) == (409, "workflow_not_replayable")


def test_the_graph_as_json_and_as_svg(api: Client, harness: LedgerHarness) -> None:
    flow = {"chain": [CHAT, {"group": [CHAT] * 12, "name": "many"}, mail("<b> & done", name="end")]}
    workflow = api.post("/v1/workflows", {"name": "<pic>", "flow": flow})[1]["id"]
    status, graph, _ = api.get(f"/v1/workflows/{workflow}/graph")
    assert status == 200 and len(graph["nodes"]) == 15 and len(graph["edges"]) == 25
    with harness.ledger.statement() as connection:
        assert len(workflows.steps_of(connection, UUID(workflow), graph["workflow"]["created_at"], 100)) == 15
    for ask in ({"path": "?format=svg"}, {"path": "", "headers": {"Accept": "image/svg+xml"}}):
        status, picture, headers = api.get(f"/v1/workflows/{workflow}/graph{ask.pop('path')}", **ask)
        assert (status, headers["Content-Type"]) == (200, "image/svg+xml; charset=utf-8")
        texts = [item.text for item in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert "<pic>" in texts and "many × 12" in texts and "end" in texts


def test_waiting_for_the_end_is_bounded(api: Client) -> None:
    workflow = api.post("/v1/workflows", GRAPH)[1]["id"]
    status, rows, _ = api.get(f"/v1/workflows/{workflow}?wait=0.2")
    assert (status, rows["state"]) == (200, "running")
