"""A webhook delivery in the ledger: its target, and the effect of the response on the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.kinds import KindRegistry
from jobplatform.errors import JobPlatformError
from jobplatform.ledger import webhooks
from jobplatform.ledger.session import Ledger
from jobplatform.observe.logs import get_log
from jobplatform.usecases.submit_job import submit_job

log = get_log(__name__)

#: the kind of job that notifies an endpoint's contact
EMAIL = "email.send"


@dataclass(frozen=True)
class Target:
    """The address and secrets of an endpoint."""

    id: UUID
    tenant_id: UUID
    url: str
    contact: str | None
    secrets: tuple[str, ...]
    #: for how long deliveries have failed (s); None: the last one succeeded
    failing_seconds: float | None
    disabled_reason: str | None


def find_target(ledger: Ledger, endpoint_id: UUID) -> Target | None:
    """Return the target of an endpoint; None if it was deleted."""
    with ledger.statement() as connection:
        row = webhooks.target_of(connection, endpoint_id)
    if row is None:
        return None
    failing = (row.now - row.failing_since).total_seconds() if row.failing_since is not None else None
    return Target(endpoint_id, row.tenant_id, row.url, row.contact, tuple(row.secrets), failing, row.disabled_reason)


def record_response(
    ledger: Ledger, kinds: KindRegistry, target: Target, error: str | None, *, gone: bool, patience_seconds: float
) -> None:
    """Record the response of an endpoint (`error` None: success), and notify its contact if that disables it."""
    reason = webhooks.record_webhook_response(ledger, target.id, error, gone, patience_seconds)
    if reason is None:
        return
    log.warning("webhook_disabled", endpoint_id=str(target.id), tenant_id=str(target.tenant_id), reason=reason)
    if target.contact is None or EMAIL not in kinds:
        return
    payload = {
        "to": [target.contact],
        "subject": f"Your webhook {target.url[:200]} was disabled",
        "text": (
            f"The webhook {target.id} of the job platform, {target.url}, was disabled: {reason}.\n\n"
            f"The last error was: {error}\n\n"
            f"Enable it again when it works (PATCH /v1/webhooks/{target.id} with enabled: true), and have what it has "
            f"missed delivered (POST /v1/webhooks/{target.id}/replay).\n"
        ),
    }
    try:
        submit_job(ledger, None, kinds, target.tenant_id, SubmitJob(EMAIL, payload), by=f"webhook {target.id}")
    except JobPlatformError as refused:  # for instance a quota: the log and the endpoint show it too
        log.warning("webhook_contact_not_told", endpoint_id=str(target.id), error=str(refused))
