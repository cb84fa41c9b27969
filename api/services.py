"""The dependencies of the endpoints, one set per process."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Semaphore

from flask import current_app

from jobplatform.config import Settings
from jobplatform.domain.kinds import KindRegistry
from jobplatform.ledger.hints import HintSender
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.store_artifacts import ArtifactStore


@dataclass(frozen=True)
class Services:
    """The dependencies of the endpoints, one set per process."""

    settings: Settings
    ledger: Ledger
    hints: HintSender
    kinds: KindRegistry
    store: ArtifactStore
    #: semaphore of waits that hold a thread, if the server can't park them; further ones are answered at once
    blocking_waits: Semaphore


def services() -> Services:
    """Return the services of the current request's application."""
    result: Services = current_app.extensions["services"]
    return result
