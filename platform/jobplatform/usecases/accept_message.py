"""Accept a submission over AMQP. The tenant is the broker's authenticated user; the body is as in the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.submissions import read_submission
from jobplatform.errors import (
    DuplicateJob,
    InvalidRequest,
    JobPlatformError,
    LedgerUnavailable,
    NotJson,
    OutcomeUnknown,
    QuotaExceeded,
    TenantUnknown,
    UnnamedSubmission,
)
from jobplatform.ledger import keys
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.usecases.submit_job import submit_job

log = get_log(__name__)

#: maximum length of an Idempotency-Key
MOST_ID_CHARACTERS = 250


@dataclass(frozen=True)
class Answer:
    """Result of a submission: the body of the reply, and why it was refused, for the dead messages."""

    body: bytes
    accepted: bool
    reason: Literal["malformed", "refused"] = "refused"
    detail: str = ""


def accept_message(
    ledger: Ledger,
    hints: HintSender | None,
    kinds: KindRegistry,
    *,
    user_id: str | None,
    message_id: str | None,
    body: bytes,
    max_body_bytes: int,
    idempotency_seconds: int,
) -> Answer:
    """Accept a submission, or return the reason for refusal. Idempotent by the message's id.

    Raises `LedgerUnavailable` or `OutcomeUnknown`; the message must then be redelivered.
    """
    try:
        if not user_id or not message_id or len(message_id) > MOST_ID_CHARACTERS:
            raise UnnamedSubmission()
        if not (user_id.isprintable() and message_id.isprintable()):  # NUL, lone surrogates: Postgres can't store them
            raise UnnamedSubmission()
        if len(body) > max_body_bytes:
            raise InvalidRequest(f"a submission may have at most {max_body_bytes} bytes, got {len(body)}")
        command = read_submission(kinds, _parse(body), body)
        with ledger.statement() as connection:
            tenant_id = keys.find_tenant(connection, user_id)
        if tenant_id is None:
            raise TenantUnknown(user_id)
        accepted = submit_job(
            ledger,
            hints,
            kinds,
            tenant_id,
            command,
            idempotency_key=f"amqp:{message_id}",
            idempotency_seconds=idempotency_seconds,
            by=f"amqp {user_id}",
        )
    except (LedgerUnavailable, OutcomeUnknown):
        raise
    except JobPlatformError as error:
        malformed = isinstance(error, NotJson | UnnamedSubmission)
        detail = f"{error} [{error.code}]"
        return Answer(_problem(error), False, "malformed" if malformed else "refused", detail)
    # a bug in the kind's code, or ours: it must not block other submissions, or be redelivered forever
    except Exception as error:
        log.exception("submission_not_accepted", user=user_id, message_id=message_id)
        return Answer(
            _problem(JobPlatformError("a bug on our side; it was logged")),
            False,
            "refused",
            f"{error!r} [internal_error]",
        )
    return Answer(orjson.dumps(accepted.job.as_dict(), option=orjson.OPT_UTC_Z), True)


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"expected a JSON object, got {body[:40]!r}: {error}") from None


def _problem(error: JobPlatformError) -> bytes:
    """Return a problem as in the API, without the fields of HTTP."""
    title = (type(error).__doc__ or "").strip().splitlines()[0]
    body: dict[str, Any] = {
        "type": f"/docs/errors#{error.code}",
        "title": title,
        "code": error.code,
        "detail": str(error),
    }
    if isinstance(error, InvalidRequest) and error.errors:
        body["errors"] = [item.as_dict() for item in error.errors]
    if isinstance(error, DuplicateJob):
        body["job_id"] = str(error.job_id)
    if isinstance(error, QuotaExceeded):
        body["retry_after"] = error.retry_after
    return orjson.dumps(body)
