"""Data past its retention period is deleted, and no other data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobplatform.ledger import dead_letters, dead_messages, dispatching, effects, keys, workers
from jobplatform.ledger.ids import new_id
from tests.support.ledger_harness import LedgerHarness

#: table → (SQL that inserts an old row and a recent one, function that deletes old rows)
RETENTION: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dead_messages": (
        "INSERT INTO dead_messages (at, reason, detail, message, body, body_bytes) "
        "SELECT clock_timestamp() - days * interval '1 day', 'stale', 'x', '{}', '', 0 "
        "FROM unnest(ARRAY[31, 29]) AS days",
        dead_messages.forget_dead_messages,
    ),
    "workers": (
        "INSERT INTO workers (id, node, host, pid, pool, slots, queues, kinds, heartbeat_at) "
        "SELECT gen_random_uuid(), 'n', 'h', 1, 'prefork', 1, '{}', '{}', clock_timestamp() - days * interval '1 day' "
        "FROM unnest(ARRAY[8, 6]) AS days",
        workers.forget_stopped,
    ),
    "dispatchers": (
        "INSERT INTO dispatchers (id, host, pid, heartbeat_at) "
        "SELECT gen_random_uuid(), 'h', 1, clock_timestamp() - hours * interval '1 hour' "
        "FROM unnest(ARRAY[25, 23]) AS hours",
        dispatching.forget_dispatcher,
    ),
    "idempotency_keys": (
        "INSERT INTO idempotency_keys (tenant_id, key, request_hash, job_id, expires_at) "
        "SELECT gen_random_uuid(), 'k', '', gen_random_uuid(), clock_timestamp() + hours * interval '1 hour' "
        "FROM unnest(ARRAY[-1, 1]) AS hours",
        keys.forget_expired_keys,
    ),
    "unique_locks": (
        "INSERT INTO unique_locks (tenant_id, key, job_id, expires_at) "
        "SELECT gen_random_uuid(), 'k', gen_random_uuid(), clock_timestamp() + hours * interval '1 hour' "
        "FROM unnest(ARRAY[-1, NULL]) AS hours",
        keys.forget_expired_locks,
    ),
    "replays": (
        "INSERT INTO replays (id, tenant_id, created_by, state, filter, chosen, ended_at) "
        "SELECT gen_random_uuid(), gen_random_uuid(), 'x', 'done', '{}', 1, clock_timestamp() - days * interval '1 day'"
        " FROM unnest(ARRAY[31, 29]) AS days",
        dead_letters.forget_replays,
    ),
}


@pytest.mark.parametrize("table", list(RETENTION))
def test_old_rows_are_deleted_and_recent_rows_stay(harness: LedgerHarness, table: str) -> None:
    fill, forget = RETENTION[table]
    before = harness.all(f"SELECT count(*)::int FROM {table}")[0]
    harness.do(fill)
    with harness.ledger.transaction() as connection:
        forget(connection)
    assert harness.all(f"SELECT count(*)::int FROM {table}") == [before + 1]


def test_the_jobs_of_a_deleted_replay_are_deleted_with_it(harness: LedgerHarness) -> None:
    harness.do(RETENTION["replays"][0])
    harness.do("INSERT INTO replay_jobs (replay_id, job_id, run_no) SELECT id, gen_random_uuid(), 1 FROM replays")
    with harness.ledger.transaction() as connection:
        dead_letters.forget_replays(connection)
    assert harness.all("SELECT count(*)::int FROM replay_jobs JOIN replays ON id = replay_id") == [1]
    assert harness.all("SELECT count(*)::int FROM replay_jobs") == [1]


def test_dead_messages_are_bounded_in_number_too(harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_messages, "KEEP_MESSAGES", 3)
    for _ in range(4):
        harness.do(RETENTION["dead_messages"][0].replace("31, 29", "1, 1"))
    with harness.ledger.transaction() as connection:
        assert dead_messages.forget_dead_messages(connection) == 5
    newest = harness.all("SELECT id FROM dead_messages ORDER BY id")
    assert newest == harness.all("SELECT generate_series(max(id) - 2, max(id)) FROM dead_messages")


def test_an_effect_is_kept_as_long_as_its_job_may_run_again(harness: LedgerHarness) -> None:
    live, lease_id = harness.running()
    ended, ended_lease = harness.running()
    for job_id, lease in ((live, lease_id), (ended, ended_lease)):
        effects.begin_effect(harness.ledger, job_id, lease, "charge", new_id(), "hold")
    harness.settle(ended, ended_lease)
    with harness.ledger.transaction() as connection:
        assert effects.forget_effects(connection) == 0, "effects are kept for 90 days"
    harness.do("UPDATE effects SET intended_at = clock_timestamp() - interval '91 days'")
    with harness.ledger.transaction() as connection:
        assert effects.forget_effects(connection) == 1
    assert harness.all("SELECT job_id FROM effects") == [live]
