"""Handlers: the built-in kinds (`builtin` registers them), and the platform's own jobs. Nothing here imports Celery."""
