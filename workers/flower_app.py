"""The app that Flower runs with: the platform's, with fixes of two bugs of Flower.

Flower serves `/metrics` (names and load of kinds, workers and queues) without a login, and it doubles
its pause after each failed connection without bound: after an outage of two hours it shows nothing for two more.
"""

from __future__ import annotations

import _thread
import time

from celery.events import EventReceiver
from flower import events
from flower.views import monitor
from tornado import web

from jobplatform.config import settings
from jobplatform.observe.logs import get_log, set_up_logs
from workers.app import app

__all__ = ["app"]

log = get_log(__name__)

#: the longest pause before the next connection
MAX_RECONNECT_SECONDS = 30


def capture_events(thread: events.Events) -> None:
    """Capture events for as long as Flower runs; replaces `Events.run`."""
    seconds = 1
    while True:
        try:
            with thread.capp.connection() as connection:
                receiver = EventReceiver(connection, handlers={"*": thread.on_event}, app=thread.capp)
                seconds = 1
                receiver.capture(limit=None, timeout=None, wakeup=True)
        except (KeyboardInterrupt, SystemExit):
            _thread.interrupt_main()
        except Exception as error:  # as in Flower: whatever the error is, the next connection may work
            log.warning("events_not_captured", error=str(error), retry_seconds=seconds)
            time.sleep(seconds)
            seconds = min(2 * seconds, MAX_RECONNECT_SECONDS)


set_up_logs(settings().log_level, settings().log_format)
monitor.Metrics.get = web.authenticated(monitor.Metrics.get)
events.Events.run = capture_events
