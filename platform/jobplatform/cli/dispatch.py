"""`jobplatform dispatch`: run a dispatcher."""

from __future__ import annotations

import signal

import click


@click.command()
def dispatch() -> None:
    """Run a dispatcher until SIGTERM; it publishes jobs of the ledger to RabbitMQ. Run two for availability
    (database, broker)."""
    from jobplatform.config import settings
    from jobplatform.dispatch.gauges import watch_queues
    from jobplatform.dispatch.service import Dispatcher
    from jobplatform.observe.logs import set_up_logs
    from jobplatform.observe.metrics import serve_metrics

    config = settings()
    set_up_logs(config.log_level, config.log_format)
    dispatcher = Dispatcher(config)
    if config.metrics_port:
        watch_queues(config)
        serve_metrics(config.metrics_host, config.metrics_port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: dispatcher.stop())
    dispatcher.run()
