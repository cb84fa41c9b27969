"""The message of a dispatch: a hint with a job id and a dispatch number. Everything else in it is ignored (I3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

#: Celery's protocol 2 requires exactly this shape; our messages never carry arguments
BODY = b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'

DISPATCH_NO = "dispatch_no"
#: valid names of kinds, here and in Celery
_KIND = re.compile(r"[A-Za-z0-9_.\-:/@+]{1,200}")
#: the kind of a marker (dispatch/markers.py); no kind of job can have it: their names have dots
MARKER_KIND = "marker"


class MalformedMessage(ValueError):
    """This is not a message of a dispatch."""


@dataclass(frozen=True)
class Envelope:
    """One dispatch of one job; the id is its text."""

    job_id: str
    dispatch_no: int
    kind: str
    queue: str
    priority: int

    @property
    def message_id(self) -> str:
        """Unique per dispatch: maps returned messages to jobs."""
        return f"{self.job_id}/{self.dispatch_no}"

    def headers(self) -> dict[str, Any]:
        """Return the headers: Celery needs `task` and `id`; the kind is checked against the ledger at the claim."""
        return {"task": self.kind, "id": self.job_id, DISPATCH_NO: self.dispatch_no}


def read_headers(headers: Mapping[str, Any] | None) -> tuple[UUID, int, str]:
    """Return (job id, dispatch_no, kind) of a message. Raises `MalformedMessage`, which says what is wrong."""
    if not isinstance(headers, Mapping):
        raise MalformedMessage("no headers")
    job_id, dispatch_no, kind = headers.get("id"), headers.get(DISPATCH_NO), headers.get("task")
    if not isinstance(job_id, str):
        raise MalformedMessage(f"header id: expected a UUID as text, got {type(job_id).__name__}")
    try:
        parsed = UUID(job_id)
    except ValueError:
        raise MalformedMessage(f"header id: expected a UUID, got {job_id[:60]!r}") from None
    if type(dispatch_no) is not int or not 0 < dispatch_no < 2**31:
        raise MalformedMessage(f"header {DISPATCH_NO}: expected an integer from 1 on, got {str(dispatch_no)[:60]!r}")
    if isinstance(kind, str) and not _KIND.fullmatch(kind):
        raise MalformedMessage(f"header task: expected the name of a kind, got {kind[:60]!r}")
    if not isinstance(kind, str):
        raise MalformedMessage(f"header task: expected the name of a kind, got {type(kind).__name__}")
    return parsed, dispatch_no, kind
