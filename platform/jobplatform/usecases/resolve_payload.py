"""Fill in the references of a step's payload when it runs: results are read once, where they are used."""

from __future__ import annotations

from typing import Any

import orjson

from jobplatform.domain.references import BadReference, Reference, find_references, is_marked, replace_references
from jobplatform.errors import Permanent
from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.execute_run import Claim, until_answered


def resolve_payload(ledger: Ledger, claimed: Claim, max_bytes: int) -> Any:
    """Return the payload with the values that its references name; as it is, when the job is no step of a workflow.

    Waits for a ledger that is away. Raises `Permanent` for a payload that gets too large.
    """
    if not is_marked(claimed.payload):
        return claimed.payload
    try:
        references = [found for _, found in find_references(claimed.payload)]
    except BadReference:  # checked at submit: this is no step
        return claimed.payload

    def once() -> list[Any] | None:
        with ledger.statement() as connection:
            return workflows.resolve_references(
                connection, claimed.delivery.job_id, [found.as_dict() for found in references]
            )

    values: list[Any] | None = until_answered(once, "resolve_references", claimed.delivery)
    if values is None:
        return claimed.payload
    known: dict[Reference, Any] = dict(zip(references, values, strict=True))
    payload = replace_references(claimed.payload, known.__getitem__)
    size = len(orjson.dumps(payload))
    if size > max_bytes:
        raise Permanent(
            f"the payload has {size} bytes with the results that it refers to, at most {max_bytes} are possible: let "
            f"steps give large output as artifacts",
            code="payload_too_large",
        )
    return payload
