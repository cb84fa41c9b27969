"""Resolve the references of a step's payload when it runs: results are read once, where they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from jobplatform.domain.references import BadReference, Reference, find_references, is_marked, replace_references
from jobplatform.errors import Permanent
from jobplatform.ledger import workflows
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.execute_run import Claim, retry_until_answered


def resolve_payload(ledger: Ledger, claimed: Claim, max_bytes: int) -> Any:
    """Return the payload with the values of its references; unchanged if the job is not a step of a workflow.

    Waits while the ledger is unavailable. Raises `Permanent` for a payload that becomes too large.
    """

    def ask(references: list[dict[str, Any]]) -> list[Any] | None:
        def once() -> list[Any] | None:
            with ledger.statement() as connection:
                return workflows.resolve_references(connection, claimed.delivery.job_id, references)

        values: list[Any] | None = retry_until_answered(once, "resolve_references", claimed.delivery)
        return values

    payload = fill_references(claimed.payload, ask)
    if payload is claimed.payload:
        return payload
    size = len(orjson.dumps(payload))
    if size > max_bytes:
        raise Permanent(
            f"the payload has {size} bytes with the results that it refers to, at most {max_bytes} are possible: let "
            f"steps give large output as artifacts",
            code="payload_too_large",
        )
    return payload


def fill_references(payload: Any, ask: Callable[[list[dict[str, Any]]], list[Any] | None]) -> Any:
    """Return a payload with the values of its references; unchanged if it has none, or belongs to no step.

    `ask` returns the values of references in order, as `workflows.resolve_references` does.
    """
    if not is_marked(payload):
        return payload
    try:
        references = [reference for _, reference in find_references(payload)]
    except BadReference:  # references were checked at submission, so this is not a step
        return payload
    values = ask([reference.as_dict() for reference in references])
    if values is None:
        return payload
    known: dict[Reference, Any] = dict(zip(references, values, strict=True))
    return replace_references(payload, known.__getitem__)
