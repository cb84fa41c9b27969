"""`make bench`: drain rate and accept-to-start time of both sides, three rounds, medians, a table and JSON."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.sides import Bare, Ours, Pool, queue_setting, wait_done
from jobplatform.devstack import postgres
from jobplatform.devstack.place import CHECKOUT, open_place, taken
from jobplatform.devstack.stack import Stack

POOLS = (Pool("prefork", 2), Pool("threads", 8))
WARM_UP = 50


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2000, help="jobs per drain")
    parser.add_argument("--rate", type=float, default=100, help="jobs per second for accept-to-start")
    parser.add_argument("--seconds", type=float, default=10, help="how long to submit for accept-to-start")
    parser.add_argument("--json", type=Path, default=CHECKOUT / "bench" / "results" / "latest.json")
    options = parser.parse_args()
    console = Console()
    with taken("bench"):
        extra = {
            "JOBPLATFORM_KIND_MODULES": "bench.kinds",
            "JOBPLATFORM_QUEUES": queue_setting("prefork"),
            "JOBPLATFORM_LOG_LEVEL": "warning",
            "PYTHONPATH": str(CHECKOUT),
        }
        stack = Stack(open_place("bench"), tell=lambda line: console.print(f"[dim]{line}[/]"), extra=extra)
        try:
            stack.start_servers()
            postgres.create_database(stack.place, "bare")
            found = measure(console, stack, options)
        finally:
            stack.stop(gently=False)
            stack.forget()
    show(console, found)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    console.print(f"JSON: {options.json}")


def measure(console: Console, stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """Return work → side → median, of all rounds; the sides take turns, so that a noisy minute hits both."""
    sides = (Ours(stack), Bare(stack))
    figures: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds):
        for pool in POOLS:
            for side in sides:
                console.print(f"[dim]round {number + 1} of {options.rounds}: drain, {pool}, {side.name} …[/]")
                rate = drain(side, pool, options.jobs)
                figures.setdefault(f"drain of no-op jobs, {pool} (jobs/s)", {}).setdefault(side.name, []).append(rate)
        for side in sides:
            console.print(f"[dim]round {number + 1} of {options.rounds}: accept to start, {side.name} …[/]")
            seconds = accept_to_start(side, options.rate, options.seconds)
            for name, share in (("p50", 0.50), ("p99", 0.99)):
                work = f"accept → started at {options.rate:.0f} jobs/s, {name} (ms)"
                value = 1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))]
                figures.setdefault(work, {}).setdefault(side.name, []).append(value)
    medians = {work: {name: statistics.median(all_) for name, all_ in by.items()} for work, by in figures.items()}
    return {"rounds": options.rounds, "jobs": options.jobs, "medians": medians, "all": figures}


def drain(side: Ours | Bare, pool: Pool, jobs: int) -> float:
    """Load jobs, then start a worker; returns jobs per second from the first end to the last."""
    side.clear()
    side.load(jobs)
    with side.workers(pool):
        wait_done(side, jobs)
        return side.drain_rate()


def accept_to_start(side: Ours | Bare, rate: float, seconds: float) -> list[float]:
    """Submit at a steady rate to a warm worker; returns the sorted seconds from call to start."""
    side.clear()
    count = int(rate * seconds)
    with side.workers(Pool("prefork", 2)):
        side.load(WARM_UP)
        wait_done(side, WARM_UP)
        side.clear()
        began = time.monotonic()
        for n in range(count):
            pause = began + n / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            side.submit_timed()
        wait_done(side, count)
        return sorted(side.start_seconds())


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the table: figures of this run, and their ratio."""
    table = Table(title=f"medians of {found['rounds']} rounds, {found['jobs']} jobs per drain", title_justify="left")
    table.add_column("work")
    for name in (Ours.name, Bare.name, "ratio"):
        table.add_column(name, justify="right")
    for work, by in found["medians"].items():
        ours, bare = by[Ours.name], by[Bare.name]
        table.add_row(work, f"{ours:,.1f}", f"{bare:,.1f}", f"{ours / bare:.2f}×")
    console.print(table)


if __name__ == "__main__":
    main()
