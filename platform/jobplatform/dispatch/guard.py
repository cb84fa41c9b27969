"""Epoch guard: the sentinel, a queue with one transient message, detects a broker that lost its messages (I2).

The guard declares a new sentinel, then commits it as current. Dispatched jobs of any other epoch return to available,
on every check and not only once: a batch that commits just after the loss is detected too (rule "Epoch always").
"""

from __future__ import annotations

from uuid import UUID

from jobplatform.broker.connection import FAILURES
from jobplatform.broker.declare import declare_epoch, delete_epoch, epoch_continues
from jobplatform.broker.publisher import Publisher
from jobplatform.errors import BrokerUnavailable
from jobplatform.ledger import dispatching
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log

log = get_log(__name__)


def guard_epoch(ledger: Ledger, publisher: Publisher, queue_type: str = "auto", batch: int = 1000) -> UUID:
    """Check the sentinel of the current epoch, and return jobs dispatched in other epochs to available. Returns the
    epoch. `queue_type`: the setting JOBPLATFORM_QUEUE_TYPE.

    Raises `BrokerUnavailable` or a `LedgerUnavailable`.
    """
    with ledger.statement() as connection:
        epoch = dispatching.current_epoch(connection)
    try:
        if epoch is None or not epoch_continues(publisher.connection, epoch, queue_type):
            epoch = _begin_epoch(ledger, publisher, epoch, queue_type)
    except FAILURES as error:
        publisher.close()
        raise BrokerUnavailable(f"RabbitMQ went away while its epoch was checked: {error!r}") from None
    while True:
        with ledger.transaction() as connection:
            returned = dispatching.return_other_epochs(connection, epoch, batch)
        if returned:
            log.warning("jobs_returned_from_other_epoch", jobs=returned, epoch=str(epoch))
        if returned < batch:
            return epoch


def _begin_epoch(ledger: Ledger, publisher: Publisher, before: UUID | None, queue_type: str) -> UUID:
    """Declare a new sentinel, then commit it as current, unless another dispatcher was faster."""
    epoch = new_id()
    declare_epoch(publisher.connection, epoch, queue_type)
    with ledger.transaction() as connection:
        dispatching.lock_epoch(connection)
        now = dispatching.current_epoch(connection)
        if now == before:
            dispatching.put_epoch(connection, epoch)
            log.warning("broker_epoch_began", epoch=str(epoch), before=str(before) if before else None)
    over = before if now == before else epoch
    if over is not None:  # it may have survived without its message
        delete_epoch(publisher.connection, over)
    if now == before:
        return epoch
    assert now is not None
    return now
