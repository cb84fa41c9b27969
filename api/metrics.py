"""Request metrics by endpoint: the route's name, never the path, which callers choose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, Response, g, request

from jobplatform.observe.logs import get_log
from jobplatform.observe.metrics import api_metrics

log = get_log(__name__)

#: endpoints that machines poll every few seconds
NOT_COUNTED = frozenset({"healthz", "readyz", "metrics"})


def count_request(endpoint: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    with ignore_metric_errors():
        metrics = api_metrics()
        metrics.requests.labels(endpoint, method, str(status)).inc()
        metrics.seconds.labels(endpoint).observe(seconds)


@contextmanager
def ignore_metric_errors() -> Iterator[None]:
    """A failure to count (a full disk, for example) must not turn a committed job into an error."""
    try:
        yield
    except Exception as error:
        log.warning("not_counted", error=repr(error))


def register(app: Flask) -> None:
    """Count requests through Flask; the fast path counts its own."""

    @app.before_request
    def _begin() -> None:
        g.began_at = time.perf_counter()

    @app.after_request
    def _count(response: Response) -> Response:
        endpoint = request.endpoint or "none"
        if endpoint not in NOT_COUNTED:
            count_request(endpoint, request.method, response.status_code, time.perf_counter() - g.began_at)
        return response
