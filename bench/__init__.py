"""Benchmarks side by side with bare Celery: `make bench`."""
