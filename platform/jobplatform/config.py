"""Settings: the only reader of the environment. Every name starts with JOBPLATFORM_."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobplatform.domain.kinds import field_errors
from jobplatform.errors import ConfigurationError

Pool = Literal["prefork", "threads"]
QueueType = Literal["auto", "quorum", "classic"]

DEFAULT_QUEUES: dict[str, dict[str, Any]] = {
    "email": {"pool": "threads", "prefetch": 4},
    "video": {"pool": "prefork", "prefetch": 1},
    "llm": {"pool": "threads", "prefetch": 2},
}


class QueueSettings(BaseModel):
    """How one queue is worked on.

    | field | unit | meaning |
    |---|---|---|
    | pool | | the Celery pool of its workers; only prefork can enforce time limits |
    | prefetch | messages per slot | 1 for long jobs, up to 4 where jobs are short |
    | window_min | jobs | how many may be dispatched or running at once, at least |
    | window_factor | jobs per slot | window = max(window_min, window_factor × live slots) |
    """

    model_config = ConfigDict(extra="forbid")

    pool: Pool = "prefork"
    prefetch: int = Field(1, ge=1, le=1000)
    window_min: int = Field(4, ge=1, le=100_000)
    window_factor: float = Field(4.0, gt=0, le=10_000)


def _as_psycopg2(url: str) -> str:
    """SQLAlchemy 2.1 reads `postgresql://` as psycopg 3; ours is psycopg2."""
    for plain in ("postgresql://", "postgres://"):
        if url.startswith(plain):
            return "postgresql+psycopg2://" + url[len(plain) :]
    return url


class Settings(BaseSettings):
    """All settings, with their defaults. A value that does not fit is refused at start, naming the variable."""

    model_config = SettingsConfigDict(env_prefix="JOBPLATFORM_", extra="ignore", frozen=True)

    # servers
    database_url: SecretStr = SecretStr("postgresql+psycopg2://jobplatform@localhost/jobplatform")
    broker_url: SecretStr = SecretStr("amqp://guest:guest@localhost:5672/")
    queue_type: QueueType = "auto"

    # what runs
    kind_modules: Annotated[tuple[str, ...], NoDecode] = ("workers.handlers",)
    queues: Annotated[dict[str, QueueSettings], NoDecode] = Field(
        default_factory=lambda: {name: QueueSettings(**values) for name, values in DEFAULT_QUEUES.items()}
    )

    # API
    max_body_bytes: int = Field(1_048_576, ge=1024)
    max_upload_bytes: int = Field(2 * 1024**3, ge=1024)
    max_result_bytes: int = Field(1_048_576, ge=1024)
    idempotency_seconds: int = Field(86_400, ge=60)
    api_database_connections: int = Field(8, ge=1)
    api_threads: int = Field(4, ge=1)
    blocking_waits: int = Field(2, ge=0)

    # liveness
    beat_seconds: float = Field(5.0, gt=0)
    lease_seconds: float = Field(20.0, gt=0)
    cancel_grace_seconds: float = Field(10.0, ge=0)

    # dispatch
    dispatch_poll_seconds: float = Field(0.5, gt=0)
    dispatch_batch: int = Field(500, ge=1, le=5000)
    confirm_seconds: float = Field(2.0, gt=0, le=2.0)
    max_backoff_seconds: float = Field(60.0, ge=1)

    # kinds
    artifact_url: str = "file:///var/lib/jobplatform/artifacts"
    media_root: Path = Path("/var/lib/jobplatform/media")
    smtp_url: SecretStr = SecretStr("smtp://localhost:25")
    email_from: str = "Job Platform <jobs@localhost>"
    email_templates: Path | None = None
    llm_base_url: str = "http://localhost:11434/v1"
    llm_api_key: SecretStr = SecretStr("unused")
    llm_model: str = "local"
    llm_timeout_seconds: float = Field(120.0, gt=0)

    # observing
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("database_url", mode="before")
    @classmethod
    def _read_database_url(cls, value: object) -> object:
        raw = value.get_secret_value() if isinstance(value, SecretStr) else value
        return _as_psycopg2(raw) if isinstance(raw, str) else raw

    @field_validator("kind_modules", mode="before")
    @classmethod
    def _read_modules(cls, value: object) -> object:
        """A comma-separated list; the built-in kinds are named `workers.handlers`."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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

    @property
    def pools(self) -> dict[str, str]:
        """The pool of each queue, by name."""
        return {name: queue.pool for name, queue in self.queues.items()}


def read_settings() -> Settings:
    """Read the environment afresh. Raises `ConfigurationError` naming each variable that does not fit."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"JOBPLATFORM_{item.field.upper()}: expected {item.expected}, got {item.got}"
            for item in field_errors(error)
        ]
        raise ConfigurationError("; ".join(lines)) from None


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, read once."""
    return read_settings()
