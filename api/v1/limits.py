"""Limits and quotas."""

from __future__ import annotations

from flask import Response

from api.auth import caller
from api.operations import operation
from api.responses import answer, read_body
from api.services import services
from api.v1.schemas.limits import Hold, LimitAnswer, LimitBody, LimitList, PauseKeyBody, QuotaBody, QuotaList
from jobplatform.usecases import manage_limits


@operation("GET", "/limits", "List limits", "limits", None, answer=LimitList, problems=(403,))
def list_limits() -> Response:
    """List limits, what uses their keys, and who waits for them. Wants an operator's key."""
    return answer({"limits": [limit.as_dict() for limit in manage_limits.list_limits(services().ledger)]})


@operation(
    "PUT",
    "/limits/<name>",
    "Set a limit",
    "limits",
    None,
    answer=LimitAnswer,
    body=LimitBody,
    problems=(400, 403, 413, 415, 422),
)
def put_limit(name: str) -> Response:
    """Set the limit of a key (`provider:openai`), or of each key of a name (`domain:*`). It acts at once; jobs that are
    out go on. Wants an operator's key.
    """
    has = services()
    limit = read_body(LimitBody, has.settings.max_body_bytes).limit(name)
    return answer(manage_limits.put_limit(has.ledger, limit, by=caller().key_name).as_dict())


@operation("DELETE", "/limits/<name>", "Remove a limit", "limits", None, status=204, problems=(403, 404))
def delete_limit(name: str) -> Response:
    """Remove a limit; what it held back goes. Wants an operator's key."""
    manage_limits.remove_limit(services().ledger, name)
    return Response(status=204)


@operation(
    "PUT",
    "/limits/<key>/hold",
    "Hold a key",
    "limits",
    None,
    answer=Hold,
    body=PauseKeyBody,
    problems=(400, 403, 413, 415, 422),
)
def pause_key(key: str) -> Response:
    """Let nothing of a key begin for so long, from now on; 0 seconds end a hold. Wants an operator's key."""
    has = services()
    body = read_body(PauseKeyBody, has.settings.max_body_bytes)
    until = manage_limits.pause_key(has.ledger, key, body.seconds, f"{body.reason} ({caller().key_name})")
    return answer({"key": key, "paused_until": until})


@operation("GET", "/quotas", "List quotas", "limits", None, answer=QuotaList, problems=(403,))
def list_quotas() -> Response:
    """List quotas of what may wait. Wants an operator's key."""
    return answer({"quotas": manage_limits.list_quotas(services().ledger)})


@operation(
    "PUT",
    "/quotas/<tenant>/<queue>",
    "Set a quota",
    "limits",
    None,
    status=204,
    body=QuotaBody,
    problems=(400, 403, 404, 413, 415, 422),
)
def put_quota(tenant: str, queue: str) -> Response:
    """Let at most so many jobs of a tenant wait in a queue; `*` is each that has no quota of its own.

    The queue `+` is all of them together: so many may live, dead letters too. What is more is refused with 429 and a
    Retry-After. Wants an operator's key.
    """
    has = services()
    most = read_body(QuotaBody, has.settings.max_body_bytes).max_waiting
    manage_limits.put_quota(has.ledger, tenant, queue, most, queues=has.settings.queues, by=caller().key_name)
    return Response(status=204)


@operation("DELETE", "/quotas/<tenant>/<queue>", "Remove a quota", "limits", None, status=204, problems=(403, 404))
def delete_quota(tenant: str, queue: str) -> Response:
    """Remove a quota. Wants an operator's key."""
    manage_limits.remove_quota(services().ledger, tenant, queue)
    return Response(status=204)
