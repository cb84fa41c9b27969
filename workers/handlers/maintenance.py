"""Handlers of the platform's own jobs. They use the ledger; tenants cannot submit them."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from jobplatform.config import Settings, settings
from jobplatform.domain.context import Context
from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.maintenance import CLEAN_UP, QUEUE_HEALTH, CleanUp, NoPayload, QueueHealth, maintenance_kind
from jobplatform.usecases import run_maintenance
from workers.runtime.process import ledger

#: a run's folder without a write for this long belongs to no run: the longest run takes a day (s)
LEFT_OVER_SECONDS = 2 * 86_400


def clean_up(_payload: NoPayload, ctx: Context) -> CleanUp:
    """Delete expired history, uploads, outputs and workflows, and folders that killed runs left on this host."""
    folders = remove_old_folders(time.time() - LEFT_OVER_SECONDS)
    return run_maintenance.clean_up(ledger(), settings(), lambda what: ctx.progress(0, None, what), folders)


def queue_health(_payload: NoPayload, _ctx: Context) -> QueueHealth:
    """Report on every queue: waiting jobs and their age, live workers, faults."""
    return run_maintenance.check_queue_health(ledger(), settings())


def remove_old_folders(before: float) -> int:
    """Remove the folders of runs on this host that were last written to before a time; returns how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob("run-*-*-*-*-*-*"):
        try:
            if folder.is_dir() and max(item.stat().st_mtime for item in (folder, *folder.iterdir())) < before:
                shutil.rmtree(folder)
                count += 1
        except OSError:  # it was removed meanwhile, or belongs to another user
            continue
    return count


def register(kinds: KindRegistry, config: Settings) -> None:
    """Add the platform's own kinds, on the given queue."""
    kinds.add(maintenance_kind(CLEAN_UP, config.own_queue, clean_up))
    kinds.add(maintenance_kind(QUEUE_HEALTH, config.own_queue, queue_health))
