"""Jobs submitted in the caller's transaction: accepted if and only if it commits; no other session waits for it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from jobplatform.client import Conflict, Forbidden, Invalid, Submitted, TooManyRequests, Unauthorized, submit
from jobplatform.config import Settings
from jobplatform.dispatch.audit import audit_ledger
from jobplatform.domain.access import Scope
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.ledger import keys, submissions
from jobplatform.ledger.keys import Grants
from jobplatform.usecases.cancel_job import cancel_job
from jobplatform.usecases.explain_job import explain_job
from jobplatform.usecases.replay_job import replay_job
from jobplatform.usecases.validate_submissions import validate_submissions
from tests.support.ledger_harness import LedgerHarness


class Page(BaseModel):
    number: int
    site: str = "example.com"


class Fails(BaseModel):
    pass


def broken(_payload: Fails) -> list[str]:
    raise ZeroDivisionError


@pytest.fixture
def kinds(harness: LedgerHarness) -> KindRegistry:
    kind_registry = KindRegistry()
    for name, payload, limit_keys in (
        ("acme.page", Page, lambda page: [f"site:{page.site}"]),
        ("acme.broken", Fails, broken),
    ):
        kind_registry.add(Kind(name, "email", payload, lambda p, c: None, max_attempts=7, limit_keys=limit_keys))
    with harness.ledger.transaction() as connection:
        submissions.put_kinds(connection, kind_registry)
    return kind_registry


@pytest.fixture
def team(harness: LedgerHarness, kinds: KindRegistry) -> Iterator[Engine]:
    """A team's own login: it owns a table and may submit jobs."""
    name = f"team_{uuid.uuid4().hex[:8]}"
    harness.do(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE jobplatform_submit")
    harness.do(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
    position, database = harness.url.rsplit("@", 1)[1].rsplit("/", 1)
    engine = create_engine(f"postgresql+psycopg2://{name}:x@{position}/{database}")
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {name}.orders (n integer)"))
    yield engine
    engine.dispose()
    harness.do(f"DROP SCHEMA {name} CASCADE")
    harness.do(f"DROP ROLE {name}")


@pytest.fixture
def key(harness: LedgerHarness) -> str:
    return make_key(harness)


def make_key(harness: LedgerHarness, **grants: Any) -> str:
    with harness.ledger.transaction() as connection:
        return keys.create_key(connection, harness.tenant_id, "shop", Grants(**grants))


def submit_in(session: Any, key: str, number: int = 1, **more: Any) -> Submitted:
    return submit(session, more.pop("kind", "acme.page"), more.pop("payload", {"number": number}), key=key, **more)


def table(engine: Engine) -> str:
    return f"{engine.url.username}.orders"


def test_the_job_and_the_teams_row_commit_together_or_not_at_all(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    with Session(team) as session:
        session.execute(text(f"INSERT INTO {table(team)} VALUES (1)"))
        lost = submit_in(session, key)
        session.rollback()
    assert harness.all("SELECT count(*) FROM jobs") == [0] and harness.all("SELECT count(*) FROM job_events") == [0]
    with Session(team) as session, session.begin():
        session.execute(text(f"INSERT INTO {table(team)} VALUES (2)"))
        kept = submit_in(session, key, tags=["shop"], priority=6)
        assert validate_submissions(harness.ledger, kinds, 10).jobs == 0, "invisible before the commit"
    assert kept.created and kept.id != lost.id and kept.id.version == 7
    assert harness.row(kept.id).state == "blocked"
    validated = validate_submissions(harness.ledger, kinds, 10)
    assert (validated.jobs, validated.woken, validated.more) == (1, "email 6", False)
    row = harness.row(kept.id)
    assert (row.state, row.tags, row.max_attempts, row.queue) == ("available", ["shop"], 7, "email")
    assert row.limit_keys == ["site:example.com"] and row.payload == {"number": 1}
    assert harness.events(kept.id) == ["submitted", "unblocked"]
    assert harness.all("SELECT data ->> 'by' FROM job_events WHERE event = 'submitted'") == ["shop"]
    assert harness.all("SELECT last_used_at IS NOT NULL FROM api_keys") == [True]
    harness.assert_conserved()


def test_a_job_with_an_invalid_payload_is_dead_lettered_with_the_reason(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    with Session(team) as session, session.begin():
        bad = submit_in(session, key, payload={"number": "many"})
        good = submit_in(session, key)
        bug = submit_in(session, key, kind="acme.broken", payload={})
    validate_submissions(harness.ledger, kinds, 10)
    assert harness.row(good.id).state == "available"
    row = harness.row(bad.id)
    assert (row.state, row.error["code"]) == ("dead", "invalid_payload")
    assert row.error["errors"] == [
        {"field": "payload.number", "expected": row.error["errors"][0]["expected"], "got": "'many'"}
    ]
    assert harness.events(bad.id) == ["submitted", "refused"]
    assert (harness.row(bug.id).state, harness.row(bug.id).error["code"]) == ("dead", "bad_kind")
    harness.assert_conserved()


def test_run_at_and_max_attempts_are_those_of_the_submission(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    with team.begin() as connection:  # a plain connection works, too
        job = submit_in(connection, key, run_at=later, start_by=later + timedelta(hours=1), max_attempts=2)
    validate_submissions(harness.ledger, kinds, 10)
    row = harness.row(job.id)
    assert (row.state, row.run_at, row.max_attempts) == ("scheduled", later, 2)


@pytest.mark.parametrize(
    ("grants", "more", "error", "said"),
    [
        ({"scopes": (Scope.READ,)}, {}, Forbidden, "jobs:submit"),
        ({"kinds": ("other.*",)}, {}, Forbidden, "other.*"),
        ({"max_priority": 3}, {"priority": 4}, Forbidden, "at most 3"),
        ({"requests_per_minute": 5}, {}, Forbidden, "a key with a rate"),
        ({}, {"kind": "acme.pag"}, Invalid, "known kinds: acme.broken, acme.page"),
        ({}, {"payload": [1]}, Invalid, "an object"),
        ({}, {"priority": 10}, Forbidden, "at most 9"),
        ({}, {"priority": -1}, Invalid, "priority from 0 to 9"),
        ({}, {"max_attempts": 0}, Invalid, "max_attempts"),
        ({}, {"tags": [""]}, Invalid, "tags"),
        ({}, {"run_at": datetime(2020, 1, 1, tzinfo=UTC)}, Invalid, "in the future"),
        ({}, {"unique": {"key": "x", "seconds": -1}}, Invalid, "above 0"),
        ({}, {"unique": {"key": "x", "seconds": 1e20}}, Invalid, "of at most a year"),
        ({}, {"priority": None}, Invalid, "a priority from 0 to 9"),
        ({}, {"payload": {"text": "x" * 1_100_000}}, Invalid, "at most 1048576 bytes"),
    ],
)
def test_a_forbidden_or_invalid_submission_is_refused_and_the_transaction_continues(
    harness: LedgerHarness, team: Engine, grants: Any, more: Any, error: type[Exception], said: str
) -> None:
    key = make_key(harness, **grants)
    with Session(team) as session, session.begin():
        session.execute(text(f"INSERT INTO {table(team)} VALUES (1)"))
        with pytest.raises(error, match=said.replace("*", r"\*")):
            submit_in(session, key, **more)
    with team.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {table(team)}")).scalar() == 1
    assert harness.all("SELECT count(*) FROM jobs") == [0]


def test_an_invalid_or_revoked_key_is_refused(harness: LedgerHarness, team: Engine, key: str) -> None:
    with Session(team) as session, session.begin():
        for wrong in ("", "nonsense", key[:-1]):
            with pytest.raises(Unauthorized):
                submit_in(session, wrong)
        harness.do("UPDATE api_keys SET revoked_at = now()")
        with pytest.raises(Unauthorized):
            submit_in(session, key)


def test_the_quota_applies(harness: LedgerHarness, team: Engine, key: str) -> None:
    harness.do("INSERT INTO quotas (tenant, queue, max_waiting, updated_by) VALUES ('*', 'email', 2, 'test')")
    with Session(team) as session, session.begin():
        submit_in(session, key), submit_in(session, key)
        with pytest.raises(TooManyRequests, match="wait in queue email"):
            submit_in(session, key)


def test_idempotency_keys_and_unique_keys_work_as_in_the_api(harness: LedgerHarness, team: Engine, key: str) -> None:
    unique = {"key": "u", "on_conflict": "refuse"}
    with Session(team) as session, session.begin():
        first = submit_in(session, key, idempotency_key="k")
        again = submit_in(session, key, idempotency_key="k")
        assert (again.id, again.created) == (first.id, False)
        with pytest.raises(Invalid, match="used for another request") as refused:
            submit_in(session, key, 2, idempotency_key="k")
        assert refused.value.code == "idempotency_key_reused", "the same code as in the API"
        alone = submit_in(session, key, unique={"key": "u"})
        assert submit_in(session, key, 2, unique={"key": "u"}) == Submitted(alone.id, False)
        with pytest.raises(Conflict, match=str(alone.id)):
            submit_in(session, key, 2, unique=unique)
    for wrong in ({"seconds": 1}, {"key": "u", "second": 1}, {"key": "u", "on_conflict": "refused"}):
        with pytest.raises(ValueError, match="unique: expected"):
            submit_in(None, key, unique=wrong)
    with pytest.raises(ValueError, match="a time with a zone"):
        submit_in(None, key, run_at=datetime(2030, 1, 1))


def test_no_other_session_waits_for_an_open_transaction(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    """While it is open, other sessions finish jobs, admit and revoke the same key, and add up counters."""
    with Session(team) as session:
        submitted = submit_in(session, key)
        done = threading.Event()

        def others() -> None:
            for _ in range(3):
                job_id, lease = harness.running()
                harness.settle(job_id, lease)
            (key_id,) = harness.all("SELECT id FROM api_keys")
            assert keys.admit_key(harness.ledger, key) is not None
            with harness.ledger.transaction() as connection:
                keys.revoke_key(connection, key_id)
            with harness.ledger.transaction() as connection:
                submissions.fold_counters(connection)
            done.set()

        thread = threading.Thread(target=others)
        thread.start()
        thread.join(20)
        assert done.is_set()
        session.commit()
    assert validate_submissions(harness.ledger, kinds, 10).jobs == 1
    assert harness.row(submitted.id).state == "available"


def test_counters_of_submissions_are_added_up(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    for _ in range(3):
        with Session(team) as session, session.begin():
            submit_in(session, key)
    assert harness.all("SELECT count(*) FROM queue_counters WHERE slot < 0") == [1]
    with harness.ledger.transaction() as connection:
        assert submissions.fold_counters(connection) == 1
    assert harness.all("SELECT slot >= 0, accepted::int FROM queue_counters") == [(True, 3)]
    harness.assert_conserved()


def test_several_dispatchers_validate_jobs_and_only_of_kinds_that_they_know(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    with Session(team) as session, session.begin():
        ids = [submit_in(session, key, n).id for n in range(30)]
    assert validate_submissions(harness.ledger, KindRegistry(), 10).jobs == 0
    validated: list[int] = []

    def validate() -> None:
        while result := validate_submissions(harness.ledger, kinds, 7).jobs:
            validated.append(result)

    threads = [threading.Thread(target=validate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while result := validate_submissions(harness.ledger, kinds, 7).jobs:  # jobs that others were validating
        validated.append(result)
    assert sum(validated) >= 30, "two threads may validate one job"
    assert set(harness.all("SELECT state FROM jobs WHERE id = ANY (:ids)", ids=ids)) == {"available"}
    assert harness.all("SELECT count(*) FROM job_events WHERE event = 'unblocked'") == [30], "but only one releases it"
    harness.assert_conserved()


@pytest.mark.parametrize("payload", ['{"number": 1e400}', '{"number": ' + "[" * 300 + "]" * 300 + "}"])
def test_json_that_only_postgres_can_read_does_not_block_other_jobs(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str, payload: str
) -> None:
    with team.begin() as connection:
        (bad,) = connection.execute(
            text("SELECT job_id FROM submit_job(:hash, 'acme.page', CAST(:payload AS json))"),
            {"hash": hashlib.sha256(key.encode()).hexdigest(), "payload": payload},
        ).one()
        good = submit_in(connection, key)
    validate_submissions(harness.ledger, kinds, 10)
    result = {row[0]: row[1:] for row in harness.all("SELECT id, state, error ->> 'code' FROM jobs")}
    assert result == {bad: ("dead", "invalid_payload"), good.id: ("available", None)}


def test_jobs_of_a_slow_kind_are_validated_a_few_at_a_time(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobplatform.usecases.validate_submissions.LOOK_SECONDS", 0.0)
    with team.begin() as connection:
        for number in range(3):
            submit_in(connection, key, number)
    assert [validate_submissions(harness.ledger, kinds, 10)[::2] for _ in range(3)] == [
        (1, True),
        (1, True),
        (1, False),
    ]


def test_a_replay_does_not_bypass_validation(
    harness: LedgerHarness, team: Engine, kinds: KindRegistry, key: str
) -> None:
    """Without validation, a job's limits would never apply."""
    with team.begin() as connection:
        cancelled, refused = (
            submit_in(connection, key).id,
            submit_in(connection, key, kind="acme.broken", payload={}).id,
        )
    cancel_job(harness.ledger, harness.tenant_id, cancelled, reason=None, by="test")
    validate_submissions(harness.ledger, kinds, 10)
    for job_id in (cancelled, refused):
        replay_job(harness.ledger, None, harness.tenant_id, job_id, by="test", reason=None)
        assert harness.row(job_id).state == "blocked"
    validate_submissions(harness.ledger, kinds, 10)
    assert (harness.row(cancelled).state, harness.row(cancelled).limit_keys) == ("available", ["site:example.com"])
    assert harness.row(refused).state == "dead"
    cancel_job(harness.ledger, harness.tenant_id, cancelled, reason=None, by="test")
    replay_job(harness.ledger, None, harness.tenant_id, cancelled, by="test", reason=None)
    assert harness.row(cancelled).state == "available", "it was validated before"
    harness.assert_conserved()


def test_idempotency_keys_do_not_depend_on_the_time_zone_of_the_session(
    harness: LedgerHarness, team: Engine, key: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    ids = set()
    for zone in ("UTC", "Asia/Tokyo"):
        with team.begin() as connection:
            connection.execute(text(f"SET LOCAL timezone = '{zone}'"))
            ids.add(submit_in(connection, key, run_at=later, idempotency_key="k").id)
    assert len(ids) == 1
    with team.begin() as connection, pytest.raises(Invalid, match="used for another request"):
        submit_in(connection, key, start_by=later, idempotency_key="k")


def test_the_statement_does_not_contain_the_key(harness: LedgerHarness, team: Engine, key: str) -> None:
    with team.connect() as connection:
        submit_in(connection, key)
        said = harness.all(
            "SELECT query FROM pg_stat_activity WHERE query LIKE '%submit_job%' AND usename LIKE 'team_%'"
        )
        assert said and key not in str(said)


def test_a_job_can_be_cancelled_before_it_is_validated(
    harness: LedgerHarness, team: Engine, key: str, kinds: KindRegistry
) -> None:
    with Session(team) as session, session.begin():
        job = submit_in(session, key)
    reasons = explain_job(harness.ledger, Settings(database_url=harness.url), harness.tenant_id, job.id).reasons
    assert [reason.code for reason in reasons] == ["unchecked"]
    cancel_job(harness.ledger, harness.tenant_id, job.id, reason=None, by="test")
    assert validate_submissions(harness.ledger, kinds, 10).jobs == 0
    assert harness.row(job.id).state == "cancelled"
    harness.assert_conserved()


def test_the_audit_has_no_findings(harness: LedgerHarness, team: Engine, key: str, kinds: KindRegistry) -> None:
    with Session(team) as session, session.begin():
        submit_in(session, key), submit_in(session, key, payload={"number": None})
    validate_submissions(harness.ledger, kinds, 1)
    assert audit_ledger(harness.ledger, hours=1, budget_seconds=60, patience_seconds=60).findings == []


def test_the_submit_role_may_do_nothing_else(harness: LedgerHarness, team: Engine, key: str) -> None:
    with team.connect() as connection:
        for forbidden in (
            "SELECT * FROM public.jobs",
            "SELECT key_hash FROM public.api_keys",
            "SELECT * FROM public.kinds",
            "SELECT release_validated_jobs('[]', '{}')",
        ):
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text(forbidden))
            assert isinstance(caught.value.orig, psycopg2.errors.InsufficientPrivilege)
            connection.rollback()
    name = f"nobody_{uuid.uuid4().hex[:8]}"
    harness.do(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    engine = create_engine(team.url.set(username=name))
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        submit_in(connection, key)
    assert isinstance(caught.value.orig, psycopg2.errors.InsufficientPrivilege), "a key alone is not enough"
    engine.dispose()
    harness.do(f"DROP ROLE {name}")


def test_a_table_of_the_caller_does_not_shadow_a_table_of_the_ledger(
    harness: LedgerHarness, team: Engine, key: str
) -> None:
    """The function runs with the owner's rights: a caller's own `api_keys` table must not authenticate the caller."""
    with team.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE api_keys AS SELECT 1 AS id"))
        connection.execute(text(f"CREATE TABLE {team.url.username}.kinds (name text)"))
        connection.execute(text(f"SET search_path = {team.url.username}, pg_temp, public"))
        assert submit_in(connection, key, schema="public").created


def test_async_sessions_can_submit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement and its result are those of `submit`; no asyncio driver is among our dependencies."""
    from jobplatform.client import submit_async

    class Answer:
        def one(self) -> Any:
            return type("Row", (), {"code": None, "detail": None, "job_id": UUID(int=1), "created": True})

    class Async:
        async def execute(self, statement: Any, values: dict[str, Any]) -> Answer:
            assert "submit_job(" in str(statement) and values["key_hash"] == hashlib.sha256(b"k").hexdigest()
            return Answer()

    result = asyncio.run(submit_async(Async(), "acme.page", {}, key="k"))  # type: ignore[arg-type]
    assert result == Submitted(UUID(int=1), True)


def test_the_settings_of_the_dispatcher_apply_to_submissions_by_sql(
    harness: LedgerHarness, kinds: KindRegistry, key: str
) -> None:
    with harness.ledger.transaction() as connection:
        submissions.put_settings(connection, max_body_bytes=2000, idempotency_seconds=120)
    key_hash = hashlib.sha256(key.encode()).hexdigest()
    large = '{"number": 1, "site": "' + "y" * 2000 + '"}'
    with harness.ledger.transaction() as connection:
        said = connection.execute(
            text("SELECT code, detail FROM submit_job(:hash, 'acme.page', CAST(:payload AS json))"),
            {"hash": key_hash, "payload": large},
        ).one()
        assert said.code == "invalid_request" and "at most 2000 bytes" in said.detail
        connection.execute(
            text("SELECT * FROM submit_job(:hash, 'acme.page', CAST(:payload AS json), p_idempotency_key => 'k')"),
            {"hash": key_hash, "payload": '{"number": 1}'},
        )
    (lives,) = harness.all("SELECT extract(epoch FROM expires_at - created_at)::int FROM idempotency_keys")
    assert lives == 120
