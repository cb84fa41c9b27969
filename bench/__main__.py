"""`make bench`: the platform compared with bare Celery, and with itself on a big ledger; medians as table and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import orjson
from rich.console import Console

from bench import (
    accept,
    batches,
    chart,
    conditions,
    cost,
    dispatch,
    idle,
    publish,
    scale,
    schedules,
    shares,
    streams,
    workflows,
)
from bench.drain import Condition, accept_to_start, drain, quiet, share
from bench.figures import Figures
from bench.sides import Bare, Ours, Pool, queue_setting
from jobplatform.devstack import postgres
from jobplatform.devstack.instance import CHECKOUT, taken
from jobplatform.devstack.stack import Stack, new_stack
from jobplatform.devstack.system import require_programs

POOLS = (Pool("prefork", 2), Pool("threads", 8))
#: part → title of its drain, and the condition
CONDITIONS: dict[str, tuple[str, Condition]] = {
    "busy": (f"drain beside {conditions.BUSY_PROCESSES} busy processes", conditions.busy),
    "delay": (f"drain with {1000 * conditions.DELAY_SECONDS:.0f} ms to each server", conditions.delayed),
}
#: the drain's targets ÷ bare Celery, by title and pool
DRAIN_GOALS = {
    "drain, prefork 2": 2.2,
    "drain, threads 8": 18.0,
    **{f"{title}, prefork 2": 1.7 for title, _ in CONDITIONS.values()},
}
#: children of a fan-out, steps of a chain
CHILDREN, CHAIN = 1000, 100
PARTS = (
    *(
        "drain",
        "busy",
        "delay",
        "start",
        "accept",
        "read",
        "batch",
        "streams",
        "dispatch",
        "workflows",
        "schedules",
        "shares",
        "idle",
        "cost",
    ),
    "scale",
)
#: parts that need wrk
WRK_PARTS = {"accept", "read", "streams", "scale"}
#: jobs handed over in batches, and tasks published one by one
BATCHED, PUBLISHED = 20_000, 2000
STREAMS = 500
CONFIRMS = "batched confirms alone"


def main() -> None:
    """Run the selected parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=6000, help="jobs per drain")
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    parser.add_argument("--rows", type=int, default=1_000_000, help="jobs of the big ledger")
    parser.add_argument("--json", type=Path, default=CHECKOUT / "bench" / "results" / "latest.json")
    parser.add_argument("--check", type=Path, help="fail when a ratio is below 80 % of the one in this file (JSON)")
    options = parser.parse_args()
    console = Console()
    figures = Figures()
    if WRK_PARTS & set(options.only):
        require_programs("wrk")
    with taken("bench"):
        extra = {
            "JOBPLATFORM_KIND_MODULES": "bench.kinds",
            "JOBPLATFORM_QUEUES": queue_setting("prefork"),
            "JOBPLATFORM_LOG_LEVEL": "warning",
            "JOBPLATFORM_BUILTIN_SCHEDULES": "false",
            "PYTHONPATH": str(CHECKOUT),
        }
        echo: Callable[[str], None] = lambda line: console.print(f"[dim]{line}[/]")  # noqa: E731 - used as a value
        stack = new_stack("bench", echo=echo, extra=extra)
        try:
            stack.start_servers()
            postgres.create_database(stack.instance, "bare")
            measure(stack, figures, options, echo)
        finally:  # report the figures so far, even when a later part fails or the run is interrupted
            _judge(figures)
            report(figures, console, options.json)
            stack.stop(gently=False)
            stack.forget()
    if options.check is not None:
        regressions = figures.regressions(orjson.loads(options.check.read_bytes()))
        raise SystemExit("\n".join(regressions) if regressions else 0)


def report(figures: Figures, console: Console, file: Path) -> None:
    """Print the figures and write them as JSON; nothing is written before the first one."""
    if figures.is_empty:
        return
    figures.show(console)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(figures.as_dict(), option=orjson.OPT_INDENT_2))
    console.print(f"JSON: {file}")


