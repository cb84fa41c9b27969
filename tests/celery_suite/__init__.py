"""Celery's own integration tests against the platform: `make celery-suite`."""
