"""Errors of Postgres, RabbitMQ and the artifact store, and of the configuration."""

from __future__ import annotations

from jobplatform.errors.base import JobPlatformError


class LedgerUnavailable(JobPlatformError):
    """The ledger (Postgres) is unavailable; nothing was changed. Retry in a moment."""

    code = "ledger_unavailable"
    status = 503


class LedgerReadOnly(LedgerUnavailable):
    """The ledger is read-only (a standby, or a read-only database); nothing was changed. Reads work."""

    code = "ledger_read_only"


class LedgerBusy(LedgerUnavailable):
    """The ledger timed out waiting for a lock; nothing was changed. Retry in a moment."""

    code = "ledger_busy"


class OutcomeUnknown(JobPlatformError):
    """The outcome is unknown: the ledger's response was lost. Retry; a submission with the same Idempotency-Key."""

    code = "outcome_unknown"
    status = 503


class StorageFull(JobPlatformError):
    """The artifact store is full; nothing was stored. Free space, or move JOBPLATFORM_ARTIFACT_URL."""

    code = "storage_full"
    status = 507


class StorageUnavailable(JobPlatformError):
    """The artifact store is unavailable; nothing was stored. Retry in a moment."""

    code = "storage_unavailable"
    status = 503


class BrokerUnavailable(JobPlatformError):
    """RabbitMQ is unavailable, or did not confirm in time; jobs wait in the ledger."""

    code = "broker_unavailable"


class ConfigurationError(JobPlatformError):
    """The configuration is invalid."""

    code = "configuration_error"
