"""Webhook messages: any number of pollers enqueue each event once; replays start at a given time."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from jobplatform.config import Settings
from jobplatform.domain.webhooks import DELIVER
from jobplatform.errors import InvalidRequest
from jobplatform.ledger import keys, webhooks
from jobplatform.ledger.ids import new_id
from jobplatform.usecases import manage_webhooks, run_maintenance
from jobplatform.usecases.deliver_webhook import find_target, record_response
from jobplatform.usecases.enqueue_webhooks import enqueue_webhooks
from jobplatform.usecases.manage_webhooks import NewEndpoint, delivering
from tests.support.ledger_harness import LedgerHarness, registry
from tests.support.waiting import eventually


@pytest.fixture
def config(harness: LedgerHarness) -> Settings:
    return Settings(database_url=harness.url)


class Hooks:
    """Endpoints of the harness's tenant, and their messages."""

    def __init__(self, harness: LedgerHarness, config: Settings) -> None:
        self.harness, self.config = harness, config

    def add(self, *events: str, tenant: UUID | None = None, **more: Any) -> UUID:
        endpoint = NewEndpoint("https://example.com/hook", **({"events": events} if events else {}), **more)
        made = manage_webhooks.create_endpoint(
            self.harness.ledger, self.config, tenant or self.harness.tenant_id, endpoint, by="test"
        )
        return made["id"]

    def enqueue(self, limit: int = 500) -> int:
        """Enqueue until no event is left: transactions in other databases of the server delay events."""
        count = 0
        last = "SELECT DISTINCT ON (tenant_id) tenant_id, tx, id FROM job_events ORDER BY tenant_id, tx DESC, id DESC"
        ends = {row[0]: row[1:] for row in self.harness.all(last)}

        def done() -> bool:
            nonlocal count
            enqueued = enqueue_webhooks(self.harness.ledger, delivering(self.config), limit)
            count += enqueued.messages
            positions = self.harness.all(
                "SELECT tenant_id, cursor_tx, cursor_id FROM webhook_endpoints WHERE disabled_at IS NULL"
            )
            return all(tuple(position) >= tuple(ends.get(tenant, (0, 0))) for tenant, *position in positions)

        eventually(done, what="the webhooks' messages")
        return count

    def notified(self, endpoint: UUID) -> list[tuple[str, UUID]]:
        return self.harness.all(
            "SELECT type, about FROM webhook_messages WHERE endpoint_id = :id ORDER BY event_id", id=endpoint
        )

    def deliver(self, endpoint: UUID, *, well: bool = True) -> None:
        """End all waiting deliveries of an endpoint."""
        for job_id in self.harness.all(
            "SELECT job_id FROM webhook_messages m JOIN jobs j ON j.id = m.job_id "
            "WHERE m.endpoint_id = :id AND j.state = 'available'",
            id=endpoint,
        ):
            self.end(job_id, well)

    def end(self, job_id: UUID, well: bool) -> None:
        """Run a delivery job."""
        lease = new_id()
        self.harness.dispatch(job_id)
        assert self.harness.claim(job_id, lease, kind=DELIVER).verdict == "claimed"
        self.harness.settle(job_id, lease, "succeeded" if well else "failed", None if well else "dead")


@pytest.fixture
def hooks(harness: LedgerHarness, config: Settings) -> Hooks:
    return Hooks(harness, config)


def finish(harness: LedgerHarness, **endpoint: Any) -> UUID:
    job_id, lease = harness.running(**endpoint)
    harness.settle(job_id, lease)
    return job_id


