"""The guard of the broker's epoch: a durable sentinel queue that is gone tells that the broker was wiped (I2).

It declares a new sentinel first and commits it as current then; dispatched jobs of any other epoch go back to
available, always and not once: a batch that commits just after the wipe is found too (rule 5).
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
    """Make sure the current epoch's sentinel stands, and return what was dispatched in another. Returns the epoch.

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
        connection.exec_driver_sql("SELECT take_lock('epoch')")
        now = dispatching.current_epoch(connection)
        if now == before:
            dispatching.put_epoch(connection, epoch)
            log.warning("broker_epoch_began", epoch=str(epoch), before=str(before) if before else None)
            return epoch
    assert now is not None
    return now
