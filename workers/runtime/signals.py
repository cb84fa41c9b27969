"""Setup of a worker process at its start: its logs, and the death of children with their parent."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import celeryd_init, setup_logging, worker_process_init

from jobplatform.config import Settings
from jobplatform.observe.logs import set_up_logs
from workers.runtime.parent_death import die_with_parent

#: Celery's "received" and "succeeded": `run_settled` reports it once, with the job's id as a field
REPEATING = ("celery.worker.strategy", "celery.app.trace")


def set_up_logging(settings: Settings) -> None:
    """Set up the platform's logs where Celery would set up its own."""

    # the first of the two comes before Celery's warnings, the second keeps Celery from setting up its own
    @celeryd_init.connect(weak=False, dispatch_uid="jobplatform")  # type: ignore[untyped-decorator]
    @setup_logging.connect(weak=False, dispatch_uid="jobplatform")  # type: ignore[untyped-decorator]
    def _set_up_logs(**_: Any) -> None:
        set_up_logs(settings.log_level, settings.log_format)
        # repeated at every reconnect: the setting whose default may change is explicit (docs/concepts/delivery.md)
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        for name in REPEATING:
            logging.getLogger(name).setLevel(logging.WARNING)


def set_up_signals(app: Celery) -> None:
    """Connect Celery's signals. None of them carries correctness: their exceptions are swallowed."""

    @worker_process_init.connect(weak=False, dispatch_uid="jobplatform")  # type: ignore[untyped-decorator]
    def _tie_to_parent(**_: Any) -> None:
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:  # the parent died in between
            os._exit(1)

    # a child may be reported as lost only after this many seconds; its result may still be on the way
    app.conf.worker_lost_wait = 1.0