def test_an_endpoint_gets_the_events_that_it_subscribes_to_from_its_creation_on(
    harness: LedgerHarness, hooks: Hooks
) -> None:
    finish(harness)
    mine, all_of_it = hooks.add("job.succeeded"), hooks.add("job.submitted", "job.started", "job.succeeded")
    other_kind = hooks.add("job.succeeded", kinds=("other.*",))
    first, second = finish(harness), finish(harness)
    assert hooks.enqueue() == 8
    assert hooks.notified(mine) == [("job.succeeded", first), ("job.succeeded", second)]
    assert hooks.notified(all_of_it) == [
        (name, job) for job in (first, second) for name in ("job.submitted", "job.started", "job.succeeded")
    ]
    assert hooks.notified(other_kind) == []
    (payload,) = harness.all(
        "SELECT payload FROM jobs WHERE id = "
        "(SELECT job_id FROM webhook_messages WHERE endpoint_id = :id AND about = :job)",
        id=mine,
        job=first,
    )
    body = payload["body"]
    assert body["type"] == "job.succeeded" and body["data"]["job_id"] == str(first)
    assert body["data"]["kind"] == "test.echo" and body["data"]["state"] == "succeeded"
    assert body["timestamp"].endswith("Z") and datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert hooks.enqueue() == 0


def test_an_endpoint_gets_no_events_of_other_tenants_or_of_deliveries(harness: LedgerHarness, hooks: Hooks) -> None:
    with harness.ledger.transaction() as connection:
        other = keys.create_tenant(connection, "other")
    everything = ("job.submitted", "job.started", "job.succeeded", "job.dead")
    mine, others = hooks.add(*everything), hooks.add(*everything, tenant=other)
    finish(harness)
    assert hooks.enqueue() == 3
    hooks.deliver(mine)
    assert hooks.enqueue() == 0, "deliveries are no events for endpoints"
    assert hooks.notified(others) == []


def test_failed_runs_are_reported_as_job_retrying_or_job_dead(harness: LedgerHarness, hooks: Hooks) -> None:
    mine = hooks.add("job.retrying", "job.dead", "job.cancelled", "job.succeeded")
    job_id, lease = harness.running()
    harness.settle(job_id, lease, "failed", "scheduled")
    dead, lease = harness.running()
    harness.settle(dead, lease, "failed", "dead")
    hooks.enqueue()
    assert hooks.notified(mine) == [("job.retrying", job_id), ("job.dead", dead)]


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_any_number_of_dispatchers_enqueue_each_event_once(harness: LedgerHarness, hooks: Hooks, limit: int) -> None:
    endpoints = [hooks.add("job.submitted") for _ in range(3)]
    jobs = [harness.submit() for _ in range(20)]
    stop = threading.Event()
    errors: list[Exception] = []

    def enqueue() -> None:
        while not stop.is_set():
            try:
                enqueue_webhooks(harness.ledger, delivering(hooks.config), limit)
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=enqueue) for _ in range(3)]
    for thread in threads:
        thread.start()
    jobs += [harness.submit() for _ in range(20)]
    try:
        eventually(
            lambda: errors or harness.all("SELECT count(*) FROM webhook_messages") == [120], seconds=30, what="messages"
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    for endpoint in endpoints:
        assert [job for _, job in hooks.notified(endpoint)] == jobs
    assert harness.all("SELECT count(*) FROM jobs WHERE kind = :kind", kind=DELIVER) == [120]


def test_a_crash_between_messages_and_cursor_neither_loses_nor_duplicates_messages(
    harness: LedgerHarness, hooks: Hooks
) -> None:
    mine = hooks.add("job.submitted")
    job_id = harness.submit()
    with harness.ledger.statement() as connection:
        (before,) = webhooks.followers(connection)
    hooks.enqueue()
    moved = {
        "endpoint": mine,
        "from_tx": before.position.tx,
        "from_id": before.position.id,
        "tx": 1,
        "id": 1,
        "at": before.at,
    }
    message = {
        "endpoint": mine,
        "message": mine,
        "event_id": 1,
        "type": "x",
        "about": job_id,
        "job_id": mine,
        "body": {},
    }
    written = webhooks.enqueue_webhooks(
        harness.ledger, [moved], [message], manage_webhooks.job_of(delivering(hooks.config))
    )
    assert written == 0, "a caller that read an older cursor writes nothing"
    assert hooks.notified(mine) == [("job.submitted", job_id)]


def test_a_replay_sends_undelivered_messages_again(harness: LedgerHarness, hooks: Hooks) -> None:
    mine, since = hooks.add("job.succeeded"), datetime.now(UTC) - timedelta(minutes=1)
    good, bad = finish(harness), finish(harness)
    hooks.enqueue()
    messages = dict(harness.all("SELECT about, id FROM webhook_messages"))
    for job, well in ((good, True), (bad, False)):
        (job_id,) = harness.all("SELECT job_id FROM webhook_messages WHERE about = :job", job=job)
        hooks.end(job_id, well)
    view = manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=False)
    assert view["replaying"]
    assert hooks.enqueue() == 1
    assert dict(harness.all("SELECT about, id FROM webhook_messages")) == messages, "the same ids: receivers know them"
    assert dict(harness.all("SELECT about, replays FROM webhook_messages")) == {good: 0, bad: 1}
    assert not manage_webhooks.get_endpoint(harness.ledger, harness.tenant_id, mine)["replaying"]
    manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=True)
    assert hooks.enqueue() == 1, "the other message is still being delivered"
    assert dict(harness.all("SELECT about, replays FROM webhook_messages")) == {good: 1, bad: 1}


