"""Metrics: one set per process, shared among forked processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobplatform.observe import metrics


def test_concurrent_first_counts_create_one_set_of_metrics() -> None:
    """Regression: three of 7,275 requests failed with 500, "Duplicated timeseries"."""

    class Slow(metrics.ApiMetrics):
        def __init__(self) -> None:
            made.append(self)

    made: list[metrics.ApiMetrics] = []
    get = metrics._once(Slow)
    with ThreadPoolExecutor(16) as pool:
        assert len({id(item.result()) for item in [pool.submit(get) for _ in range(64)]}) == 1
    assert len(made) == 1


FORKING = """
import os, sys
import prometheus_client  # as Celery's command line does, before anything of ours
from jobplatform.observe import metrics
metrics.share_between_processes()
for n in range(3):
    if os.fork() == 0:
        metrics.worker_metrics().runs.labels("email", "email.send", "succeeded").inc()
        os._exit(0)
    os.wait()
print(metrics.exposition()[0].decode())
"""


@pytest.mark.parametrize("named", [True, False])
def test_child_processes_count_into_the_metrics_of_their_parent(tmp_path: Path, named: bool) -> None:
    import os

    environment = {key: value for key, value in os.environ.items() if key != metrics.FOLDER}
    if named:
        environment[metrics.FOLDER] = str(tmp_path / "shared")
    for _ in range(2):  # a restarted process begins at zero
        done = subprocess.run(
            [sys.executable, "-c", FORKING], env=environment, capture_output=True, text=True, check=True
        )
        line = 'jobplatform_runs_total{kind="email.send",outcome="succeeded",queue="email"} 3.0'
        assert line in done.stdout
