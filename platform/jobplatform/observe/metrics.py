"""Prometheus metrics of all processes, and the port that exports them.

Processes that fork or that share a port (API, prefork workers) share their counts through
files in the folder PROMETHEUS_MULTIPROC_DIR; prometheus_client reads that variable when it is imported, so
`share_between_processes` must be called first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: buckets (s): jobs take from a millisecond to hours
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
REQUESTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def share_between_processes() -> None:
    """Use an empty folder for this process and its forks; call it before the first fork and the first count."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="jobplatform-metrics-")
        atexit.register(_remove, folder, os.getpid())
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in Path(folder).glob("*.db"):  # of an earlier process
            file.unlink(missing_ok=True)
    # prometheus_client decides at import, and Celery's command line has imported it already, through Flower
    from prometheus_client import values

    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def make_shared_folder() -> None:
    """Create the named folder if it is missing, as in a fresh container. Its files stay."""
    if folder := os.environ.get(FOLDER):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a fork inherits the decision, not the folder
        shutil.rmtree(folder, ignore_errors=True)


def _counter(name: str, about: str, *labels: str) -> Any:
    from prometheus_client import Counter

    return Counter(f"jobplatform_{name}", about, labels)


def _gauge(name: str, about: str, *labels: str) -> Any:
    from prometheus_client import Gauge

    return Gauge(f"jobplatform_{name}", about, labels, multiprocess_mode="livesum")


def _histogram(name: str, about: str, *labels: str, buckets: tuple[float, ...]) -> Any:
    from prometheus_client import Histogram

    return Histogram(f"jobplatform_{name}", about, labels, buckets=buckets)


class ApiMetrics:
    """Metrics of an API process."""

    def __init__(self) -> None:
        self.requests = _counter("http_requests_total", "Requests answered", "endpoint", "method", "status")
        self.seconds = _histogram("http_request_seconds", "Time to answer", "endpoint", buckets=REQUESTS)
        self.accepted = _counter("jobs_accepted_total", "Jobs accepted, by this API process", "queue", "kind")
        self.streams = _gauge("open_streams", "Streams of events that are open")


class DispatcherMetrics:
    """Metrics of a dispatcher."""

    def __init__(self) -> None:
        self.dispatched = _counter("jobs_dispatched_total", "Jobs dispatched and confirmed by RabbitMQ", "queue")
        self.refused = _counter("dispatch_refused_total", "Messages RabbitMQ did not take", "queue", "reason")
        self.rounds = _histogram("dispatch_round_seconds", "Time of one round of a queue", "queue", buckets=REQUESTS)
        self.window = _gauge("dispatch_window", "Jobs that may be in flight, as of the last round of a queue", "queue")
        self.failures = _counter("dispatch_failures_total", "Rounds and steps that failed", "cause")
        self.rescued = _counter("runs_rescued_total", "Runs ended because their worker was gone", "outcome")
        self.fired = _counter("schedule_fires_total", "Fires of schedules")
        self.dead_messages = _counter("dead_messages_total", "Messages that belong to no live dispatch", "reason")
        self.amqp_submissions = _counter("amqp_submissions_total", "Submissions over AMQP", "answer")
        self.messages_lost = _counter("messages_lost_total", "Messages that RabbitMQ has lost, by a marker", "queue")


class WorkerMetrics:
    """Metrics of a worker and its children."""

    def __init__(self) -> None:
        self.runs = _counter("runs_total", "Runs ended", "queue", "kind", "outcome")
        self.seconds = _histogram("run_seconds", "Time from claim to settle", "queue", "kind", buckets=DURATIONS)
        self.idle = _counter("deliveries_without_run_total", "Deliveries that had nothing to run", "verdict")
        self.commits = _counter("worker_group_commits_total", "Commits that settle and claim runs together")
        self.heartbeats = _counter("worker_heartbeats_total", "Heartbeats, by result", "answer")
        self.free_bytes = _gauge("artifact_store_free_bytes", "Free space of the artifact store's disk")
        self.abandoned = _gauge("worker_abandoned_threads", "Threads of ended runs that can't be stopped")


def _registry() -> Any:
    """Return the registry to export: of this process, or of all that share the folder."""
    import prometheus_client
    from prometheus_client.multiprocess import MultiProcessCollector

    if not os.environ.get(FOLDER):
        return prometheus_client.REGISTRY
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def exposition() -> tuple[bytes, str]:
    """Return the metrics in Prometheus' text format, and the content type."""
    import prometheus_client

    return prometheus_client.generate_latest(_registry()), prometheus_client.CONTENT_TYPE_LATEST


def serve_metrics(host: str, port: int) -> None:
    """Serve /metrics from a thread of this process."""
    import prometheus_client

    prometheus_client.start_http_server(port, host, _registry())


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """Return a function that creates one object per process, also when two threads call it first at once."""
    lock = threading.Lock()
    made: list[T] = []

    def get() -> T:
        if not made:
            with lock:
                if not made:
                    made.append(make())
        return made[0]

    return get


api_metrics = _once(ApiMetrics)
dispatcher_metrics = _once(DispatcherMetrics)
worker_metrics = _once(WorkerMetrics)
