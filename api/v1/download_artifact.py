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
from jobplatform.domain.access import Scope
from jobplatform.usecases.keep_artifacts import find_artifact

#: in the WSGI environ: the server can send files itself; the file it is to send, as (path, start, end)
CAN_SEND_FILE, FILE = "jobplatform.can_send_file", "jobplatform.file"


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
    if request.if_none_match.contains(record["sha256"]):
        return Response(status=304, headers={"ETag": etag})
    wanted = request.range
    if request.headers.get("If-Range") not in (None, etag):
        wanted = None  # the caller has a part of another file
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
    first = next(chunks, b"")  # a file that is gone is told before the status has left

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


OPERATION = Operation(
    "GET",
    "/artifacts/<uuid:artifact_id>",
    download_artifact,
    "Download a file",
    "artifacts",
    Scope.READ,
    binary_answer=True,
    headers=(("Range", "like bytes=0-1023"),),
    problems=(404, 416),
    also=((206, "The part that was asked for"), (304, "You have it already")),
)
