"""`POST /v1/uploads`."""

from __future__ import annotations

from flask import Response, request

from api.answers import answer, check_length, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.list_artifacts import public
from api.v1.models import Artifact, UploadQuery
from jobplatform.domain.access import Scope
from jobplatform.domain.orders import check
from jobplatform.errors import FieldError, InvalidRequest
from jobplatform.usecases.keep_artifacts import keep_upload


def upload() -> Response:
    """Put up a file to be used by jobs, as the raw body (`?filename=`) or as the part `file` of a form.

    Its id goes into a payload, as `{"artifact": "<id>"}`.
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


OPERATION = Operation(
    "POST",
    "/uploads",
    upload,
    "Upload a file",
    "artifacts",
    Scope.SUBMIT,
    status=201,
    answer=Artifact,
    query=UploadQuery,
    binary_body=True,
    problems=(413, 422, 507),
)
