"""The app that Flower runs with: the platform's, and Flower's metrics behind its login.

Flower serves `/metrics` to anybody: the names of kinds, workers and queues, and how busy they are.
"""

from __future__ import annotations

from flower.views import monitor
from tornado import web

from workers.app import app

__all__ = ["app"]

monitor.Metrics.get = web.authenticated(monitor.Metrics.get)
