"""The workers: Celery runs what the ledger decides. `celery -A workers.app worker -Q email` starts one.

Importing this package does not import Celery: the API loads `workers.handlers` to know the kinds.
"""
