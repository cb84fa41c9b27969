"""Callers of the platform: they submit at a rate, repeat refused requests with the same key, and record every 202."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson

CALLERS = 4
#: a caller gives up a submission after this long
PATIENCE_SECONDS = 90.0
SLOW_SECONDS = 2.0
KINDS = ("drill.plain", "drill.journaled")
#: one in this many submissions is a workflow of four steps
WORKFLOW_EVERY = 12


@dataclass
class Accepted:
    """A submission that was answered with 202."""

    job_id: str
    key: str
    kind: str


def _steps(key: str) -> dict[str, str]:
    """Return the steps of a workflow: name → kind. One, then two in parallel, then one."""
    return {f"{key}-{n}": KINDS[n % len(KINDS)] for n in range(4)}


@dataclass
class Load:
    """Submits from several threads until stopped. `refused` and `unknown` count responses: submissions are repeated."""

    url: str
    api_key: str
    sink_url: str
    name: str
    per_second: float
    seconds_each: float = 0.02
    #: jobs, including the steps of workflows
    accepted: list[Accepted] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)
    refused: int = 0
    unknown: int = 0
    #: answers that took longer than `SLOW_SECONDS`
    slow: int = 0
    given_up: list[str] = field(default_factory=list)
    #: unexpected responses: other than 202, 409 or 503
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(CALLERS)]

    def start(self) -> None:
        """Start the callers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the callers; returns when each has received its last response."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, position: int) -> None:
        pause = CALLERS / self.per_second
        due = time.monotonic() + position / self.per_second
        while not self._stop.is_set():
            self.submit()
            due = max(due + pause, time.monotonic() - 1.0)  # no burst after an outage
            self._stop.wait(max(0.0, due - time.monotonic()))

    def submit(self, kind: str | None = None, seconds: float | None = None) -> Accepted | None:
        """Submit one job, or a workflow, and repeat until it is accepted or patience ends.

        `seconds`: how long the job works; the load's own duration when omitted.
        """
        number = next(self._numbers)
        key = f"{self.name}-{number}"
        if kind is None and number % WORKFLOW_EVERY == 0:
            return self._submit_workflow(key)
        kind = kind or KINDS[number % len(KINDS)]
        said = self._post("/v1/jobs", key, self._body(key, kind, seconds))
        if said is None:
            return None
        result = Accepted(said["id"], key, kind)
        with self._lock:
            self.accepted.append(result)
        return result

    def _submit_workflow(self, key: str) -> Accepted | None:
        first, *middle, last = [
            self._body(name, kind) | {"name": name.rpartition("-")[2]} for name, kind in _steps(key).items()
        ]
        said = self._post("/v1/workflows", key, {"flow": {"chain": [first, {"group": middle}, last]}})
        if said is None:
            return None
        made = [Accepted(said["steps"][item.rpartition("-")[2]], item, kind) for item, kind in _steps(key).items()]
        with self._lock:
            self.accepted += made
            self.workflows.append(said["id"])
        return made[0]

    def _body(self, key: str, kind: str, seconds: float | None = None) -> dict[str, Any]:
        work_seconds = self.seconds_each if seconds is None else seconds
        return {"kind": kind, "payload": {"sink": self.sink_url, "key": key, "seconds": work_seconds}}

    def _post(self, path: str, key: str, body: dict[str, Any]) -> Any:
        """Return the body of the 202; None when patience ended or the response was unexpected."""
        data = orjson.dumps(body)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            request = Request(f"{self.url}{path}", data=data, method="POST")
            request.add_header("Authorization", f"Bearer {self.api_key}")
            request.add_header("Content-Type", "application/json")
            request.add_header("Idempotency-Key", key)
            began = time.monotonic()
            try:
                with urlopen(request, timeout=15) as answer:
                    result = orjson.loads(answer.read())
                with self._lock:
                    self.slow += time.monotonic() - began > SLOW_SECONDS
                return result
            except HTTPError as error:
                said = error.read()
                if error.code not in (409, 503):
                    with self._lock:
                        self.wrong.append(f"{error.code}: {said[:200]!r}")
                    return None
                code = orjson.loads(said or b"{}").get("code")
                with self._lock:
                    self.unknown += code == "outcome_unknown"
                    self.refused += code != "outcome_unknown"
            except (OSError, HTTPException):  # no answer at all: the API was killed
                with self._lock:
                    self.unknown += 1
            time.sleep(0.2)
        with self._lock:
            self.given_up.append(key)
        return None
