"""A run in a worker, from message to settlement: consumer, request, task, attempt, and the handler's context."""
