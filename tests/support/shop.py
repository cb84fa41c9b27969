"""An existing Celery app of a team, outside the repository: examples of Celery's docs, and tasks that misbehave.

Only the task class and the config object belong to the platform; no task knows about it.
"""

from __future__ import annotations

from pathlib import Path

APP = """\
import os

from celery import Celery

app = Celery("shop", task_cls="workers.celery:Task", include=["shop.tasks"])
app.config_from_object("workers.celery.config")
app.conf.update(task_default_queue="shop")
"""

TASKS = '''\
import os
import signal
import time
from decimal import Decimal

from celery import Task, chain, group, shared_task
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger
from celery.worker.control import control_command

from shop import app

logger = get_task_logger(__name__)


# --- from the pages First Steps, Next Steps, Calling Tasks, Canvas ---------------------------------

@app.task
def add(x, y, debug=False):
    return x + y


@app.task
def mul(x, y):
    return x * y


@app.task
def subtract(x, y):
    return x - y


@shared_task
def tsum(numbers):
    return sum(numbers)


@app.task
def error_handler(request, exc, traceback):
    note("error_handler", f"{request.id} {exc!r} {bool(traceback)} {request.args}")


@app.task
def notes_values(request, exc, traceback, value, when):
    note("notes_values", f"{value!r} {when!r} {type(exc).__name__}")


@app.task
def log_error(task_id):
    note("log_error", task_id)


@app.task
def on_chord_error(request, exc, traceback):
    note("on_chord_error", f"{request.id} {type(exc).__name__}")


@app.task(bind=True)
def hello(self, a, b):
    self.update_state(state="PROGRESS", meta={"progress": 50})
    wait_for_file(a)
    self.update_state(state="PROGRESS", meta={"progress": 90})
    wait_for_file(b)
    return "hello world: %i" % 42


@app.task(bind=True)
def dump_context(self, x, y):
    request = self.request
    return {
        "id": request.id, "args": list(request.args), "kwargs": request.kwargs, "retries": request.retries,
        "root_id": request.root_id, "parent_id": request.parent_id, "group": request.group, "task": self.name,
        "priority": request.delivery_info["priority"], "queue": request.delivery_info["routing_key"],
        "called_directly": request.called_directly, "headers": request.headers, "sum": x + y,
    }


# --- from the page Tasks --------------------------------------------------------------------------

class Flaky(Exception):
    pass


@app.task(bind=True, default_retry_delay=0.05, max_retries=3)
def unreliable(self, path, fails):
    try:
        if count(path) <= fails:
            raise Flaky("not yet")
    except Flaky as exc:
        raise self.retry(exc=exc)
    return self.request.retries


@app.task(autoretry_for=(Flaky,), retry_kwargs={"max_retries": 4, "countdown": 0.05})
def refreshes(path, fails):
    if count(path) <= fails:
        raise Flaky("again")
    return "fresh"


@app.task(bind=True, max_retries=None)
def counts_down(self, n, seen=()):
    if n:
        raise self.retry(args=[n - 1], kwargs={"seen": [*seen, self.request.retries]}, countdown=0.02)
    return list(seen)


class NoteTask(Task):
    """The team's own base class, which knows nothing about the platform."""

    def on_success(self, retval, task_id, args, kwargs):
        note("hooks", f"success {self.name} {retval}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("hooks", f"failure {self.name} {exc}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note("hooks", f"retry {self.name}")

    def __call__(self, *args, **kwargs):
        note("hooks", f"call {self.name}")
        return super().__call__(*args, **kwargs)


@app.task(base=NoteTask, bind=True, max_retries=1)
def noted(self, what):
    if what == "fail":
        raise ValueError("told to")
    if what == "retry" and not self.request.retries:
        raise self.retry(countdown=0.02)
    return what


@app.task(ignore_result=True)
def silent():
    return "nobody asks"


@app.task(bind=True)
def sets_its_own_state(self):
    self.update_state(state="FAILURE", meta=ValueError("by hand"))
    raise Ignore()


@app.task(acks_late=True)
def rejects():
    raise Reject("no reason", requeue=False)


class Shop:
    class ClosedError(Exception):
        pass


@app.task
def closes():
    raise Shop.ClosedError("until Monday")


@app.task(ignore_result=True)
def adds_in_silence(x, y):
    return x + y


@app.task(bind=True, max_retries=2)
def turns_pages(self, book):
    book["page"] += 1
    if book["page"] < 3:
        raise self.retry(countdown=0.02, priority=8)
    return [book["page"], self.request.delivery_info["priority"]]


@app.task(bind=True, max_retries=1)
def retries_and_goes_on(self, path):
    if count(path) == 1:
        self.retry(countdown=0.02, throw=False)
        raise ValueError("all the same")
    return self.request.retries


class BadHook(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        raise RuntimeError("a bug in a hook")


@app.task(base=BadHook)
def fails_in_its_hook(path):
    count(path)
    raise ValueError("the task")


@app.task
def exits(path):
    count(path)
    raise SystemExit(3)


@app.task
def fail(message="told to fail"):
    raise ValueError(message)


@app.task(name="shop:orders/ship@v2")
def ships(number):
    return f"shipped {number}"


@app.task(name="shop orders with blanks")
def is_refused_alone():
    return "never"


@app.task
def same(value):
    return value


@app.task
def keeps_order(value, **kwargs):
    return [list(value), list(kwargs), repr(value["negative zero"]), value]


@app.task
def returns_decimal(value):
    return {"price": Decimal(value), "bytes": b"x", "twice": (1, 2)}


@app.task(bind=True)
def adds_by_another(self, x, y):
    return self.replace(chain(add.s(x, y), mul.s(10)))


@app.task(bind=True)
def adds_many(self, n):
    return self.replace(group(add.s(i, i) for i in range(n)))


@app.task(bind=True)
def calls_others(self, n):
    return [add.delay(i, i).id for i in range(n)]


@app.task
def sleeps(path, seconds, times=1):
    calls = count(path)
    if calls <= times:
        time.sleep(seconds)
    return calls


@app.task
def crashes(path, times):
    if count(path) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task(time_limit=1)
def hangs():
    time.sleep(60)


@app.task(soft_time_limit=1, time_limit=30)
def hangs_softly():
    time.sleep(60)


@control_command()
def shop_stops_consuming(state, queue):
    """Cancel a consumer as RabbitMQ does when it cancels one silently: the worker stays connected."""
    state.consumer.task_consumer.cancel_by_queue(queue)
    return {"ok": queue}


def count(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    return len(open(path).read().splitlines())


def note(name, line):
    with open(os.path.join(os.environ["SHOP_NOTES"], name), "a") as file:
        file.write(line + "\\n")


def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.02)
'''


def write_shop(folder: Path) -> None:
    """Write the package `shop` into a folder."""
    package = folder / "shop"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(APP)
    (package / "tasks.py").write_text(TASKS)


LEGACY = """\
import os

from celery import Celery

# the one line that is changed, process by process
app = Celery("legacy", task_cls="workers.celery:Task")
app.config_from_object(os.environ.get("LEGACY_CONFIG", "workers.celery.config"))
app.conf.update(task_routes={"legacy.report": {"queue": "legacy"}, "legacy.mail": {"queue": "mails"}})


@app.task(name="legacy.report")
def report(n):
    return f"report {n}"


@app.task(name="legacy.mail")
def mail(n):
    return f"mail {n}"
"""

OLD_CONFIG = """\
import os

broker_url = os.environ["OLD_BROKER_URL"]
result_backend = os.environ["OLD_RESULT_BACKEND"]
task_default_queue = "mails"
worker_prefetch_multiplier = 1
"""


def write_legacy(folder: Path) -> None:
    """Write the module `legacy`, an app with one queue that has moved to the platform and one that has not."""
    (folder / "legacy.py").write_text(LEGACY)
    (folder / "legacy_old_config.py").write_text(OLD_CONFIG)
