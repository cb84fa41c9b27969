"""The workers: Celery carries, the ledger decides. `celery -A workers.app worker -Q email` starts one.

Importing this package imports nothing of Celery: the API loads `workers.handlers` to know the kinds.
"""
