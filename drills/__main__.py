"""`python -m drills`: run fault drills one after the other on one stack, and print the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from drills.drill import Outcome, play
from drills.faults import FAULTS, CanNotBeDone
from drills.sink import Sink
from drills.world import World
from jobplatform.devstack.instance import taken
from jobplatform.devstack.processes import DidNotStart

COLUMNS = {
    "fault": "fault",
    "hits": "effect of the fault",
    "accepted": "accepted",
    "lost": "lost",
    "twice_plain": "ran twice, plain",
    "twice_journaled": "twice, journaled",
    "held": "held",
    "dead": "healthy jobs dead",
    "cut": "runs cut",
    "above_limit": "above the limit",
    "refused": "refused",
    "unknown": "outcome unknown",
    "unexplained": "unexplained",
    "recovery_seconds": "recovery, s",
    "audit": "audit",
}


def main() -> None:
    """Parse the arguments, run the drills, print the table; exit 1 when a drill fails."""
    parser = argparse.ArgumentParser(prog="drills", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), help="run only these faults")
    parser.add_argument("--size", type=float, default=1.0, help="length of the faults; tests use 0.1")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/operations/drills.md")
    options = parser.parse_args()
    console, sink, outcomes, broken = Console(stderr=True), Sink(), [], []
    with taken("drills"):
        world = World(console.print, sink)
        try:
            world.start()
            for name in options.only or FAULTS:
                console.print(f"{FAULTS[name].name} …")
                try:
                    outcomes.append(play(world, FAULTS[name], options.size))
                except CanNotBeDone as error:
                    console.print(f"[yellow]skipped:[/] {error}")
                    continue
                except (AssertionError, DidNotStart, OSError) as error:
                    console.print(f"[red]aborted:[/] {error}")
                    broken.append(name)
                    continue
                console.print(f"  {outcomes[-1]}", highlight=False)
                for wrong in outcomes[-1].wrong:
                    console.print(f"  [red]{wrong}[/]")
        finally:
            world.stop()
            sink.close()
    if options.json:
        options.json.write_bytes(orjson.dumps([outcome.as_dict() for outcome in outcomes], option=orjson.OPT_INDENT_2))
    if options.markdown:
        print(markdown(outcomes))
    else:
        Console(width=180).print(table(outcomes))
    sys.exit(1 if broken or any(outcome.wrong for outcome in outcomes) else 0)


def cells(outcome: Outcome) -> list[str]:
    """Return the cells of an outcome's row."""
    result = {**outcome.as_dict(), "hits": ", ".join(f"{count} {name}" for name, count in outcome.hits.items())}
    return [str(result[name]) for name in COLUMNS]


def table(outcomes: list[Outcome]) -> Table:
    """Return the table."""
    result = Table(*COLUMNS.values())
    for outcome in outcomes:
        result.add_row(*cells(outcome), style="red" if outcome.wrong else "")
    return result


def markdown(outcomes: list[Outcome]) -> str:
    """Return the table as Markdown."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(outcome)) + " |" for outcome in outcomes]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
