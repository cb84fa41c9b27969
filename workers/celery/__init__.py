"""Existing Celery apps on the ledger: their tasks become kinds, their calls jobs, their canvases workflows.

from workers.celery import Task
app = Celery("shop", task_cls=Task)
app.config_from_object("workers.celery.config")

See docs/howto/migrate-from-celery.md. Without the config object such an app is plain Celery.
"""

from jobplatform.extras import require

require("worker")

from workers.celery import errbacks as errbacks  # registers its task with every app that is finalized
from workers.celery.adopt import watch_apps
from workers.celery.patches import install_patches
from workers.celery.settings import use_settings
from workers.celery.task import Task

install_patches()
watch_apps()

__all__ = ["Task", "use_settings"]