def test_events_missed_while_an_endpoint_was_disabled_are_sent_by_a_replay(
    harness: LedgerHarness, hooks: Hooks
) -> None:
    mine, since = hooks.add("job.succeeded"), datetime.now(UTC) - timedelta(minutes=1)

    def change(**values: Any) -> dict[str, Any]:
        return manage_webhooks.change_endpoint(harness.ledger, hooks.config, harness.tenant_id, mine, values)

    assert change(enabled=False)["disabled_reason"] == "disabled by hand"
    missed = finish(harness)
    hooks.enqueue()
    eventually(lambda: change(enabled=True)["enabled"])
    later = finish(harness)
    hooks.enqueue()
    assert later in [job for _, job in hooks.notified(mine)]
    manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=False)
    hooks.enqueue()
    assert {job for _, job in hooks.notified(mine)} == {missed, later}
    assert harness.all("SELECT count(*) FROM webhook_messages") == [2]


def test_a_message_is_delivered_again_with_the_same_id(harness: LedgerHarness, hooks: Hooks) -> None:
    mine = hooks.add("job.succeeded")
    finish(harness)
    hooks.enqueue()
    ((message,), _) = manage_webhooks.list_messages(harness.ledger, harness.tenant_id, mine, before=None, limit=10)

    def replay() -> dict[str, Any]:
        return manage_webhooks.replay_message(harness.ledger, hooks.config, harness.tenant_id, mine, message["id"])

    assert replay() == message, "it is still being delivered"
    hooks.deliver(mine)
    again = replay()
    assert (again["id"], again["replays"], again["state"]) == (message["id"], 1, "available")
    assert again["job_id"] != message["job_id"]
    (first, second) = harness.all("SELECT payload FROM job_history UNION ALL SELECT payload FROM jobs")[-2:]
    assert first["body"] == second["body"]


def test_an_endpoint_that_fails_for_too_long_is_disabled_and_its_contact_is_notified(
    harness: LedgerHarness, hooks: Hooks
) -> None:
    mine = hooks.add("job.succeeded", contact="ops@example.com")
    kinds = registry()
    kinds.add(registry_email())

    def answer(error: str | None, *, gone: bool = False) -> dict[str, Any]:
        target = find_target(harness.ledger, mine)
        assert target is not None
        record_response(harness.ledger, kinds, target, error, gone=gone, patience_seconds=60)
        return manage_webhooks.get_endpoint(harness.ledger, harness.tenant_id, mine)

    assert answer("500")["failing_since"] is not None
    assert answer(None)["failing_since"] is None, "one successful delivery is enough"
    answer("500")
    assert answer("503: overloaded")["last_error"] == "503: overloaded"
    harness.do("UPDATE webhook_endpoints SET failing_since = failing_since - interval '2 min'")
    result = answer("500")
    assert not result["enabled"] and "nothing was delivered since" in result["disabled_reason"]
    assert answer("500")["disabled_at"] == result["disabled_at"]
    (mail,) = harness.all("SELECT payload FROM jobs WHERE kind = 'email.send'")
    assert mail["to"] == ["ops@example.com"] and str(mine) in mail["text"] and "500" in mail["text"]
    target = find_target(harness.ledger, mine)
    assert target is not None and target.disabled_reason