def measure(stack: Stack, figures: Figures, options: argparse.Namespace, echo: Callable[[str], None]) -> None:
    """Measure part by part; within a round the sides take turns, so that a noisy minute hits both."""
    ours, bare = Ours(stack), Bare(stack)
    bare.submit()  # declares its queue
    accept.prepare(bare)
    rounds = {
        "drain": partial(_drain, figures, ours, bare, options),
        **{part: partial(_drain, figures, ours, bare, options, *CONDITIONS[part], POOLS[:1]) for part in CONDITIONS},
        "start": partial(_start, figures, ours, bare, options),
        "accept": partial(_accept, figures, stack, ours, bare, options),
        "read": partial(_read, figures, stack, ours, bare, options),
        "batch": partial(_batch, figures, stack, ours, bare),
        "streams": partial(_streams, figures, stack, ours, options),
        "dispatch": partial(_dispatch, figures, stack, ours),
        "workflows": partial(_workflows, figures, ours, bare),
    }
    for number in range(options.rounds):
        for part, play in rounds.items():
            if part in options.only:
                echo(f"round {number + 1} of {options.rounds}: {part} …")
                play()
    if "schedules" in options.only:
        echo("10,000 schedules due in a minute, one of two dispatchers killed …")
        late = schedules.measure(stack, ours, 10_000)
        figures.tables["10,000 schedules due in a minute: seconds late"] = [late]
        figures.goal("schedules, p99 late", late["p99"], 1.0, unit="s", at_most=True)
        figures.goal("schedules, fired once", min(late["fires"], 20_000 - late["jobs"]), 10_000, unit="of 10,000")
    if "shares" in options.only:
        _shares(figures, ours, echo)
    if "idle" in options.only:
        echo("idle …")
        used = idle.measure(stack, 20)
        figures.tables["idle: percent of one core"] = [{"process": k, "percent": v} for k, v in used.items()]
        figures.goal("idle stack: API, dispatcher, 4 workers", used["all"], 3.0, unit="% of a core", at_most=True)
    if "cost" in options.only:
        echo("cost per job …")
        figures.tables["cost per job"] = [cost.measure(stack, side, 1000) for side in (ours, bare)]
    for number in range(options.rounds if "scale" in options.only else 0):
        echo(f"round {number + 1} of {options.rounds}: big ledger …")
        for work, by in scale.measure(stack, ours, bare, echo, options.rows, number).items():
            for ledger, value in by.items():
                figures.add(work, f"{ledger} ledger", value)


def _drain(
    figures: Figures,
    ours: Ours,
    bare: Bare,
    options: argparse.Namespace,
    title: str = "drain",
    condition: Condition = quiet,
    pools: Sequence[Pool] = POOLS,
) -> None:
    for pool in pools:
        for side in (ours, bare):
            figures.add(f"{title}, {pool} (jobs/s)", side.name, drain(side, pool, options.jobs, condition))


def _start(figures: Figures, ours: Ours, bare: Bare, options: argparse.Namespace) -> None:
    for side in (ours, bare):
        times = accept_to_start(side, 100, 2 * options.seconds)
        figures.add("accept → started at 100/s, p50 (ms)", side.name, share(times, 0.5))
        figures.add("accept → started at 100/s, p99 (ms)", side.name, share(times, 0.99))


def _accept(figures: Figures, stack: Stack, ours: Ours, bare: Bare, options: argparse.Namespace) -> None:
    for app in accept.APPS:
        result = accept.measure(stack, ours, bare, app, options.seconds)
        figures.add("accept, 16 clients (req/s)", app, result.per_second)
        figures.add("accept, 16 clients, p99 (ms)", app, result.p99_ms)
    ours.clear()


def _read(figures: Figures, stack: Stack, ours: Ours, bare: Bare, options: argparse.Namespace) -> None:
    for side, result in accept.measure_reads(stack, ours, bare, options.seconds).items():
        figures.add("read a job, 16 clients (req/s)", side, result.per_second)
        figures.add("read a job, 16 clients, p99 (ms)", side, result.p99_ms)


def _batch(figures: Figures, stack: Stack, ours: Ours, bare: Bare) -> None:
    figures.add("jobs handed over by one process (jobs/s)", ours.name, batches.measure_ours(stack, ours, BATCHED))
    figures.add("jobs handed over by one process (jobs/s)", bare.name, batches.measure_bare(stack, bare, PUBLISHED))


