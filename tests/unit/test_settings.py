"""Settings: what is read, and what is refused with the name of the variable."""

from __future__ import annotations

import pytest

from jobplatform.config import read_settings
from jobplatform.errors import ConfigurationError


def test_queues_are_a_list_of_names_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_QUEUES", "email,video,llm,gpu")
    settings = read_settings()
    assert settings.pools == {"email": "threads", "video": "prefork", "llm": "threads", "gpu": "prefork"}
    assert settings.queues["email"].prefetch == 4
    monkeypatch.setenv("JOBPLATFORM_QUEUES", '{"gpu": {"pool": "threads", "window_min": 9}}')
    assert read_settings().queues["gpu"].window_min == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUES", '{"gpu": {"pol": "threads"}}'),
        ("QUEUES", "{not json"),
        ("QUEUES", "a b"),
        ("HEARTBEAT_SECONDS", "0"),
        ("CONFIRM_SECONDS", "5"),
        ("QUEUE_TYPE", "stream"),
        ("MAX_BODY_BYTES", "lots"),
        ("DATABASE_URL", "mysql://root:hunter2@host/x"),
        ("BROKER_URL", "redis://:hunter2@host"),
    ],
)
def test_invalid_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"JOBPLATFORM_{name}", value)
    with pytest.raises(ConfigurationError, match=f"JOBPLATFORM_{name}.*expected") as refused:
        read_settings()
    assert "hunter2" not in str(refused.value)


def test_kind_modules_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_KIND_MODULES", "workers.handlers.builtin, acme_jobs")
    assert read_settings().kind_modules == ("workers.handlers.builtin", "acme_jobs")


def test_secrets_are_not_printed() -> None:
    assert "guest:guest" not in repr(read_settings())


def test_an_unknown_setting_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_LEASE_SECOND", "30")
    monkeypatch.setenv("JOBPLATFORM_WHATEVER_THIS_IS", "1")
    with pytest.raises(ConfigurationError) as refused:
        read_settings()
    assert "JOBPLATFORM_LEASE_SECOND is no setting: did you mean JOBPLATFORM_LEASE_SECONDS?" in str(refused.value)
    assert "JOBPLATFORM_WHATEVER_THIS_IS is no setting: see `jobplatform settings`" in str(refused.value)


def test_secrets_are_read_from_files_and_inserted_into_the_urls(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "jobplatform_database_password").write_text("p@ss/word\n")
    (tmp_path / "jobplatform_broker_password").write_text("s:cret")
    (tmp_path / "jobplatform_llm_api_key").write_text("sk-1")
    monkeypatch.setenv("JOBPLATFORM_SECRETS", str(tmp_path))
    monkeypatch.setenv("JOBPLATFORM_DATABASE_URL", "postgresql://jobs@db:5433/ledger")
    monkeypatch.setenv("JOBPLATFORM_BROKER_URL", "amqp://worker@mq/jobplatform")
    settings = read_settings()
    assert settings.database_url.get_secret_value() == "postgresql+psycopg2://jobs:p%40ss%2Fword@db:5433/ledger"
    assert settings.broker_url.get_secret_value() == "amqp://worker:s%3Acret@mq/jobplatform"
    assert settings.llm_api_key.get_secret_value() == "sk-1"
    assert not {"p@ss", "p%40ss", "s:cret", "sk-1"} & set(repr(settings).split("'"))


def test_a_lease_of_three_heartbeats_or_less_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_HEARTBEAT_SECONDS", "5")
    monkeypatch.setenv("JOBPLATFORM_LEASE_SECONDS", "15")
    with pytest.raises(ConfigurationError, match="more than three heartbeats"):
        read_settings()
