"""Every request is counted and timed, by endpoint: the route's name, never the path, which callers choose."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from jobplatform.observe.metrics import api_metrics

#: what is asked every few seconds by machines
NOT_COUNTED = frozenset({"healthz", "readyz", "metrics"})


def count_request(endpoint: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    metrics = api_metrics()
    metrics.requests.labels(endpoint, method, str(status)).inc()
    metrics.seconds.labels(endpoint).observe(seconds)


def register(app: Flask) -> None:
    """Count what goes through Flask; the express lane counts its own."""

    @app.before_request
    def _begin() -> None:
        g.began_at = time.perf_counter()

    @app.after_request
    def _count(response: Response) -> Response:
        endpoint = request.endpoint or "none"
        if endpoint not in NOT_COUNTED:
            count_request(endpoint, request.method, response.status_code, time.perf_counter() - g.began_at)
        return response
