"""Settings: the only reader of the environment. Every name starts with JOBPLATFORM_."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobplatform.domain.validation import field_errors
from jobplatform.errors import ConfigurationError, FieldError

Pool = Literal["prefork", "threads"]
Order = Literal["shares", "start_by"]
QueueType = Literal["auto", "quorum", "classic"]

PREFIX = "JOBPLATFORM_"
#: settings as files, one each, named like the variable in lower case, as Docker's secrets are
SECRETS_FOLDER = Path("/run/secrets")
#: our variables that are not settings: addresses for scripts, and the marks of the dev stack's processes
OTHER_VARIABLES = frozenset(
    f"{PREFIX}{name}"
    for name in (
        *("URL", "API_KEY", "FLOWER_URL", "MAIL_URL", "REPORTING_URL"),
        *(
            "STACK",
            "STACK_NAME",
            "PROCESS",
            "ENV_OF",
            "ENV_SERVERS",
            "POSTGRES_BIN",
            "RABBITMQ",
            "TEST_SERVERS",
            "SECRETS",
        ),
    )
)

#: the default queue of webhooks
WEBHOOKS = "webhooks"

DEFAULT_QUEUES: dict[str, dict[str, Any]] = {
    "email": {"pool": "threads", "prefetch": 4},
    "video": {"pool": "prefork", "prefetch": 1},
    "llm": {"pool": "threads", "prefetch": 2},
    WEBHOOKS: {"pool": "threads", "prefetch": 4},
}


def _setting(default: Any, about: str, unit: str = "", **limits: Any) -> Any:
    """Return a field with its description and unit for docs/operations/configuration.md."""
    return Field(default, description=about, json_schema_extra={"unit": unit}, **limits)


class QueueSettings(BaseModel):
    """Settings of one queue and its workers."""

    model_config = ConfigDict(extra="forbid")

    pool: Pool = _setting("prefork", "Celery pool of its workers; only prefork enforces time limits")
    prefetch: int = _setting(
        1,
        "1 for long jobs, up to 4 for short ones; short kinds get more by themselves",
        "messages per slot",
        ge=1,
        le=1000,
    )
    window_min: int = _setting(4, "minimum number of jobs in flight", "jobs", ge=1, le=100_000)
    window_factor: float = _setting(
        4.0, "the window holds as many jobs per live slot, if that is more", "jobs per slot", gt=0, le=10_000
    )
    window_seconds: float = _setting(
        0.25, "the window holds as many jobs as the queue finishes in this time, if that is more", "s", ge=0, le=60
    )
    order: Order = _setting(
        "shares",
        "order within a priority: `shares` (fair shares of tenants by weight, then age), or `start_by` (earliest "
        "deadline first, regardless of tenant; jobs without one as with `shares`)",
    )


def _as_psycopg2(url: str) -> str:
    """Select psycopg2: SQLAlchemy 2.1 takes `postgresql://` to mean psycopg 3."""
    for plain in ("postgresql://", "postgres://"):
        if url.startswith(plain):
            return "postgresql+psycopg2://" + url[len(plain) :]
    return url


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, address = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:{quote(password, safe='')}@{address}"
    return urlunsplit(parts._replace(netloc=netloc))


class Settings(BaseSettings):
    """All settings, with their defaults. An invalid value is refused at start, with the name of the variable.

    `jobplatform settings` prints this list; docs/operations/configuration.md is generated from it.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # servers
    database_url: SecretStr = _setting(
        SecretStr("postgresql+psycopg2://jobplatform@localhost/jobplatform"), "URL of the ledger, Postgres 15 or newer"
    )
    database_password: SecretStr | None = _setting(None, "merged into database_url; for secrets in files")
    broker_url: SecretStr = _setting(SecretStr("amqp://guest:guest@localhost:5672/"), "RabbitMQ 3.10 or newer")
    broker_password: SecretStr | None = _setting(None, "merged into broker_url; for secrets in files")
    management_url: SecretStr | None = _setting(
        None, "RabbitMQ's management API, for Flower; broker_password is merged into it"
    )
    queue_type: QueueType = _setting("auto", "auto: quorum from RabbitMQ 4.3 on, classic with priorities before")

    # what runs
    kind_modules: Annotated[tuple[str, ...], NoDecode] = _setting(
        ("workers.handlers.builtin",),
        "modules that register kinds, separated by commas; `shop.celery:app` is a Celery app whose tasks are kinds",
    )
    queues: Annotated[dict[str, QueueSettings], NoDecode] = Field(
        default_factory=lambda: {name: QueueSettings(**values) for name, values in DEFAULT_QUEUES.items()},
        description="names separated by commas, or JSON: see Queues below",
    )

    unknown_kind_seconds: float = _setting(
        300.0,
        "how long a job waits for a worker that knows its kind before it is dead-lettered",
        "s",
        ge=0,
    )

    # API
    max_body_bytes: int = _setting(1_048_576, "largest JSON body", "bytes", ge=1024)
    max_batch_bytes: int = _setting(32 * 1024**2, "largest body of POST /v1/jobs/batch", "bytes", ge=1024)
    max_upload_bytes: int = _setting(2 * 1024**3, "largest upload", "bytes", ge=1024)
    max_bytes_in_flight: int = _setting(
        128 * 1024**2,
        "request bodies in memory per API process; further requests get 503",
        "bytes",
        ge=4 * 1024**2,
    )
    body_seconds: float = _setting(10.0, "time-out of a request body above 16 KiB, plus its size at 50 kB/s", "s", gt=0)
    max_schedules: int = _setting(1000, "maximum number of schedules per tenant", "schedules", ge=1)
    max_result_bytes: int = _setting(
        1_048_576, "largest result of a run; store larger ones as artifacts", "bytes", ge=1024
    )
    max_payload_bytes: int = _setting(
        16_777_216, "largest payload of a step, including the results that it references", "bytes", ge=1024
    )
    idempotency_seconds: int = _setting(86_400, "lifetime of an Idempotency-Key", "s", ge=60)
    api_database_connections: int = _setting(8, "ledger connections per pool and API process", ge=1)
    api_threads: int = _setting(4, "request threads per API process (granian)", ge=1)
    api_streams: int = _setting(1000, "maximum number of open event streams per API process", "streams", ge=1)
    blocking_waits: int = _setting(2, "long polls that may block a thread, on servers without an event loop", ge=0)

    # liveness
    heartbeat_seconds: float = _setting(5.0, "interval of a worker's heartbeat", "s", gt=0)
    lease_seconds: float = _setting(20.0, "a worker without a heartbeat for this long is lost", "s", gt=0)
    watchdog_seconds: float = _setting(120.0, "a worker that stops consuming for this long exits", "s", gt=0)
    shutdown_seconds: float = _setting(
        0.0, "after SIGTERM, unfinished runs are released after this long; 0: wait for them", "s", ge=0
    )
    cancel_grace_seconds: float = _setting(10.0, "from the cancellation of a run to its kill", "s", ge=0)

    # dispatch
    dispatch_poll_seconds: float = _setting(0.5, "poll interval of the dispatcher without notifications", "s", gt=0)
    dispatch_batch: int = _setting(500, "maximum number of jobs per round of a queue", "jobs", ge=1, le=5000)
    schedule_grace_seconds: float = _setting(
        60.0, "a fire later than this counts as missed; the schedule's `missed` policy applies", "s", ge=1
    )
    marker_seconds: float = _setting(
        30.0, "a dispatched job without a run for this long is checked for a lost message", "s", gt=0
    )
    confirm_seconds: float = _setting(2.0, "time-out of publisher confirms per batch", "s", gt=0, le=2.0)
    max_backoff_seconds: float = _setting(60.0, "maximum back-off of a queue after failures", "s", ge=1)

    # kinds
    artifact_url: str = _setting("file:///var/lib/jobplatform/artifacts", "artifact store (fsspec URL)")
    media_root: Path = _setting(Path("/var/lib/jobplatform/media"), "folder whose files video jobs may read by path")
    smtp_url: SecretStr = _setting(
        SecretStr("smtp://localhost:25"), "mail relay; smtps:// and user:password are supported"
    )
    email_from: str = _setting("Job Platform <jobs@localhost>", "default sender")
    email_templates: Path | None = _setting(None, "folder of your templates; takes precedence over the built-in ones")
    llm_base_url: str = _setting("http://localhost:11434/v1", "base URL of an OpenAI-compatible server")
    llm_api_key: SecretStr = _setting(SecretStr("unused"), "API key of that server")
    llm_model: str = _setting("local", "default model")
    llm_timeout_seconds: float = _setting(120.0, "read time-out of that server", "s", gt=0)

    # webhooks
    webhook_queue: str | None = _setting(
        None, "queue of webhook deliveries; default: `webhooks` if it exists, else the maintenance queue"
    )
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = _setting(
        (),
        "networks that webhooks may call in addition to the public internet, also by plain http: 10.0.0.0/8, "
        "separated by commas",
    )
    webhook_timeout_seconds: float = _setting(
        15.0, "time-out of a delivery, including the connection; 0: deliveries are disabled", "s", ge=0, le=120
    )
    webhook_patience_seconds: float = _setting(
        5 * 86_400.0, "an endpoint that fails for this long is disabled, and its contact is notified", "s", gt=0
    )

    # maintenance
    builtin_schedules: bool = _setting(
        True, "schedules of the platform: nightly clean-up, queue health every 15 minutes"
    )
    maintenance_queue: str | None = _setting(None, "queue of these schedules; default: the first queue")
    history_days: int = _setting(
        90, "retention of history, outputs and workflows after their end; 0: forever", "days", ge=0
    )
    audit_log_days: int = _setting(400, "retention of the audit log; 0: forever", "days", ge=0)
    upload_days: int = _setting(30, "retention of uploads", "days", ge=1)
    beat_schedule: str | None = _setting(
        None, "beat_schedule that `celery -A workers.app beat` reads, like acme.settings:BEAT_SCHEDULE"
    )
    beat_time_zone: str | None = _setting(None, "time zone of its crontabs; default: Celery's timezone (UTC)")
    beat_tenant: str | None = _setting(None, "tenant of these schedules; default: celery_tenant")

    # existing Celery apps
    celery_tenant: str | None = _setting(None, "tenant of the jobs of existing Celery apps")
    celery_queues: Annotated[tuple[str, ...], NoDecode] = _setting(
        (), "queues whose tasks go through the ledger, separated by commas; default: all. Others stay with plain Celery"
    )
    celery_old_broker_url: SecretStr | None = _setting(None, "broker of the queues that stay with plain Celery")
    celery_old_result_backend: SecretStr | None = _setting(None, "result backend of tasks that are not in the ledger")

    # observing
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "minimum level of log lines")
    log_format: Literal["json", "console"] = _setting("json", "format of log lines")
    metrics_port: int = _setting(0, "port of /metrics of dispatcher and workers; 0: disabled", ge=0, le=65535)
    metrics_host: str = _setting("127.0.0.1", "address to bind that port to")
    flower_user: str = _setting("flower", "user name of Flower's login")
    flower_password: SecretStr | None = _setting(None, "password of Flower's login; required by Flower")

    @field_validator("database_url", mode="before")
    @classmethod
    def _read_database_url(cls, value: object) -> object:
        raw = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(raw, str) and not raw.startswith(("postgresql://", "postgres://", "postgresql+psycopg2://")):
            raise ValueError("a URL like postgresql://user@host/database")
        return _as_psycopg2(raw) if isinstance(raw, str) else raw

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("amqp://", "amqps://")):
            raise ValueError("a URL like amqp://user@host:5672/vhost")
        return value

    @field_validator("kind_modules", "celery_queues", mode="before")
    @classmethod
    def _read_modules(cls, value: object) -> object:
        """A comma-separated list; the built-in kinds are named `workers.handlers.builtin`."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        """`10.0.0.0/8,fd00::/8`."""
        return cls._read_modules(value)

    @field_validator("queues", mode="before")
    @classmethod
    def _read_queues(cls, value: object) -> object:
        """`email,video,llm,gpu` (known ones keep their defaults) or a JSON object of `QueueSettings`."""
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text.startswith("{"):
            try:
                return orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"expected JSON like {{'gpu': {{'prefetch': 1}}}}: {error}") from None
        names = [part.strip() for part in text.split(",") if part.strip()]
        return {name: DEFAULT_QUEUES.get(name, {}) for name in names}

    @field_validator("queues")
    @classmethod
    def _check_queue_names(cls, value: dict[str, QueueSettings]) -> dict[str, QueueSettings]:
        for name in value:
            if not name or not all(part.isalnum() for part in name.replace("-", "_").split("_")) or len(name) > 64:
                raise ValueError(f"queue {name!r}: expected letters, digits, - and _, at most 64")
        return value

    @model_validator(mode="after")
    def _check_lease(self) -> Settings:
        if self.lease_seconds <= 3 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds: more than three heartbeats (3 × {self.heartbeat_seconds:g} s), got "
                f"{self.lease_seconds:g} s: a worker that misses one or two must not lose its runs"
            )
        return self

    @model_validator(mode="after")
    def _check_own_queues(self) -> Settings:
        for name in ("maintenance_queue", "webhook_queue"):
            value = getattr(self, name)
            if value is not None and value not in self.queues:
                raise ValueError(f"{name}: one of {', '.join(self.queues)}, got {value}")
        return self

    @model_validator(mode="after")
    def _check_celery_queues(self) -> Settings:
        if unknown := [name for name in self.celery_queues if name not in self.queues]:
            raise ValueError(f"celery_queues: some of {', '.join(self.queues)}, got {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _put_passwords_in(self) -> Settings:
        for name, password in (
            ("database_url", self.database_password),
            ("broker_url", self.broker_password),
            ("management_url", self.broker_password),
        ):
            url = getattr(self, name)
            if password is not None and url is not None:
                filled = _with_password(url.get_secret_value(), password.get_secret_value())
                object.__setattr__(self, name, SecretStr(filled))
        return self

    @property
    def own_queue(self) -> str:
        """The queue of the platform's own jobs."""
        return self.maintenance_queue or next(iter(self.queues))

    @property
    def webhook_jobs_queue(self) -> str:
        """The queue of the jobs that deliver webhooks."""
        return self.webhook_queue or (WEBHOOKS if WEBHOOKS in self.queues else self.own_queue)

    @property
    def pools(self) -> dict[str, str]:
        """The pool of each queue, by name."""
        return {name: queue.pool for name, queue in self.queues.items()}


