"""Checks of RabbitMQ: reachable, without alarms, with the topology that this version declares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, build_opener

from jobplatform.broker.connection import connected, server_version
from jobplatform.broker.declare import count_ready, epoch_continues, queue_exists
from jobplatform.broker.topology import Topology, build_topology, choose_queue_type
from jobplatform.config import Settings
from jobplatform.doctor.finding import Finding, failed, ok, warning
from jobplatform.errors import BrokerUnavailable, LedgerUnavailable
from jobplatform.ledger.dispatching import current_epoch
from jobplatform.ledger.session import Ledger
from jobplatform.ledger.workers import live_slots

APPLY = "jobplatform broker apply"


def check_broker(ledger: Ledger | None, config: Settings) -> Iterator[Finding]:
    """Yield findings on RabbitMQ; only the first when it is not reachable. `ledger` None: it is not reachable."""
    url = config.broker_url.get_secret_value()
    try:
        with connected(url, name="jobplatform doctor") as connection:
            version = server_version(connection)
            kind = choose_queue_type(config.queue_type, version)
            yield ok("rabbitmq", f"version {version} answers; queues of jobs are {kind}")
            topology = build_topology(config.queues, kind)
            missing = [queue.name for queue in topology.queues if not queue_exists(connection, queue.name)]
            if ledger is not None:
                yield from _epoch(connection, ledger, config.queue_type)
            records = count_ready(connection, "jobs.dead.records") or 0
    except BrokerUnavailable as error:
        yield failed("rabbitmq", str(error), "start RabbitMQ, or mend JOBPLATFORM_BROKER_URL")
        return
    if missing:
        yield failed("topology", f"queues are missing: {', '.join(missing)}", APPLY)
    if records > 1000:
        yield warning(
            "dead messages", f"{records:,} wait for the recorder: does a dispatcher run?", "jobplatform dispatch"
        )
    if config.management_url is None:
        yield warning(
            "management",
            "JOBPLATFORM_MANAGEMENT_URL is not set: alarms and the arguments of queues were not looked at",
            "set it to http://user@host:15672",
        )
        return
    try:
        workers = _workers(ledger, config) if ledger is not None else {}
        yield from _managed(config.management_url.get_secret_value(), url, topology, set(missing), workers)
    except (URLError, OSError, ValueError) as error:
        yield warning(
            "management", f"RabbitMQ's management API can't be read: {error}", "mend JOBPLATFORM_MANAGEMENT_URL"
        )


def _epoch(connection: Any, ledger: Ledger, queue_type: str) -> Iterator[Finding]:
    try:
        with ledger.statement() as session:
            epoch = current_epoch(session)
    except LedgerUnavailable:
        return
    if epoch is None:
        yield warning("epoch", "the ledger has none yet: a dispatcher makes the first one", "jobplatform dispatch")
    elif epoch_continues(connection, epoch, queue_type):
        yield ok("epoch", "the sentinel is there: RabbitMQ has lost no messages since it was declared")
    else:
        yield failed(
            "epoch",
            "the sentinel is gone: RabbitMQ was restarted or wiped, or is another one; a dispatcher detects it",
            "jobplatform dispatch",
        )


def _workers(ledger: Ledger, config: Settings) -> dict[str, int]:
    """Return queue → number of live workers that report to consume it."""
    try:
        with ledger.statement() as session:
            return {name: workers for name, (_, workers) in live_slots(session, config.lease_seconds).items()}
    except LedgerUnavailable:
        return {}


def _managed(
    management: str, broker: str, topology: Topology, missing: set[str], workers: Mapping[str, int]
) -> Iterator[Finding]:
    nodes = _read(management, "/api/nodes")
    alarms = [
        f"{name} on {node.get('name')}"
        for node in nodes
        for field, name in (("mem_alarm", "memory"), ("disk_free_alarm", "disk"))
        if node.get(field)
    ]
    if alarms:
        yield failed("alarms", f"RabbitMQ blocks publishers: {', '.join(alarms)}", "free memory or disk of that node")
    else:
        yield ok("alarms", f"none on {len(nodes)} nodes")
    vhost = unquote(urlsplit(broker).path.lstrip("/")) or "/"
    stand = {queue["name"]: queue for queue in _read(management, f"/api/queues/{quote(vhost, safe='')}")}
    yield from _consumers(stand, workers)
    yield from _policies(stand, topology)
    wrong = []
    for queue in topology.queues:
        if queue.name in missing or queue.name not in stand:
            continue
        has = dict(stand[queue.name].get("arguments") or {})
        wanted = {"x-queue-type": "classic", **queue.arguments}
        has.setdefault("x-queue-type", str(stand[queue.name].get("type", "classic")))
        differs = sorted(name for name in {*has, *wanted} if has.get(name) != wanted.get(name))
        if differs:
            differences = ", ".join(f"{name} is {has.get(name)!r}, expected {wanted.get(name)!r}" for name in differs)
            wrong.append(f"{queue.name} ({differences})")
    if wrong:
        yield failed(
            "topology", f"queues stand with other arguments: {'; '.join(wrong)}", f"drain and delete them, then {APPLY}"
        )
    elif not missing:
        yield ok("topology", f"{len(topology.queues)} queues as declared, each with its dead-letter exchange")


def _consumers(stand: Mapping[str, Any], workers: Mapping[str, int]) -> Iterator[Finding]:
    """Compare workers with RabbitMQ's consumers: a worker that reconnects forever is alive but consumes nothing."""
    short = [
        f"{name}: {count} workers say that they consume it, RabbitMQ has {stand[name].get('consumers', 0)} consumers"
        for name, count in sorted(workers.items())
        if name in stand and int(stand[name].get("consumers", 0)) < count
    ]
    if short:
        yield failed("consumers", "; ".join(short), "look for broker_unavailable in the workers' logs; restart them")
    elif workers:
        yield ok("consumers", "RabbitMQ has a consumer for each queue of each live worker")


#: what a policy must not set: it would override the queue's arguments, and messages would be dropped
_DANGEROUS = frozenset(
    ("max-length", "max-length-bytes", "message-ttl", "expires", "overflow", "dead-letter-exchange", "delivery-limit")
)


def _policies(stand: Mapping[str, Any], topology: Topology) -> Iterator[Finding]:
    """Find policies that override the declared arguments of queues."""
    result = []
    for queue in topology.queues:
        effective = (stand.get(queue.name) or {}).get("effective_policy_definition") or {}
        own = {name.removeprefix("x-"): value for name, value in queue.arguments.items()}
        changed = sorted(name for name, value in effective.items() if name in _DANGEROUS and own.get(name) != value)
        if changed:
            policy = stand[queue.name].get("policy") or stand[queue.name].get("operator_policy")
            differences = ", ".join(f"{name}={effective[name]}" for name in changed)
            result.append(f"{queue.name} ({differences}, by policy {policy!r})")
    if result:
        yield failed(
            "policies",
            f"policies change what queues do with messages: {'; '.join(result)}",
            "rabbitmqctl clear_policy (or clear_operator_policy), or narrow its pattern",
        )


def _read(management: str, path: str) -> Any:
    parts = urlsplit(management)
    address = f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}{parts.path.rstrip('/')}"
    passwords = HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, address, unquote(parts.username or "guest"), unquote(parts.password or "guest"))
    with build_opener(HTTPBasicAuthHandler(passwords)).open(address + path, timeout=5) as answer:
        return json.load(answer)