def _streams(figures: Figures, stack: Stack, ours: Ours, options: argparse.Namespace) -> None:
    for work, by in streams.measure(stack, ours, STREAMS, options.seconds).items():
        for case, value in by.items():
            figures.add(work, case, value)


def _dispatch(figures: Figures, stack: Stack, ours: Ours) -> None:
    ours.clear()
    ours.load(20_000)
    figures.add("dispatch, one dispatcher (jobs/s)", ours.name, dispatch.measure(stack, ours, 20_000))
    figures.add("dispatch, one dispatcher (jobs/s)", CONFIRMS, publish.measure(stack, 20_000))
    ours.clear()


def _workflows(figures: Figures, ours: Ours, bare: Bare) -> None:
    for side in (ours, bare):
        fan, link = workflows.measure(side, Pool("prefork", 2), CHILDREN, CHAIN)
        figures.add(f"fan-out and fan-in of {CHILDREN:,} (s)", side.name, fan)
        figures.add(f"chain of {CHAIN} (ms per step)", side.name, link)
    ours.clear()


def _shares(figures: Figures, ours: Ours, echo: Callable[[str], None]) -> None:
    rows = shares.measure(ours, echo)
    figures.tables[chart.TABLE] = rows
    plain, _, limited = (
        {row["jobs waiting"]: row for row in rows if row["waiting jobs"] == c.name} for c in shares.CASES
    )
    few, many = min(plain), max(plain)
    figures.goal("dispatch with 50 limit keys ÷ without", limited[many]["jobs/s"] / plain[many]["jobs/s"], 0.5)
    for case in shares.CASES:
        by = {row["jobs waiting"]: row["ms per round"] for row in rows if row["waiting jobs"] == case.name}
        what = f"round with {many:,} waiting ÷ {few:,}: {case.name}"
        figures.goal(what, by[many] / by[few], 1.5, at_most=True)


def _judge(figures: Figures) -> None:
    """Compare the medians with the goals, for everything that was measured."""
    for what, limit in DRAIN_GOALS.items():
        figures.ratio_goal(f"{what} ÷ bare Celery", f"{what} (jobs/s)", Ours.name, Bare.name, limit)
    for name, limit in (("p50", 2.5), ("p99", 6.0)):
        work = f"accept → started at 100/s, {name} (ms)"
        if Ours.name in figures.all.get(work, {}):
            figures.goal(work, figures.median(work, Ours.name), limit, unit="ms", at_most=True)
    for what, mine, theirs, limit in accept.PAIRS:
        figures.ratio_goal(what, "accept, 16 clients (req/s)", mine, theirs, limit)
    for side, limit in accept.READ_GOALS.items():
        what = f"{side}: read ÷ bare Flask with one SELECT"
        figures.ratio_goal(what, "read a job, 16 clients (req/s)", side, accept.BARE_READ, limit)
    work = "jobs handed over by one process (jobs/s)"
    figures.ratio_goal("batches ÷ Celery's confirmed publish, one process each", work, Ours.name, Bare.name, 20.0)
    for work in ("accept beside streams (req/s)", "status read beside streams (req/s)"):
        what = f"{work.removesuffix(' (req/s)')}: {STREAMS} ÷ none"
        figures.ratio_goal(what, work, f"{STREAMS} streams", "no stream", 0.9)
    work = f"fan-out and fan-in of {CHILDREN:,} (s)"
    figures.ratio_goal(f"bare Celery's chord ÷ fan-out and fan-in of {CHILDREN:,}", work, Bare.name, Ours.name, 5.0)
    work = f"chain of {CHAIN} (ms per step)"
    if Ours.name in figures.all.get(work, {}):
        what = f"chain of {CHAIN}, per step"
        figures.goal(what, figures.median(work, Ours.name), 6.0, unit="ms", at_most=True)
    work = "dispatch, one dispatcher (jobs/s)"
    figures.ratio_goal("dispatch, one dispatcher ÷ batched confirms alone", work, Ours.name, CONFIRMS, 0.8)
    for work, sides in figures.all.items():
        for side in sides if work.startswith("big ledger") else ():
            if side != "empty ledger":
                what = f"{work}, {side.removesuffix(' ledger')} ÷ empty"
                figures.ratio_goal(what, work, side, "empty ledger", 0.8)


if __name__ == "__main__":
    main()
