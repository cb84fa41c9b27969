"""The core of the job platform: the ledger decides, RabbitMQ carries.

A team that adds its own kind of job needs only what is exported here::

    from jobplatform import Context, Permanent, Retryable, kind
"""

from jobplatform.domain.context import Context
from jobplatform.domain.kinds import kind
from jobplatform.domain.limits import key as limit_key
from jobplatform.domain.retry import Exponential, Fixed, Steps, read_retry_after
from jobplatform.domain.workflows import chain, chord, group, map_over, step
from jobplatform.errors import Permanent, Retryable, Snooze, Throttled

__version__ = "0.1.0"
__all__ = [
    "Context",
    "Exponential",
    "Fixed",
    "Permanent",
    "Retryable",
    "Snooze",
    "Steps",
    "Throttled",
    "chain",
    "chord",
    "group",
    "kind",
    "limit_key",
    "map_over",
    "read_retry_after",
    "step",
    "__version__",
]
