"""`GET /v1/artifacts/{id}`, with Range."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote
from uuid import UUID

from flask import Response, request

from api.auth import tenant_id
from api.operations import Operation
from api.problems import problem
from api.services import services
from jobplatform.usecases.keep_artifacts import find_artifact


def download_artifact(artifact_id: UUID) -> Response:
    """Download a file; `Range: bytes=…` gives one part of it (RFC 9110, section 14)."""
    has = services()
    record = find_artifact(has.ledger, tenant_id(), artifact_id)
    size, etag = int(record["size"]), f'"{record["sha256"]}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(record['name'])}",
        "X-Content-Type-Options": "nosniff",
    }
    wanted = request.range
    if request.headers.get("If-Range") not in (None, etag):
        wanted = None  # the caller has a part of another file
    start, end, status = 0, size, 200
    if wanted is not None and wanted.units == "bytes" and len(wanted.ranges) == 1:
        bounds = wanted.range_for_length(size)
        if bounds is None:
            refused = problem(416, "range_not_satisfiable", "No such range", f"the file has {size} bytes")
            refused.headers["Content-Range"] = f"bytes */{size}"
            return refused
        start, end, status = bounds[0], bounds[1], 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    chunks = has.store.read(record["location"], start, end)
    first = next(chunks, b"")  # a file that is gone is told before the status has left

    def body() -> Iterator[bytes]:
        yield first
        yield from chunks

    return Response(body(), status, headers, mimetype=record["content_type"])


OPERATION = Operation(
    "GET",
    "/artifacts/<uuid:artifact_id>",
    download_artifact,
    "Download a file",
    "artifacts",
    binary_answer=True,
    headers=(("Range", "like bytes=0-1023"),),
    problems=(404, 416),
)