def read_settings() -> Settings:
    """Read environment and secrets again. Raises `ConfigurationError`, which names each invalid variable."""
    _refuse_unknown(os.environ)
    folder = Path(os.environ.get(f"{PREFIX}SECRETS", SECRETS_FOLDER))
    try:
        return Settings(_secrets_dir=folder if folder.is_dir() else None)
    except ValidationError as error:
        lines = [
            f"{PREFIX}{item.field.upper()}: expected {item.expected}, got {_shown(item)}"
            for item in field_errors(error)
        ]
        raise ConfigurationError("; ".join(lines)) from None


def _shown(item: FieldError) -> str:
    """Return the value that was received, but never a secret."""
    field = Settings.model_fields.get(item.field.partition(".")[0])
    return "a secret" if field is not None and "Secret" in str(field.annotation) else item.got


def _refuse_unknown(names: Iterable[str]) -> None:
    """Refuse unknown variables: a typo would silently select the default."""
    known = [name.upper() for name in Settings.model_fields]
    wrong = []
    for name in sorted(set(names) - {f"{PREFIX}{item}" for item in known} - OTHER_VARIABLES):
        if name.startswith(PREFIX):
            near = get_close_matches(name.removeprefix(PREFIX), known, n=1, cutoff=0.6)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else "see `jobplatform settings`"
            wrong.append(f"{name} is no setting: {hint}")
    if wrong:
        raise ConfigurationError("; ".join(wrong))


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, read once."""
    return read_settings()
