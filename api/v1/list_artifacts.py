"""`GET /v1/jobs/{id}/artifacts`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response

from api.answers import answer
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.models import ArtifactList
from jobplatform.domain.access import Scope
from jobplatform.usecases import read_jobs


def list_artifacts(job_id: UUID) -> Response:
    """List the files that a job's runs have put out; `url` downloads one."""
    found = read_jobs.list_artifacts(services().ledger, tenant_id(), job_id)
    return answer({"artifacts": [public(record) for record in found]})


def public(record: dict[str, Any]) -> dict[str, Any]:
    """Return an artifact's record as callers see it: with a URL, without its place in the store."""
    shown = {key: value for key, value in record.items() if key != "location"}
    return {**shown, "url": f"/v1/artifacts/{record['id']}"}


OPERATION = Operation(
    "GET",
    "/jobs/<uuid:job_id>/artifacts",
    list_artifacts,
    "List a job's artifacts",
    "artifacts",
    Scope.READ,
    answer=ArtifactList,
    problems=(404,),
)
