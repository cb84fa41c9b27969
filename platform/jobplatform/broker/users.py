"""Who may do what in RabbitMQ: one user per role, with the least rights its work needs (the three regular expressions
of https://www.rabbitmq.com/docs/access-control).

| role | does | may |
|---|---|---|
| operator | `jobplatform broker apply`, RabbitMQ's page | everything |
| dispatcher | publishes jobs, keeps the sentinel; dead messages; submissions | write `jobs`, replies; read two |
| worker | consumes job queues, answers Celery's remote control | read all but `jobs*`; Celery's own queues |
| monitor | Flower, and people who look | Celery's events and control; read RabbitMQ's page |
"""

from __future__ import annotations

from dataclasses import dataclass

NOTHING, EVERYTHING = "^$", ".*"
#: Celery's events, its control queues and the replies to them
_CELERY = r"^(celeryev(\..*)?|(.*\.|reply\.)?celery\.pidbox)$"


@dataclass(frozen=True)
class Role:
    """A user of the platform: its name is its role."""

    name: str
    tags: tuple[str, ...]
    configure: str
    write: str
    read: str


ROLES = (
    Role("operator", ("administrator",), EVERYTHING, EVERYTHING, EVERYTHING),
    Role("dispatcher", (), r"^jobs\.epoch\..*$", r"^(jobs|amq\.default)$", r"^jobs\.(dead\.records|submit)$"),
    # queues have no dots in their names, and a new one must not need new rights
    Role("worker", (), _CELERY, _CELERY, r"^(?!jobs(\.|$)).*$"),
    Role("monitor", ("monitoring",), _CELERY, _CELERY, _CELERY),
)
