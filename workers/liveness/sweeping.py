"""Removes unreferenced files (a cancelled run's, say), in its own thread: a store that hangs delays no heartbeat."""

from __future__ import annotations

import random
import threading

from jobplatform.config import Settings
from jobplatform.errors import LedgerUnavailable, OutcomeUnknown
from jobplatform.observe.logs import get_log
from jobplatform.usecases.store_artifacts import sweep_removals
from workers.runtime.process import ledger

log = get_log(__name__)

SWEEP_SECONDS = 5.0


class Sweeper:
    """Sweeps at intervals until its process ends; another worker removes the files that it leaves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = SWEEP_SECONDS * random.uniform(0.5, 1.5)  # not all workers at once
            try:
                if removed := sweep_removals(ledger("worker sweeper", connections=1), self._settings.artifact_url):
                    log.info("files_removed", count=removed)
                    pause = 0.1  # there may be more
            except (LedgerUnavailable, OutcomeUnknown):
                continue
            except Exception:  # an error of the store
                log.exception("files_not_removed")
