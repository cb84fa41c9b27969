"""The API in this process, on a real ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from api import create_app
from jobplatform.config import Settings
from jobplatform.ledger import keys
from tests.support.ledger_harness import LedgerHarness


class Client:
    """Calls the API with a key; answers are (status, JSON, headers)."""

    def __init__(self, flask: Any, key: str | None) -> None:
        self.flask, self.key = flask, key

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any, Any]:
        headers = dict(more.pop("headers", {}))
        if self.key:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        data = more.pop("data", json.dumps(body) if body is not None else None)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        answer = self.flask.open(path, method=method, data=data, headers=headers, **more)
        kind = answer.mimetype or ""
        value = orjson.loads(answer.data) if kind.endswith("json") else answer.data
        return answer.status_code, value, answer.headers

    def get(self, path: str, **more: Any) -> tuple[int, Any, Any]:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any, Any]:
        return self.call("POST", path, body, **more)

    def submit(self, **order: Any) -> Any:
        status, job, _ = self.post("/v1/jobs", {**EMAIL, **order})
        assert status == 202, job
        return job


EMAIL = {"kind": "email.send", "payload": {"to": ["ada@example.com"], "subject": "Hi", "text": "Hello"}}


@pytest.fixture
def app(harness: LedgerHarness, tmp_path) -> Iterator[Any]:
    (tmp_path / "media").mkdir()
    config = Settings(
        database_url=harness.url,
        artifact_url=(tmp_path / "artifacts").as_uri(),
        media_root=tmp_path / "media",
        max_body_bytes=50_000,
        max_upload_bytes=500_000,
    )
    result = create_app(config)
    yield result
    result.extensions["services"].ledger.close()


@pytest.fixture
def api(app: Any, harness: LedgerHarness) -> Client:
    with harness.ledger.transaction() as connection:
        key = keys.create_key(connection, harness.tenant_id, "test")
    return Client(app.test_client(), key)


@pytest.fixture
def stranger(app: Any, harness: LedgerHarness) -> Client:
    """A caller of another tenant."""
    with harness.ledger.transaction() as connection:
        key = keys.create_key(connection, keys.create_tenant(connection, "other"), "test")
    return Client(app.test_client(), key)
