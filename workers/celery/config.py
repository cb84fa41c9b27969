"""The config object of an app on the ledger: `app.config_from_object("workers.celery.config")`.

The platform's own app uses it too (workers/app.py). Every name is a setting of Celery's; an app's own routes, schedules
and the like are added with `app.conf.update(…)`.
"""

from __future__ import annotations

import os as _os
import socket as _socket
import sys as _sys
from pathlib import Path

from kombu import Exchange, Queue

from jobplatform.broker.topology import JOBS_EXCHANGE
from jobplatform.config import settings as _read_settings

_settings = _read_settings()
_jobs = Exchange(JOBS_EXCHANGE, type="direct", no_declare=True)  # type: ignore[no-untyped-call]

broker_url = _settings.broker_url.get_secret_value()
# the name of the connection in RabbitMQ's management UI
broker_transport_options = {
    "client_properties": {
        "connection_name": f"jobplatform {Path(_sys.argv[0]).name} {_socket.gethostname()} {_os.getpid()}"
    }
}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# a queue that was deleted and declared again, or a channel that the broker closed, must not end the worker
broker_channel_error_retry = True
# a broken connection must be replaced soon: the lease minus three heartbeats is all the time there is
broker_connection_timeout = 3.0
# acknowledged when the run is settled. A child that dies is reported by its parent at once; with
# reject_on_worker_lost its message would come back while the lease still looks alive.
task_acks_late = True
task_reject_on_worker_lost = False
task_acks_on_failure = True
task_acks_on_timeout = True
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_prefetch_count_reduction = False
worker_disable_rate_limits = True
# JSON only, and nothing in a message is obeyed: workers/runtime/consumer.py rebuilds every request
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
result_accept_content = ["json"]
result_backend = "workers.celery.backend:LedgerBackend"
worker_consumer = "workers.runtime.consumer:LedgerConsumer"
# queues are declared by `jobplatform broker apply`, never from here
task_queues = [
    Queue(name, _jobs, routing_key=name, no_declare=True)  # type: ignore[no-untyped-call]
    for name in _settings.queues
]
# only calls to the old broker may name a queue that is not listed here
task_create_missing_queues = _settings.celery_old_broker_url is not None
task_default_queue = (_settings.celery_queues or tuple(_settings.queues))[0]
# a fast restart under the same node name meets 405 RESOURCE_LOCKED with exclusive queues, and the worker exits
control_queue_durable = True
control_queue_exclusive = False
event_queue_durable = True
event_queue_exclusive = False
event_queue_expires = 60
event_queue_ttl = 5
# Flower enables events when it needs them; without it they cost nothing (else 0.3 ms of CPU per job)
worker_send_task_events = False
worker_prefetch_multiplier = 1
beat_scheduler = "workers.celery.beat:LedgerScheduler"
worker_hijack_root_logger = False
worker_redirect_stdouts = False
enable_utc = True
