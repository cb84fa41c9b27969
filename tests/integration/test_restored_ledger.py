"""A ledger restored into another cluster, whose transaction ids start from the beginning: feeds continue."""

from __future__ import annotations

from jobplatform.config import Settings
from jobplatform.doctor.ledger_checks import check_ledger
from jobplatform.domain.feeds import FeedPosition, Wanted
from jobplatform.ledger import feed
from jobplatform.usecases.read_feed import now_in, read_page
from tests.support.ledger_harness import LedgerHarness
from tests.support.waiting import eventually

LATER = 5_000_000_000


def restore(harness: LedgerHarness) -> None:
    """Simulate a restore: transaction ids of events are ahead of this cluster, and its identity is another one."""
    harness.do("UPDATE job_events SET tx = tx + :later", later=LATER)
    harness.do("UPDATE installation SET cluster = 'the old one'")


def events_behind(harness: LedgerHarness, position: FeedPosition) -> list[str]:
    page, _, _ = read_page(harness.ledger, harness.tenant_id, position, Wanted(), 100)
    return [str(event.job_id) for event in page]


def test_events_after_a_restore_come_after_every_cursor(harness: LedgerHarness) -> None:
    before = harness.submit()
    cursor = now_in(harness.ledger, harness.tenant_id)
    restore(harness)
    cursor = FeedPosition(cursor.tx + LATER, cursor.id)
    lost = harness.submit()
    assert events_behind(harness, cursor) == [], "without the offset the event is lost"
    with harness.ledger.transaction() as connection:
        offset = feed.rebase_feed(connection)
    assert offset is not None and offset > LATER
    after = harness.submit()
    eventually(lambda: str(after) in events_behind(harness, cursor))
    assert str(before) in events_behind(harness, FeedPosition())
    assert lost != after
    with harness.ledger.transaction() as connection:
        assert feed.rebase_feed(connection) is None, "rebased once"


def test_the_offset_after_a_second_restore_is_above_the_first(harness: LedgerHarness) -> None:
    offsets = []
    for _ in range(2):
        harness.submit()
        harness.do("UPDATE installation SET cluster = 'another one'")
        with harness.ledger.transaction() as connection:
            offsets.append(feed.rebase_feed(connection))
    assert offsets[0] is not None and offsets[1] is not None and offsets[1] > offsets[0]
    job_id = harness.submit()
    # the feed shows an event when no older transaction is open in the cluster, where other tests run too
    eventually(lambda: str(job_id) in events_behind(harness, FeedPosition(offsets[1] or 0, 0)))


def test_without_a_cluster_identity_a_restore_is_detected_by_events_ahead_of_the_cluster(
    harness: LedgerHarness,
) -> None:
    harness.do("CREATE OR REPLACE FUNCTION cluster_identity() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'")
    harness.do("UPDATE installation SET cluster = 'known before'")
    harness.submit()
    with harness.ledger.transaction() as connection:
        assert feed.rebase_feed(connection) is None
    harness.do("UPDATE job_events SET tx = tx + :later", later=LATER)
    with harness.ledger.transaction() as connection:
        assert feed.rebase_feed(connection) is not None


def test_the_doctor_reports_a_restored_ledger(harness: LedgerHarness) -> None:
    config = Settings(database_url=harness.url)
    levels = {finding.check: finding for finding in check_ledger(harness.ledger, config)}
    assert "feeds" not in levels and "writable" not in levels
    restore(harness)
    result = {finding.check: finding for finding in check_ledger(harness.ledger, config)}["feeds"]
    assert (result.level, result.remedy) == ("failed", "jobplatform migrate")


def test_the_doctor_reports_a_read_only_database(harness: LedgerHarness) -> None:
    name = harness.url.rpartition("/")[2]
    harness.do(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    harness.ledger.close()
    try:
        result = {f.check: f for f in check_ledger(harness.ledger, Settings(database_url=harness.url))}["writable"]
        assert result.level == "failed" and "read only" in result.message
    finally:
        harness.ledger.close()
        with harness.ledger.statement() as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
