"""Errors of the servers that the platform needs, and of its configuration."""

from __future__ import annotations

from jobplatform.errors.base import JobPlatformError


class LedgerUnavailable(JobPlatformError):
    """The ledger (Postgres) can't be reached; nothing was changed. Repeat in a moment."""

    code = "ledger_unavailable"
    status = 503


class LedgerReadOnly(LedgerUnavailable):
    """The ledger takes no writes (a standby, or set to read only); nothing was changed. Reads go on."""

    code = "ledger_read_only"


class LedgerBusy(LedgerUnavailable):
    """The ledger could not lock what it needed in time; nothing was changed. Repeat in a moment."""

    code = "ledger_busy"


class OutcomeUnknown(JobPlatformError):
    """The outcome is unknown: the ledger's answer was lost. Repeat it; a submit with the same Idempotency-Key."""

    code = "outcome_unknown"
    status = 503


class StorageFull(JobPlatformError):
    """There is no space left in the artifact store; nothing was kept. Free space, or move JOBPLATFORM_ARTIFACT_URL."""

    code = "storage_full"
    status = 507


class StorageUnavailable(JobPlatformError):
    """The artifact store can't be written or read at the moment; nothing was kept. Repeat in a moment."""

    code = "storage_unavailable"
    status = 503


class BrokerUnavailable(JobPlatformError):
    """RabbitMQ can't be reached, or did not confirm in time; jobs wait in the ledger."""

    code = "broker_unavailable"


class ConfigurationError(JobPlatformError):
    """The configuration can't work."""

    code = "configuration_error"
