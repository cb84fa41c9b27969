"""JSON of requests and answers: orjson both ways, bodies validated by pydantic."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from flask import Response, request
from pydantic import BaseModel

from jobplatform.domain.submissions import check
from jobplatform.errors import BodyTooLarge, NoStreams, NotJson, WrongMediaType

M = TypeVar("M", bound=BaseModel)
J = TypeVar("J")

#: in the WSGI environ: an error that the server has found in the request
TROUBLE = "jobplatform.trouble"
#: a cached answer is used only after its ETag was compared
REVALIDATE = ("cache-control", "private, no-cache")
#: the media type of a stream
EVENTS = "text/event-stream"


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; times as RFC 3339 in UTC."""
    return Response(as_json(value), status, headers, mimetype="application/json")


def only(fields: list[str] | None, result: dict[str, Any]) -> dict[str, Any]:
    """Return only these fields of an answer; None: all."""
    return result if fields is None else {name: result[name] for name in fields}


def if_changed(response: Response) -> Response:
    """Add an ETag to an answer; 304 without a body when the caller has the same one (RFC 9110, 13.1.2)."""
    response.add_etag(weak=True)
    response.headers.set(*REVALIDATE)
    response.make_conditional(request)
    return response


def as_json(value: Any) -> bytes:
    """Return the JSON of an answer; times as RFC 3339 in UTC."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def refuse_stream() -> None:
    """Raise `NoStreams` if a stream is requested: a server with streams has handled the request earlier
    (api.streams)."""
    if EVENTS in request.headers.get("Accept", ""):
        raise NoStreams("expected Accept: application/json; streams want the API to run under granian")


def check_length(limit: int) -> None:
    """Check the announced length of a body before it is read. Raises `BodyTooLarge`."""
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body may have at most {limit} bytes, got {request.content_length}")


def read_body(model: type[M], limit: int) -> M:
    """Return the validated JSON body. Raises as `read_object`, and `InvalidRequest`."""
    return check(model, read_object(limit))


def read_optional(model: type[M], limit: int) -> M:
    """Return the validated JSON body, or the model's defaults without one. Raises as `read_body`."""
    given = bool(request.content_length or request.headers.get("Transfer-Encoding"))
    return read_body(model, limit) if given else model()


def read_object(limit: int) -> dict[str, Any]:
    """Return the body, a JSON object. Raises `BodyTooLarge`, `WrongMediaType` or `NotJson`."""
    check_length(limit)
    return parse_object(request.get_data(cache=False), request.mimetype)


def parse_object(raw: bytes, media_type: str) -> dict[str, Any]:
    """Return a JSON object. Raises `WrongMediaType` or `NotJson`."""
    return parse_json(raw, media_type, dict, "a JSON object")


def parse_json(raw: bytes, media_type: str, wanted: type[J], expected: str, or_type: str = "") -> J:
    """Return a JSON value of the type `wanted`; `expected` names it in errors, `or_type` another media type.

    Raises `WrongMediaType` or `NotJson`.
    """
    if media_type and media_type != "application/json" and not media_type.endswith("+json"):
        raise WrongMediaType(f"expected Content-Type: application/json{or_type}, got {media_type}")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"expected {expected}, got {_shorten(raw)}: {error}") from None
    if not isinstance(value, wanted):
        raise NotJson(f"expected {expected}, got {type(value).__name__}")
    return value


def read_query(model: type[M]) -> M:
    """Return the validated query parameters. Raises `InvalidRequest`, which names unknown parameters."""
    return check(model, request.args.to_dict())


def _shorten(raw: bytes) -> str:
    if not raw:
        return "nothing"
    return f"{len(raw)} bytes beginning {raw[:40]!r}"
