"""An existing app's own settings beside the config object, and tasks that can't be kinds."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from jobplatform.domain.kinds import REGISTRY
from jobplatform.errors import ConfigurationError
from workers.celery import Task, use_settings
from workers.celery.routing import is_on_ledger
from workers.celery.submissions import REFUSED_TASKS

DJANGO = SimpleNamespace(
    DEBUG=True,
    CELERY_BROKER_URL="redis://localhost/0",
    CELERY_RESULT_BACKEND="redis://localhost/1",
    CELERY_TASK_DEFAULT_QUEUE="email",
    CELERY_TASK_ROUTES={"own.*": {"queue": "video"}},
    CELERY_TASK_SERIALIZER="pickle",
    CELERYD_SOMETHING=1,
)


@pytest.fixture(autouse=True)
def kinds() -> Iterator[None]:
    before = dict(REGISTRY._kinds)
    yield
    REGISTRY._kinds.clear()
    REGISTRY._kinds.update(before)
    REFUSED_TASKS.clear()


def make_app(**options: Any) -> Celery:
    return Celery("own", task_cls=Task, set_as_current=False, **options)


@pytest.mark.parametrize(
    "source",
    [DJANGO, vars(DJANGO), "tests.unit.test_celery_settings:DJANGO"],
    ids=["object", "mapping", "name"],
)
def test_a_settings_object_with_a_namespace(source: Any) -> None:
    app = make_app()
    use_settings(app, source, namespace="CELERY")
    assert is_on_ledger(app)
    assert (app.conf.task_default_queue, app.conf.task_routes) == ("email", {"own.*": {"queue": "video"}})
    assert app.conf.result_backend == "workers.celery.backend:LedgerBackend", "the ledger decides it"
    assert app.conf.task_serializer == "json"


def test_a_settings_module_in_lower_case() -> None:
    app = make_app()
    use_settings(app, SimpleNamespace(task_default_queue="video", timezone="Europe/Berlin", helper=lambda: 1))
    assert (app.conf.task_default_queue, app.conf.timezone) == ("video", "Europe/Berlin")


def test_a_missing_settings_object_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'no.such:settings' can't be imported.* Expected a module"):
        use_settings(make_app(), "no.such:settings")


def test_a_task_that_can_not_be_a_kind_is_refused_without_affecting_others() -> None:
    app = make_app()
    app.config_from_object("workers.celery.config")
    app.conf.update(task_default_queue="video")

    @app.task(name="own:with/colon@1")
    def fine() -> None: ...

    @app.task(name="own task")
    def blank() -> None: ...

    @app.task(name="own.day", time_limit=24 * 3600)
    def day() -> None: ...

    app.finalize()
    assert "own:with/colon@1" in REGISTRY
    assert "own task" not in REGISTRY and "own.day" not in REGISTRY
    assert "'own task': expected 1 to 200 letters" in REFUSED_TASKS["own task"]
    assert "expected hard_limit_seconds of at most 82800 (23 h), got 86400" in REFUSED_TASKS["own.day"]


def test_purge_says_what_to_do_instead() -> None:
    app = make_app()
    app.config_from_object("workers.celery.config")
    with pytest.raises(NotImplementedError, match="the ledger would send these jobs again; cancel them instead"):
        app.control.purge()
