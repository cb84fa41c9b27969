"""An app's own settings object in addition to the ledger's config object, for example Django's with a namespace."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from celery import Celery

from jobplatform.errors import ConfigurationError
from jobplatform.observe.logs import get_log

log = get_log(__name__)

CONFIG = "workers.celery.config"
#: settings of the config object that an app may set for itself
_FREE = frozenset(("task_default_queue", "worker_send_task_events", "enable_utc"))


def use_settings(app: Celery, source: Any, namespace: str | None = None) -> None:
    """Give an app the ledger's config object and the settings of an object of its own.

    `source`: an object, a mapping, or its name like "django.conf:settings". `namespace`: the prefix of its names,
    as in `config_from_object`; without one lower-case names are read. What the ledger decides (broker, result backend,
    acknowledgement, serializers, the scheduler of beat) is left out, and logged by name.
    Raises `ConfigurationError` when the object can't be imported.
    """
    settings = dict(_read(source, namespace))
    config = importlib.import_module(CONFIG)
    decided = {name for name in vars(config) if name.islower() and not name.startswith("_")} - _FREE
    left_out = sorted(set(settings) & decided)
    if left_out:
        log.info("celery_settings_left_out", settings=left_out, reason="the ledger decides them")
    app.config_from_object(CONFIG)
    app.conf.update({name: value for name, value in settings.items() if name not in decided})


def _read(source: Any, namespace: str | None) -> Mapping[str, Any]:
    """Return Celery's settings of an object, by their lower-case names."""
    if isinstance(source, str):
        source = _import(source)
    prefix = f"{namespace}_" if namespace else ""
    names = list(source) if isinstance(source, Mapping) else dir(source)
    wanted = [name for name in names if name.startswith(prefix)] if prefix else [n for n in names if n.islower()]
    wanted = [name for name in wanted if not name.startswith("_") and name != prefix]
    read = source.__getitem__ if isinstance(source, Mapping) else lambda name: getattr(source, name)
    result = {name.removeprefix(prefix).lower(): read(name) for name in wanted}
    return {name: value for name, value in result.items() if prefix or not callable(value)}


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        result = importlib.import_module(module)
        return getattr(result, attribute) if attribute else result
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the settings object {name!r} can't be imported: {error}. Expected a module, or module:name"
        ) from error
