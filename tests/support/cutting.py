"""Cut a connection to Postgres at each message in turn: before the server gets it, or before the client is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobplatform.devstack.proxy import Proxy, proxied
from jobplatform.ledger.session import Ledger, Limits, open_ledger

#: more messages than any of our exchanges with Postgres has
MANY = 200


@dataclass
class Cut:
    """Loses the client's `number`-th message, or the answer to it, together with the connection."""

    proxy: Proxy
    number: int
    loses_answer: bool
    seen: int = 0
    done: bool = False

    def __call__(self, data: bytes, before: bytes) -> bool:
        self.proxy.losing_answers.clear()  # from now on messages come on another connection
        self.seen += 1
        if self.seen != self.number:
            return False
        self.done = True
        if self.loses_answer:
            self.proxy.losing_answers.set()
        return not self.loses_answer


@contextmanager
def cut(url: str, number: int, loses_answer: bool, limits: Limits) -> Iterator[tuple[Ledger, Cut]]:
    """Yield a ledger whose connection to the server is cut once."""
    with proxied(url) as (through, proxy):
        proxy.stops = result = Cut(proxy, number, loses_answer)
        ledger = open_ledger(through, name="cut", limits=limits, connections=2)
        try:
            yield ledger, result
        finally:
            ledger.close()
