"""The baseline of accept and read: a bare, tuned Flask app that publishes to Celery, or does one INSERT or one SELECT.

`/delay` publishes with confirms. `/insert` is the minimum that persists a job: one statement, one commit, a pooled
connection. `/read/<id>` is the minimum that reads one: one statement. None has API keys, kinds, schemas, idempotency,
history or counters.
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any

import psycopg2
from flask import Flask, Response, jsonify, request

from bench.bare import noop

app = Flask(__name__)
_local = threading.local()


@app.post("/delay")
def delay() -> Response:
    """Publish a task."""
    body = request.get_json()
    result = noop.delay(body["payload"]["n"])
    return Response(f'{{"id": "{result.id}"}}', 202, mimetype="application/json")


@app.post("/insert")
def insert() -> Response:
    """Insert a job."""
    job_id = str(uuid.uuid4())
    request.get_json()
    with _connection().cursor() as cursor:
        cursor.execute(
            "INSERT INTO bare_jobs (id, payload, created_at) VALUES (%s, %s, now())",
            (job_id, request.get_data(as_text=True)),
        )
    return Response(f'{{"id": "{job_id}"}}', 202, mimetype="application/json")


@app.get("/read/<uuid:job_id>")
def read(job_id: uuid.UUID) -> Response:
    """Read a job."""
    with _connection().cursor() as cursor:
        cursor.execute("SELECT id::text, payload, created_at::text FROM bare_jobs WHERE id = %s", (str(job_id),))
        found_id, payload, created_at = cursor.fetchone()
    return jsonify(id=found_id, payload=payload, created_at=created_at)


def _connection() -> Any:
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = psycopg2.connect(os.environ["BARE_DATABASE_URL"])
        connection.autocommit = True
    return connection
