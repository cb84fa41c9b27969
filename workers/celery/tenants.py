"""The tenant of calls: the running job's, else the one in the settings."""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError
from jobplatform.ledger import keys
from workers.celery.run import current_run
from workers.runtime.process import ledger


def caller_tenant() -> UUID:
    """Return the tenant of calls in this thread. Raises `ConfigurationError` when there is none."""
    run = current_run()
    if run is not None:
        return run.tenant_id
    name = settings().celery_tenant
    if name is None:
        raise ConfigurationError("JOBPLATFORM_CELERY_TENANT: expected the tenant whose jobs this app's calls make")
    return _find(name)


def reader_tenant() -> UUID | None:
    """Return the tenant whose tasks a non-UUID id may name; None when that is not known here."""
    run = current_run()
    if run is not None:
        return run.tenant_id
    return None if settings().celery_tenant is None else caller_tenant()


@lru_cache(maxsize=16)
def _find(name: str) -> UUID:
    with ledger().transaction() as connection:
        return keys.find_tenant(connection, name) or keys.create_tenant(connection, name)
