"""Malformed and forged messages, one shape for each field that a Celery message can carry. Tests use them too."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import amqp
import orjson

from jobplatform.broker.envelope import BODY

#: a task that must never run at the request of a message
FORBIDDEN = "acme.crash"
_FORBIDDEN: list[dict[str, Any]] = [
    {"task": FORBIDDEN, "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": True}
]


@dataclass(frozen=True)
class Target:
    """The dispatch that a message names."""

    job_id: str
    kind: str
    dispatch_no: int


def missing_job(number: int) -> Target:
    """Return a dispatch of a job that does not exist."""
    return Target(f"01890000-0000-7000-8000-{number:012x}", "drill.plain", 1)


@dataclass(frozen=True)
class Shape:
    """A well-formed message with some fields changed. A header set to None is left out."""

    name: str
    headers: dict[str, Any] = field(default_factory=dict)
    body: bytes = BODY
    properties: dict[str, Any] = field(default_factory=dict)

    def message(self, target: Target) -> amqp.Message:
        """Return this message for a dispatch."""
        headers = {"task": target.kind, "id": target.job_id, "dispatch_no": target.dispatch_no, **self.headers}
        return amqp.Message(
            self.body,
            **{"content_type": "application/json", "content_encoding": "utf-8", **self.properties},
            application_headers={name: value for name, value in headers.items() if value is not None},
        )


def _embedding(name: str) -> Shape:
    body = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, name: _FORBIDDEN}
    return Shape(f"embedded {name}", body=orjson.dumps([[], {}, body]))


_ALL = [
    # accepted as any other message: the worker ignores the additional fields
    Shape("a duplicate"),
    *(_embedding(name) for name in ("callbacks", "errbacks", "chain", "chord")),
    Shape("eta", {"eta": "2099-01-01T00:00:00+00:00"}),
    Shape("an invalid eta", {"eta": "tomorrow"}),
    Shape("expires", {"expires": "2001-01-01T00:00:00+00:00"}),
    Shape("timelimit", {"timelimit": [0.001, 0.001]}),
    Shape("an invalid timelimit", {"timelimit": "soon"}),
    Shape("retries", {"retries": "many"}),
    Shape("group and parents", {"group": 5, "root_id": {}, "parent_id": []}),
    Shape("stamps", {"stamped_headers": ["x"], "stamps": {"x": object.__name__}, "replaced_task_nesting": "deep"}),
    Shape("reply_to", properties={"reply_to": "celery.pidbox", "correlation_id": "x"}),
    Shape("arguments", body=b'[["/etc/passwd"], {"path": "/etc/passwd"}, {}]'),
    Shape("a body of a wrong shape", body=b'{"a": 1}'),
    Shape("a body that is not JSON", body=b"\x80\x04pickle"),
    Shape("no body", body=b""),
    Shape("pickle", body=b"cos\nsystem\n(S'true'\ntR.", properties={"content_type": "application/x-python-serialize"}),
    Shape("an unknown content type", properties={"content_type": "a/b"}),
    Shape("another encoding", body=BODY.decode().encode("utf-16"), properties={"content_encoding": "utf-16"}),
    Shape("a slow codec", body=b"-" + b"a" * 200_000, properties={"content_encoding": "punycode"}),
    Shape("compressed", {"compression": "application/x-gzip"}, body=zlib.compress(b"0" * 1_000_000)),
    Shape("properties that can't be decoded", properties={"reply_to": b"\xff\xfe"}),
    # rejected, and recorded as dead messages
    Shape("no headers", {"task": None, "id": None, "dispatch_no": None}),
    Shape("no id", {"id": None}),
    Shape("an invalid id", {"id": "x"}),
    Shape("an id that is a list", {"id": ["x"]}),
    Shape("no dispatch number", {"dispatch_no": None}),
    Shape("a dispatch number that is text", {"dispatch_no": "1"}),
    Shape("a dispatch number of 0", {"dispatch_no": 0}),
    Shape("another dispatch number", {"dispatch_no": 2**31 - 1}),
    Shape("no kind", {"task": None}),
    Shape("an unknown kind", {"task": "acme.no"}),
    Shape("a kind with NUL", {"task": "a\x00b"}),
    Shape("a task of Celery's own", {"task": "celery.backend_cleanup"}),
]
SHAPES = {shape.name: shape for shape in _ALL}
#: too large to send in thousands
BIG = Shape("10 MB", body=b"x" * 10_000_000)
