"""The rate of one publisher with batched confirms, without a ledger: the upper bound of dispatch."""

from __future__ import annotations

import time

from bench.dispatch import purge
from jobplatform.broker.envelope import Envelope
from jobplatform.broker.publisher import Publisher
from jobplatform.devstack.stack import Stack
from jobplatform.ledger.ids import new_id

BATCH = 500


def measure(stack: Stack, count: int) -> float:
    """Return messages per second."""
    publisher = Publisher(stack.broker_url, name="bench")
    envelopes = [Envelope(str(new_id()), 1, "bench.noop", "bench", 4) for _ in range(count)]
    publisher.publish(envelopes[:1])
    began = time.monotonic()
    for first in range(0, count, BATCH):
        publisher.publish(envelopes[first : first + BATCH])
    rate = count / (time.monotonic() - began)
    publisher.close()
    purge(stack, "bench")
    return rate
