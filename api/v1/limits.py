"""Limits and quotas."""

from __future__ import annotations

from flask import Response

from api.auth import caller
from api.operations import operation
from api.responses import answer, read_body
from api.services import services
from api.v1.schemas.limits import KeyPause, LimitAnswer, LimitBody, LimitList, PauseKeyBody, QuotaBody, QuotaList
from jobplatform.usecases import manage_limits


@operation("GET", "/limits", "List limits", "limits", None, answer=LimitList)
def list_limits() -> Response:
    """List limits with the usage of their keys and the jobs that wait for them. Requires an operator key."""
    return answer({"limits": [limit.as_dict() for limit in manage_limits.list_limits(services().ledger)]})


@operation(
    "PUT",
    "/limits/<name>",
    "Set a limit",
    "limits",
    None,
    answer=LimitAnswer,
    body=LimitBody,
)
def put_limit(name: str) -> Response:
    """Set the limit of a key (`provider:openai`), or of every key with a prefix (`domain:*`). It takes effect at
    once; jobs in flight continue. Requires an operator key.
    """
    has = services()
    limit = read_body(LimitBody, has.settings.max_body_bytes).limit(name)
    return answer(manage_limits.put_limit(has.ledger, limit, by=caller().key_name).as_dict())


@operation("DELETE", "/limits/<name>", "Delete a limit", "limits", None, status=204, problems=(404,))
def delete_limit(name: str) -> Response:
    """Delete a limit; the jobs that it blocked are released. Requires an operator key."""
    manage_limits.remove_limit(services().ledger, name)
    return Response(status=204)


@operation(
    "PUT",
    "/limits/<key>/pause",
    "Pause a limit key",
    "limits",
    None,
    answer=KeyPause,
    body=PauseKeyBody,
)
def pause_key(key: str) -> Response:
    """Pause a limit key: no job that uses it starts for `seconds`. 0 resumes it. Requires an operator
    key."""
    has = services()
    body = read_body(PauseKeyBody, has.settings.max_body_bytes)
    until = manage_limits.pause_key(has.ledger, key, body.seconds, f"{body.reason} ({caller().key_name})")
    return answer({"key": key, "paused_until": until})


@operation("GET", "/quotas", "List quotas", "limits", None, answer=QuotaList)
def list_quotas() -> Response:
    """List quotas on waiting jobs. Requires an operator key."""
    return answer({"quotas": manage_limits.list_quotas(services().ledger)})


@operation(
    "PUT",
    "/quotas/<tenant>/<queue>",
    "Set a quota",
    "limits",
    None,
    status=204,
    body=QuotaBody,
    problems=(404,),
)
def put_quota(tenant: str, queue: str) -> Response:
    """Limit how many jobs of a tenant may wait in a queue. `*` stands for every tenant or queue without its own quota.

    The queue `+` stands for all queues together and counts all live jobs, dead letters included. Further jobs get 429
    and a Retry-After. Requires an operator key.
    """
    has = services()
    most = read_body(QuotaBody, has.settings.max_body_bytes).max_waiting
    manage_limits.put_quota(has.ledger, tenant, queue, most, queues=has.settings.queues, by=caller().key_name)
    return Response(status=204)


@operation("DELETE", "/quotas/<tenant>/<queue>", "Delete a quota", "limits", None, status=204, problems=(404,))
def delete_quota(tenant: str, queue: str) -> Response:
    """Remove a quota. Requires an operator key."""
    manage_limits.remove_quota(services().ledger, tenant, queue)
    return Response(status=204)
