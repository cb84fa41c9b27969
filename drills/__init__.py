"""Fault drills: real processes, a load, a fault, and the outcome of every job, counted outside the platform.

`make drills` runs all; `python -m drills --help` says how to run some.
"""
