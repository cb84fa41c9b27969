"""The API, as commands call it: over HTTP with the API key of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from jobplatform.client import Client

URL, KEY = "JOBPLATFORM_URL", "JOBPLATFORM_API_KEY"


def has_key() -> bool:
    """Return whether the environment has an API key."""
    return bool(os.environ.get(KEY))


def connect() -> Client:
    """Return a client of the API. Raises `click.UsageError` when its address or the key is not in the environment."""
    from jobplatform.client import Client

    missing = [name for name in (URL, KEY) if not os.environ.get(name)]
    if missing:
        raise click.UsageError(
            f"this command calls the API: expected {' and '.join(missing)} in the environment "
            f"(`make up` writes both to .local/env; `jobplatform keys create` creates a key)"
        )
    return Client(os.environ[URL], os.environ[KEY])


def call_api(
    method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
) -> Any:
    """Call an operation of the API and return its JSON. Raises `client.ClientError`."""
    with connect() as client:
        return client.call(method, path, params=params, body=body)
