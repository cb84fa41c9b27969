"""Connections to the ledger, and the translation of the driver's errors."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg2
import psycopg2.errors
import psycopg2.extensions
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from jobplatform.errors import LedgerBusy, LedgerReadOnly, LedgerUnavailable, OutcomeUnknown

#: calls a function in an open transaction
Call = Callable[..., list[tuple[Any, ...]]]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
READ_ONLY = "25006"
_BUSY = {LOCK_NOT_AVAILABLE, "57014", "40P01", "40001"}  # lock_not_available, query_canceled, deadlock, serialization
#: of a prepared call: cached plan must not change result type, no such prepared statement, no such function
_CHANGED = {"0A000", "26000", "42883"}
# connection exceptions, operator intervention, insufficient resources
_GONE = ("08", "57P", "53")


@dataclass(frozen=True)
class Limits:
    """Session time-outs, enforced by the *server*, in milliseconds; 0 disables.

    `transaction_ms` needs Postgres 17; older servers bound a transaction by the other two.
    """

    statement_ms: int = 10_000
    lock_ms: int = 2_000
    idle_in_transaction_ms: int = 10_000
    transaction_ms: int = 0


#: the API times out early: a caller waits; the lock of a settling worker is short
API = Limits(statement_ms=10_000, lock_ms=2_000, idle_in_transaction_ms=5_000)
#: a pool child can wait for its settle, the row's other holder is bounded itself
WORKER = Limits(statement_ms=30_000, lock_ms=15_000, idle_in_transaction_ms=10_000)
#: a frozen dispatcher must not keep rows and its queue locked forever
DISPATCHER = Limits(statement_ms=10_000, lock_ms=2_000, idle_in_transaction_ms=5_000, transaction_ms=10_000)


def make_engine(url: str, *, name: str, limits: Limits, connections: int, autocommit: bool) -> Engine:
    """Return an engine whose pooled connections carry `limits` and show up as `name` in pg_stat_activity."""
    options = {
        "statement_timeout": limits.statement_ms,
        "lock_timeout": limits.lock_ms,
        "idle_in_transaction_session_timeout": limits.idle_in_transaction_ms,
    }
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        skip_autocommit_rollback=autocommit,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        pool_use_lifo=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={
            "connect_timeout": 3,
            "application_name": f"jobplatform {name}",
            "options": " ".join(f"-c {key}={value}" for key, value in options.items()),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            # keepalives say nothing while an answer is awaited: a server that vanished would be waited for 15 minutes
            "tcp_user_timeout": 10_000,
        },
    )

    @event.listens_for(engine, "connect")
    def _read_any_moment(connection: Any, _record: Any) -> None:
        psycopg2.extensions.register_type(TIMESTAMPTZ, connection)

    if limits.transaction_ms:

        @event.listens_for(engine, "connect")
        def _bound_transactions(connection: Any, _record: Any) -> None:
            if connection.server_version >= 170000:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET transaction_timeout = {int(limits.transaction_ms)}")
                connection.commit()

    @event.listens_for(engine, "checkout")
    def _refuse_dead(connection: Any, _record: Any, _proxy: Any) -> None:
        # without it, the first callers after a restart of Postgres would get 503
        if has_news(connection):
            raise DisconnectionError("the server closed this pooled connection")

    return engine


def _read_moment(value: str | bytes | None, cursor: Any) -> datetime | None:
    """Return a timestamptz; one that Python can't hold is the nearest that it can: a list must not fail for one row."""
    try:
        moment: datetime | None = psycopg2.extensions.PYDATETIMETZ(value, cursor)
        return moment
    except (ValueError, OverflowError):
        nearest = datetime.min if str(value).endswith("BC") else datetime.max
        return nearest.replace(tzinfo=UTC)


TIMESTAMPTZ = psycopg2.extensions.new_type((1184,), "TIMESTAMPTZ", _read_moment)


