"""Requests and answers about limits, tenants' shares and quotas, as pydantic models."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from api.v1.schemas.base import StrictModel
from jobplatform.domain.limits import LEAST, MOST_UNITS, Limit


class LimitBody(BaseModel):
    """At least `max_concurrent`, or `rate_units` and `rate_seconds`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"max_concurrent": 20}})

    max_concurrent: StrictInt | None = Field(None, ge=0, le=1_000_000, description="jobs dispatched or running at once")
    rate_units: float | None = Field(
        None, ge=LEAST, le=MOST_UNITS, description="units per rate_seconds, taken at the claim"
    )
    rate_seconds: float | None = Field(None, ge=LEAST, le=MOST_UNITS)
    burst_units: float | None = Field(None, ge=1, le=MOST_UNITS, description="what a bucket holds; default: rate_units")
    sliding: bool = Field(False, description="never more than rate_units in any rate_seconds, instead of a bucket")

    def limit(self, name: str) -> Limit:
        """Return the limit of this name."""
        return Limit(name, **self.model_dump())


class LimitKey(BaseModel):
    """Current usage of a key."""

    key: str
    dispatched: int
    running: int
    waiting_lines: int = Field(description="tenants by priority and set of keys, of the first 2,000 of each queue")
    waiting_tenants: int
    oldest_seconds: float | None = Field(description="how long the first one waits")
    units_left: float | None
    units_reserved: float | None = Field(description="of units_left, for the refused job that goes first")
    paused_until: datetime | None
    paused_reason: str | None


class LimitAnswer(BaseModel):
    """A limit and its keys in use, the keys with most waiting jobs first."""

    name: str | None = Field(description="null: keys that are held, without a limit")
    max_concurrent: int | None
    rate_units: float | None
    rate_seconds: float | None
    burst_units: float | None
    sliding: bool
    updated_at: datetime | None
    updated_by: str | None
    keys: list[LimitKey]
    more_keys: bool = Field(description="there are more than are shown")


class LimitList(BaseModel):
    """All limits."""

    limits: list[LimitAnswer]


class PauseKeyBody(StrictModel):
    """Duration of the pause."""

    seconds: float = Field(ge=0, le=31 * 86_400, description="0 ends a hold")
    reason: str = Field("by an operator", max_length=500)


class KeyPause(BaseModel):
    """The state of a paused key."""

    key: str
    paused_until: datetime


class TenantBody(StrictModel):
    """The share of a tenant."""

    weight: float = Field(ge=0.001, le=1000, description="2 gets twice as much as 1 where both wait")


class Tenant(BaseModel):
    """A tenant and its share."""

    name: str
    weight: float


class TenantsQuery(StrictModel):
    """A page of tenants."""

    cursor: str = Field("", max_length=1000, description="`next_cursor` of the page before")
    limit: int = Field(50, ge=1, le=200)


class TenantPage(BaseModel):
    """Tenants in the order of their names."""

    tenants: list[Tenant]
    next_cursor: str | None


class QuotaBody(StrictModel):
    """How many jobs may wait."""

    max_waiting: StrictInt = Field(
        ge=0,
        le=MOST_UNITS,
        description="jobs that are available, scheduled or blocked; of the queue `+` those that live",
    )


class Quota(BaseModel):
    """A quota; `*` is each tenant, or each queue, that has none of its own."""

    tenant: str
    queue: str
    max_waiting: int
    updated_at: datetime
    updated_by: str


class QuotaList(BaseModel):
    """All quotas."""

    quotas: list[Quota]
