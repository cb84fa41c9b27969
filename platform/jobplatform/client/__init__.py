"""The Python client of the HTTP API, sync and async (docs/howto/python-client.md)::

    from jobplatform.client import Client

    with Client("http://jobs.internal", key) as jobs:
        job = jobs.submit("email.send", {"to": ["ada@example.com"], "subject": "Hello", "text": "Hello Ada"})
        print(jobs.wait(job.id).result)

It needs httpx2 and no other part of the platform. `submit(session, …)` submits in your own transaction
(docs/howto/own-transaction.md), and needs SQLAlchemy.
"""

from jobplatform.client.asynchronous import AsyncClient
from jobplatform.client.errors import (
    ClientError,
    Conflict,
    Forbidden,
    Invalid,
    JobFailed,
    NoAnswer,
    NotFound,
    Problem,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WaitTimeout,
)
from jobplatform.client.models import Artifact, Job, JobEvent, JobRequest, TenantEvent
from jobplatform.client.sync import Client
from jobplatform.client.transaction import Submitted, submit, submit_async

__all__ = [
    "Artifact",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Invalid",
    "Job",
    "JobEvent",
    "JobFailed",
    "NoAnswer",
    "NotFound",
    "JobRequest",
    "Submitted",
    "Problem",
    "TenantEvent",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WaitTimeout",
    "submit",
    "submit_async",
]
