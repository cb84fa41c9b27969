"""Handlers of the built-in kinds (`builtin` registers them) and of the platform's own jobs, without Celery."""
