"""What keeps a worker honest while it runs: registration, heartbeat, stopping of runs, watchdog, memory, clean-up."""
