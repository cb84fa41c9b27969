"""Benchmarks side by side with a fair, tuned bare Celery app, in one run: `make bench`.

Compare the ratios of a run, never the absolute figures of two: machines differ, and have noisy neighbours.
"""
