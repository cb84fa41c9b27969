"""Users and permissions in RabbitMQ: one user per role, with least privileges (the three regular expressions
of https://www.rabbitmq.com/docs/access-control).

| role | does | may |
|---|---|---|
| operator | `jobplatform broker apply`, RabbitMQ's management page | everything |
| dispatcher | publishes jobs, keeps the sentinel; dead messages; submissions | write `jobs`, replies; read two |
| worker | consumes job queues, answers Celery's remote control | read all but `jobs*`; Celery's own queues |
| monitor | Flower, and monitoring by people | Celery's events and control; read RabbitMQ's management page |
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
    # names of queues have no dots, and a new queue must not need new permissions
    Role("worker", (), _CELERY, _CELERY, r"^(?!jobs(\.|$)).*$"),
    Role("monitor", ("monitoring",), _CELERY, _CELERY, _CELERY),
)