def registry_email() -> Any:
    from jobplatform.domain.kinds import REGISTRY
    from workers.handlers import email_send

    assert email_send
    return REGISTRY.get("email.send")


def test_a_410_response_disables_the_endpoint(harness: LedgerHarness, hooks: Hooks) -> None:
    mine = hooks.add()
    target = find_target(harness.ledger, mine)
    assert target is not None
    record_response(harness.ledger, registry(), target, "410", gone=True, patience_seconds=1e9)
    endpoint = manage_webhooks.get_endpoint(harness.ledger, harness.tenant_id, mine)
    assert endpoint["disabled_reason"] == "it answered 410: gone"


def test_the_old_secret_stays_valid_for_the_overlap_after_a_rotation(harness: LedgerHarness, hooks: Hooks) -> None:
    mine = hooks.add()
    (first,) = harness.all("SELECT secret FROM webhook_endpoints")
    made = manage_webhooks.rotate_secret(harness.ledger, harness.tenant_id, mine, 3600)
    target = find_target(harness.ledger, mine)
    assert target is not None and target.secrets == (made["secret"], first)
    manage_webhooks.rotate_secret(harness.ledger, harness.tenant_id, mine, 0)
    target = find_target(harness.ledger, mine)
    assert target is not None and len(target.secrets) == 1 and first not in target.secrets


def test_the_clean_up_deletes_old_messages(harness: LedgerHarness, hooks: Hooks, config: Settings) -> None:
    kept, gone = hooks.add("job.submitted"), hooks.add("job.submitted")
    harness.submit()
    hooks.enqueue()
    harness.do(
        "UPDATE webhook_messages SET created_at = created_at - interval '91 days' WHERE endpoint_id = :id", id=gone
    )
    manage_webhooks.delete_endpoint(harness.ledger, harness.tenant_id, gone)
    run_maintenance.clean_up(harness.ledger, config, lambda _: None, 0)
    assert harness.all("SELECT endpoint_id FROM webhook_messages") == [kept]
    assert find_target(harness.ledger, gone) is None


def test_a_replay_without_messages_ends_too(harness: LedgerHarness, hooks: Hooks) -> None:
    finish(harness)
    mine = hooks.add("job.dead")
    since = datetime.now(UTC) - timedelta(minutes=1)

    def view() -> dict[str, Any]:
        return manage_webhooks.get_endpoint(harness.ledger, harness.tenant_id, mine)

    assert manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=True)["replaying"]
    eventually(lambda: hooks.enqueue() == 0 and not view()["replaying"])
    nothing = manage_webhooks.replay_since(
        harness.ledger, harness.tenant_id, mine, datetime.now(UTC) + timedelta(days=1), everything=True
    )
    assert not nothing["replaying"]


def test_a_replay_starts_at_the_given_time(harness: LedgerHarness, hooks: Hooks) -> None:
    mine = hooks.add("job.submitted")
    early, late = harness.submit(), harness.submit()
    hooks.enqueue()
    (since,) = harness.all("SELECT at FROM job_events WHERE job_id = :id", id=late)
    for job_id in harness.all("SELECT job_id FROM webhook_messages"):
        hooks.end(job_id, True)
    manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=True)
    hooks.enqueue()
    assert dict(harness.all("SELECT about, replays FROM webhook_messages")) == {early: 0, late: 1}


def test_messages_skipped_while_an_endpoint_was_disabled_count_as_undelivered(
    harness: LedgerHarness, hooks: Hooks
) -> None:
    mine, since = hooks.add("job.submitted"), datetime.now(UTC) - timedelta(minutes=1)
    harness.submit()
    hooks.enqueue()
    ((job_id,),) = [harness.all("SELECT job_id FROM webhook_messages")]
    hooks.end(job_id, True)
    harness.do('UPDATE job_history SET result = \'{"skipped": "it is disabled"}\'')
    manage_webhooks.replay_since(harness.ledger, harness.tenant_id, mine, since, everything=False)
    assert hooks.enqueue() == 1


def test_the_number_of_endpoints_is_limited(hooks: Hooks) -> None:
    with pytest.raises(InvalidRequest, match="at most 50 webhooks"):
        for _ in range(51):
            hooks.add()
