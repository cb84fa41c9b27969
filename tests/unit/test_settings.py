"""Settings: what is read, and what is refused, naming the variable."""

from __future__ import annotations

import pytest

from jobplatform.config import read_settings
from jobplatform.errors import ConfigurationError


def test_queues_are_a_list_of_names_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_QUEUES", "email,video,llm,gpu")
    found = read_settings()
    assert found.pools == {"email": "threads", "video": "prefork", "llm": "threads", "gpu": "prefork"}
    assert found.queues["email"].prefetch == 4
    monkeypatch.setenv("JOBPLATFORM_QUEUES", '{"gpu": {"pool": "threads", "window_min": 9}}')
    assert read_settings().queues["gpu"].window_min == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUES", '{"gpu": {"pol": "threads"}}'),
        ("QUEUES", "{not json"),
        ("QUEUES", "a b"),
        ("BEAT_SECONDS", "0"),
        ("CONFIRM_SECONDS", "5"),
        ("QUEUE_TYPE", "stream"),
        ("MAX_BODY_BYTES", "lots"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"JOBPLATFORM_{name}", value)
    with pytest.raises(ConfigurationError, match=f"JOBPLATFORM_{name}.*expected"):
        read_settings()


def test_kind_modules_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLATFORM_KIND_MODULES", "workers.handlers, acme_jobs")
    assert read_settings().kind_modules == ("workers.handlers", "acme_jobs")


def test_secrets_do_not_print() -> None:
    assert "guest:guest" not in repr(read_settings())
