"""Upload files, list and download them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

from flask import Response, request

from api.auth import tenant_id
from api.operations import operation
from api.problems import problem
from api.responses import answer, check_length, read_query
from api.services import services
from api.v1.schemas.artifacts import Artifact, ArtifactList, UploadQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.submissions import check
from jobplatform.errors import FieldError, InvalidRequest
from jobplatform.usecases import read_jobs
from jobplatform.usecases.store_artifacts import find_artifact, keep_upload


@operation(
    "GET",
    "/jobs/<uuid:job_id>/artifacts",
    "List a job's artifacts",
    "artifacts",
    Scope.READ,
    answer=ArtifactList,
    problems=(404,),
)
def list_artifacts(job_id: UUID) -> Response:
    """List the files that a job's runs have written; `url` downloads a file."""
    artifacts = read_jobs.list_artifacts(services().ledger, tenant_id(), job_id)
    return answer({"artifacts": [public(record) for record in artifacts]})


def public(record: dict[str, Any]) -> dict[str, Any]:
    """Return an artifact's record as callers see it: with a URL, without its location in the store."""
    shown = {key: value for key, value in record.items() if key != "location"}
    return {**shown, "url": f"/v1/artifacts/{record['id']}"}


#: in the WSGI environ: the server can send files itself; the file it is to send, as (path, start, end)
CAN_SEND_FILE, FILE = "jobplatform.can_send_file", "jobplatform.file"


@operation(
    "GET",
    "/artifacts/<uuid:artifact_id>",
    "Download a file",
    "artifacts",
    Scope.READ,
    binary_answer=True,
    headers=(("Range", "like bytes=0-1023"),),
    problems=(404, 416),
    also=((206, "The part that was asked for"), (304, "You have it already")),
)
def download_artifact(artifact_id: UUID) -> Response:
    """Download a file; `Range: bytes=…` returns a part of it (RFC 9110, section 14)."""
    has = services()
    record = find_artifact(has.ledger, tenant_id(), artifact_id)
    size, etag = int(record["size"]), f'"{record["sha256"]}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(record['name'])}",
        "X-Content-Type-Options": "nosniff",
    }
    if request.if_none_match.contains(record["sha256"]):
        return Response(status=304, headers={"ETag": etag})
    wanted = request.range
    if request.headers.get("If-Range") not in (None, etag):
        wanted = None  # the caller has a part of another version of the file
    start, end, status = 0, size, 200
    if wanted is not None and wanted.units == "bytes" and len(wanted.ranges) == 1:
        bounds = _bounds(wanted.ranges[0], size)
        if bounds is None:
            refused = problem(416, "range_not_satisfiable", "No such range", f"the file has {size} bytes")
            refused.headers["Content-Range"] = f"bytes */{size}"
            return refused
        start, end, status = bounds[0], bounds[1], 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    local = has.store.local_path(record["location"])
    if local is not None and request.environ.get(CAN_SEND_FILE) and request.method == "GET" and end > start:
        request.environ[FILE] = (str(local), start, end)
        return Response(status=status, headers=headers, mimetype=record["content_type"])
    chunks = has.store.read(record["location"], start, end)
    first = next(chunks, b"")  # a missing file must raise before the status line is sent

    def body() -> Iterator[bytes]:
        yield first
        yield from chunks

    return Response(body(), status, headers, mimetype=record["content_type"])


def _bounds(wanted: tuple[int, int | None], size: int) -> tuple[int, int] | None:
    """Return (start, end) of a range in a file of `size` bytes; None when it has no byte of it (RFC 9110, 14.1.2)."""
    start, end = wanted
    if start < 0:  # the last bytes: all of them when there are fewer
        start, end = max(0, size + start), size
    end = size if end is None else min(end, size)
    return (start, end) if start < end else None


@operation(
    "POST",
    "/uploads",
    "Upload a file",
    "artifacts",
    Scope.SUBMIT,
    status=201,
    answer=Artifact,
    query=UploadQuery,
    binary_body=True,
    problems=(413, 507),
)
def upload() -> Response:
    """Upload a file for jobs to read, as the raw body (`?filename=`) or as the part `file` of a form.

    Refer to it in a payload by its id: `{"artifact": "<id>"}`.
    """
    has = services()
    check_length(has.settings.max_upload_bytes)
    if request.mimetype == "multipart/form-data":
        part = request.files.get("file")
        if part is None:
            raise InvalidRequest(
                "the form has no file", (FieldError("file", "a part named `file`", ", ".join(request.files) or "none"),)
            )
        name = check(UploadQuery, {"filename": part.filename or "upload"}).filename
        stream, content_type = part.stream, part.mimetype
    else:
        name, stream, content_type = read_query(UploadQuery).filename, request.stream, request.mimetype
    kept = keep_upload(has.ledger, has.store, tenant_id(), name, content_type or "application/octet-stream", stream)
    shown = public(kept)
    return answer(shown, 201, {"Location": shown["url"]})
