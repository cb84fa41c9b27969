"""Epoch guard: a durable sentinel queue detects a wiped broker by its absence (I2).

It declares a new sentinel, then commits it as current. Dispatched jobs of any other epoch return to available, on
every check and not only once: a batch that commits just after the wipe is detected too (rule "Epoch always").
"""

from __future__ import annotations

from uuid import UUID

from jobplatform.broker.connection import FAILURES
from jobplatform.broker.declare import declare_epoch, epoch_queue, queue_exists
from jobplatform.broker.publisher import Publisher
from jobplatform.errors import BrokerUnavailable
from jobplatform.ledger import dispatching
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)


def guard_epoch(ledger: Ledger, publisher: Publisher, batch: int = 1000) -> UUID:
    """Check the sentinel of the current epoch, and return jobs dispatched in other epochs to available. Returns the
    epoch.

    Raises `BrokerUnavailable` or a `LedgerUnavailable`.
    """
    with ledger.statement() as connection:
        epoch = dispatching.current_epoch(connection)
    try:
        if epoch is None or not queue_exists(publisher.connection, epoch_queue(epoch)):
            epoch = _begin_epoch(ledger, publisher, epoch)
    except FAILURES as error:
        publisher.close()
        raise BrokerUnavailable(f"RabbitMQ went away while its epoch was looked at: {error!r}") from None
    while True:
        with ledger.transaction() as connection:
            returned = dispatching.return_other_epochs(connection, epoch, batch)
        if returned:
            log.warning("jobs_returned_from_other_epoch", jobs=returned, epoch=str(epoch))
        if returned < batch:
            return epoch


def _begin_epoch(ledger: Ledger, publisher: Publisher, before: UUID | None) -> UUID:
    """Declare a new sentinel, then commit it as current, unless another dispatcher was faster."""
    epoch = new_id()
    declare_epoch(publisher.connection, epoch)
    with ledger.transaction() as connection:
        dispatching.lock_epoch(connection)
        now = dispatching.current_epoch(connection)
        if now == before:
            dispatching.put_epoch(connection, epoch)
            log.warning("broker_epoch_began", epoch=str(epoch), before=str(before) if before else None)
            return epoch
    assert now is not None
    return now
