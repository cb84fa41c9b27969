"""`GET /v1/jobs`."""

from __future__ import annotations

from flask import Response

from api.answers import answer, only, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import JobPage, ListQuery
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_jobs
from jobplatform.usecases.read_jobs import JobFilter


def list_jobs() -> Response:
    """List jobs, newest first, by state, kind, queue, tag, code of error, time of creation. Go on with `next_cursor`.

    A page looks at a bounded number of jobs: it may be short, or empty, and still have a next one.
    """
    query = read_query(ListQuery)
    jobs, cursor = read_jobs.list_jobs(
        services().ledger,
        tenant_id(),
        JobFilter(
            state=query.state,
            kind=query.kind,
            queue=query.queue,
            tag=query.tag,
            error_code=query.error_code,
            created_after=query.created_after,
            created_before=query.created_before,
        ),
        cursor=query.cursor,
        limit=query.limit,
    )
    return answer({"jobs": [only(query.fields, job.as_dict()) for job in jobs], "next_cursor": cursor})


OPERATION = Operation(
    "GET", "/jobs", list_jobs, "List jobs", "jobs", Scope.READ, answer=JobPage, query=ListQuery, problems=(422,)
)
