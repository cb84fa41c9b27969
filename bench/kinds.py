"""The kind that does nothing."""

from __future__ import annotations

from pydantic import BaseModel

from jobplatform import Context, kind


class Nothing(BaseModel):
    """No payload."""

    n: int = 0


@kind("bench.noop", queue="bench")
def noop(payload: Nothing, ctx: Context) -> int:
    """Do nothing."""
    return payload.n