#: what opening a pooled connection raises. `InvalidRequestError`: it was found dead at each of the pool's attempts
NOT_OPENED = (DBAPIError, PoolTimeout, psycopg2.Error, InvalidRequestError)


def translate(error: DBAPIError | PoolTimeout | psycopg2.Error | InvalidRequestError) -> Exception:
    """Return our error for the driver's; the driver's own if it indicates a bug."""
    if isinstance(error, InvalidRequestError):
        return LedgerUnavailable()
    if isinstance(error, PoolTimeout):
        return LedgerBusy("all of this process's ledger connections are in use; repeat in a moment")
    driver = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(driver, "pgcode", None) or ""
    if code in _BUSY:
        return LedgerBusy()
    if code == READ_ONLY:
        return LedgerReadOnly()
    if getattr(error, "connection_invalidated", False) or code.startswith(_GONE):
        return LedgerUnavailable()
    if not code and isinstance(driver, psycopg2.OperationalError | psycopg2.InterfaceError):
        return LedgerUnavailable()
    return error


class Prepared:
    """A connection of one thread, on which each function is prepared at its first call.

    It bypasses SQLAlchemy: pool, wrapping, parsing and planning cost as much as the call
    itself (docs/operations/performance.md). It is closed when its thread ends.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None
        self._names: set[str] = set()
        #: a transaction is open: another one on the same thread would be a part of it
        self.is_open = False

    def call(self, function: str, values: Sequence[Any], *, begin: bool = False) -> list[tuple[Any, ...]]:
        """Call a function; `begin` opens a transaction with it. Raises as `Ledger.call`."""
        arguments = [str(value) if isinstance(value, UUID) else value for value in values]
        # never another connection in a transaction: the call would not be part of it
        connection = self._connection if self.is_open else self._open()
        try:
            cursor = connection.cursor()
            if function not in self._names:
                numbered = ", ".join(f"${n}" for n in range(1, len(values) + 1))
                try:
                    cursor.execute(f"PREPARE {function} AS SELECT * FROM {function}({numbered})")
                except psycopg2.errors.DuplicatePreparedStatement:
                    pass  # a signal fell between preparing it and noting that
                self._names.add(function)
            positions = ", ".join(["%s"] * len(values))
            cursor.execute(f"{'BEGIN; ' if begin else ''}EXECUTE {function}({positions})", arguments)
            return list(cursor.fetchall())
        except psycopg2.Error as error:
            if connection.closed:
                self.close()
                if not error.pgcode and not begin:
                    raise OutcomeUnknown() from error
            elif begin:
                self.roll_back()
            if error.pgcode in _CHANGED and not self.is_open:
                self.close()  # another version of the ledger: nothing was executed, nothing may be concluded
                raise LedgerUnavailable(
                    f"the ledger's function {function} has changed: is this process of the ledger's version?"
                ) from error
            raise translate(error) from error

    def commit(self) -> None:
        """Commit the transaction that a call began. Raises `OutcomeUnknown` when the response was lost."""
        try:
            self._connection.cursor().execute("COMMIT")
        except psycopg2.Error as error:
            self.close()
            ours = translate(error)
            if isinstance(ours, LedgerUnavailable) and not isinstance(ours, LedgerBusy):
                raise OutcomeUnknown() from error
            raise ours from error

    def roll_back(self) -> None:
        """Roll the transaction back; on a dead connection the server does it."""
        try:
            self._connection.cursor().execute("ROLLBACK")
        except (psycopg2.Error, AttributeError):
            self.close()

    def _open(self) -> Any:
        """Return the connection; a new one if there is none, or if the server has closed it."""
        if self._connection is not None and has_news(self._connection):
            self.close()
        if self._connection is None:
            try:
                pooled = self._engine.raw_connection()
                pooled.detach()
            except NOT_OPENED as error:
                raise translate(error) from error
            self._connection, self._names = pooled.dbapi_connection, set()
        return self._connection

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _quietly(connection.close)


def has_news(connection: Any) -> bool:
    """Return whether an idle connection has something to read: the server has closed it.

    Costs no round trip, which a ping would. poll and not select, which ends at file descriptor 1023.
    """
    waiting = select.poll()
    waiting.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(waiting.poll(0))


class Ledger:
    """Access to Postgres for the use cases. Query functions take the `Connection` and never commit."""

    def __init__(self, transactions: Engine, statements: Engine) -> None:
        #: pools of their own: switching one connection between the two ways costs a round trip each time
        self.transactions, self.statements = transactions, statements
        self._threads = threading.local()
        #: names of locks that exist, as far as this process knows (dispatching.py)
        self.known_locks: set[str] = set()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction; commit at the end of the block, roll back on an exception.

        Raises `LedgerUnavailable` or `LedgerBusy` when nothing was changed, `OutcomeUnknown` when the commit's response
        was lost.
        """
        try:
            connection = self.transactions.connect()
        except NOT_OPENED as error:
            raise translate(error) from error
        try:
            transaction = connection.begin()
            try:
                yield connection
            except DBAPIError as error:
                _quietly(transaction.rollback)
                ours = translate(error)
                if ours is error:
                    raise
                raise ours from error
            except BaseException:
                _quietly(transaction.rollback)
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                ours = translate(error)
                if isinstance(ours, LedgerUnavailable) and not isinstance(ours, LedgerBusy):
                    raise OutcomeUnknown() from error
                raise ours from error
        finally:
            _quietly(connection.close)

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """Open an autocommit connection: every statement is its own transaction, one round trip each.

        For reads, and for calls of the ledger's own functions, which are one transaction by being one statement.
        """
        try:
            connection = self.statements.connect()
        except NOT_OPENED as error:
            raise translate(error) from error
        try:
            yield connection
        except DBAPIError as error:
            ours = translate(error)
            if ours is error:
                raise
            raise ours from error
        finally:
            _quietly(connection.close)

    def call(self, function: str, *values: Any) -> list[tuple[Any, ...]]:
        """Call one of the functions in `sql/`, which is one transaction by being one statement: one round trip.

        Raises `LedgerUnavailable` or `LedgerBusy` when nothing was changed, `OutcomeUnknown` when the connection broke
        before the response.
        """
        return self._prepared().call(function, values)

    @contextmanager
    def open_call(self, function: str, *values: Any) -> Iterator[tuple[list[tuple[Any, ...]], Call]]:
        """Open a transaction by calling a function, in one round trip; commit at the end of the block.

        Yields what the function returned, and a way to call more of them in the transaction. Raises as `transaction`.
        """
        session = self._prepared()
        result = session.call(function, values, begin=True)
        session.is_open = True
        try:
            yield result, lambda name, *more: session.call(name, more)
        except BaseException:
            session.roll_back()
            raise
        finally:
            session.is_open = False
        session.commit()

    def _prepared(self) -> Prepared:
        result: Prepared | None = getattr(self._threads, "prepared", None)
        if result is None:
            result = self._threads.prepared = Prepared(self.statements)
        if result.is_open:
            raise RuntimeError("a transaction is open on this thread: call by what `open_call` yields")
        return result

    def close(self) -> None:
        """Close all pooled connections, and this thread's own."""
        if (mine := getattr(self._threads, "prepared", None)) is not None:
            mine.close()
        self.transactions.dispose()
        self.statements.dispose()


def open_ledger(url: str, *, name: str, limits: Limits = API, connections: int = 4) -> Ledger:
    """Return a ledger that connects at first use, at most `connections` each for transactions and for statements."""
    return Ledger(
        make_engine(url, name=name, limits=limits, connections=connections, autocommit=False),
        make_engine(url, name=name, limits=limits, connections=connections, autocommit=True),
    )


def _quietly(action: Any) -> None:
    """Roll back on a connection that may be dead: the original error is being raised."""
    try:
        action()
    except (DBAPIError, psycopg2.Error):
        pass
