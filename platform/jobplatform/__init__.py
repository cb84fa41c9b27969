"""The core of the job platform: the ledger decides, RabbitMQ carries.

A team that adds its own kind of job needs only what is exported here::

    from jobplatform import Context, Permanent, Retryable, kind
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

#: name → (module, attribute); imported when it is used: the client needs neither pydantic nor these modules
_EXPORTS = {
    "Context": ("jobplatform.domain.context", "Context"),
    "kind": ("jobplatform.domain.kinds", "kind"),
    "limit_key": ("jobplatform.domain.limits", "key"),
    **{name: ("jobplatform.domain.retry", name) for name in ("Exponential", "Fixed", "Steps", "read_retry_after")},
    **{name: ("jobplatform.domain.workflows", name) for name in ("chain", "chord", "group", "map_over", "step")},
    **{name: ("jobplatform.errors", name) for name in ("Permanent", "Retryable", "Snooze", "Throttled")},
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jobplatform.extras import require

    require("ledger")
    module, attribute = _EXPORTS[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
