"""Liveness of a worker: registration, heartbeat, stopping of runs, watchdog, memory, clean-up."""
