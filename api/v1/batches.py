"""Submit up to a thousand jobs in one request: `POST /v1/jobs/batch`."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from flask import Response, request

from api.auth import caller
from api.metrics import ignore_metric_errors
from api.operations import operation
from api.problems import from_error
from api.responses import answer, check_length, parse_json, read_query
from api.services import services
from api.v1.jobs import checked_key
from api.v1.schemas.batches import Batch, BatchBody, BatchQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.jobs import SubmitJob
from jobplatform.domain.submissions import read_submission
from jobplatform.domain.texts import ESCAPED
from jobplatform.domain.validation import MAX_ERRORS
from jobplatform.errors import BodyTooLarge, FieldError, InvalidRequest, JobPlatformError, NotJson
from jobplatform.observe.metrics import api_metrics
from jobplatform.usecases.submit_batch import MOST_JOBS, AcceptedBatch, BatchItem
from jobplatform.usecases.submit_batch import submit_batch as submit

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


@operation(
    "POST",
    "/jobs/batch",
    "Submit many jobs",
    "jobs",
    Scope.SUBMIT,
    status=202,
    answer=Batch,
    body=BatchBody,
    query=BatchQuery,
    headers=(("Idempotency-Key", "makes a repetition of the whole request safe (24 h)"),),
    problems=(409,),
    logged=False,
    ndjson=True,
)
def submit_batch() -> Response:
    """Submit up to 10,000 jobs: a JSON array of job requests, or NDJSON with one job request per line.

    All of them are accepted, or none; `errors` then names each field with the index of its job (`17.payload.to`). With
    `?per_item=true` the valid ones are accepted, and each of the others gets its own problem. One `Idempotency-Key`
    makes it safe to repeat the whole request.
    """
    has = services()
    per_item = read_query(BatchQuery).per_item
    check_length(has.settings.max_batch_bytes)
    raw = request.get_data(cache=False)
    # without an escape no value can contain one, and no payload has to be searched
    escaped = ESCAPED if ESCAPED in raw else b""
    items = _read(raw, request.mimetype)
    if not 0 < len(items) <= MOST_JOBS:  # counted before any is validated
        expected = f"1 to {MOST_JOBS} job requests"
        raise InvalidRequest(f"expected {expected}", (FieldError("body", expected, f"{len(items)} job requests"),))
    commands: list[SubmitJob | JobPlatformError] = []
    named = 0
    for position, entry in enumerate(items):
        try:
            commands.append(read_submission(has.kinds, entry, escaped))
        except JobPlatformError as error:
            if isinstance(error, NotJson) and not per_item:
                raise NotJson(f"submission {position}: {error}") from None
            if isinstance(error, InvalidRequest):
                error.errors = error.errors[: max(1, MAX_ERRORS - named)]
                named += len(error.errors)
            commands.append(error)
            if named >= MAX_ERRORS and not per_item:
                break  # nothing will be accepted, and no further fields are reported
    key = checked_key(request.headers.get("Idempotency-Key"))
    result = submit(
        has.ledger,
        has.hints,
        has.kinds,
        caller(),
        commands,
        all_or_nothing=not per_item,
        idempotency_key=key,
        request_hash=hashlib.sha256(b"batch each" + raw if per_item else b"batch all" + raw).digest() if key else None,
        idempotency_seconds=has.settings.idempotency_seconds,
    )
    if result.created:
        _count(result)
    refused = sum(item.problem is not None for item in result.items)
    body = {
        "batch_id": result.id,
        "accepted": len(result.items) - refused,
        "refused": refused,
        "jobs": [_item_of(item) for item in result.items],
    }
    return answer(body, 202, {} if result.created else {"Idempotent-Replayed": "true"})


#: values of one body; read into memory they take about a hundred bytes each
MOST_VALUES = 2_000_000


def _read(raw: bytes, media_type: str) -> list[Any]:
    """Return the job requests of a body, each as JSON values, or as bytes that are not JSON."""
    # an upper bound on the number of values: commas in strings count too. It needs no memory
    if (values := raw.count(b",")) > MOST_VALUES:
        raise BodyTooLarge(f"a batch may have at most {MOST_VALUES:,} values (commas), got {values:,}: split it")
    if media_type in NDJSON:
        if (lines := raw.count(b"\n")) > 2 * MOST_JOBS:
            expected = f"1 to {MOST_JOBS} job requests"
            raise InvalidRequest(f"expected {expected}", (FieldError("body", expected, f"{lines} lines"),))
        return [_line(line) for line in raw.splitlines() if line.strip()]
    return parse_json(raw, media_type, list, "a JSON array of job requests", f" or {NDJSON[0]}")


def _line(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line


def _item_of(item: BatchItem) -> dict[str, Any]:
    if item.problem is not None:
        return {"problem": orjson.loads(from_error(item.problem).data)}
    return {"id": item.job_id, "kind": item.kind, "queue": item.queue, "state": item.state}


def _count(result: AcceptedBatch) -> None:
    made: dict[tuple[str, str], int] = {}
    for item in result.items:
        if item.state is not None:
            key = (item.queue or "", item.kind or "")
            made[key] = made.get(key, 0) + 1
    with ignore_metric_errors():
        for (queue, kind), jobs in made.items():
            api_metrics().accepted.labels(queue, kind).inc(jobs)
