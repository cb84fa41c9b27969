"""`jobplatform states`: the state machine as a diagram."""

from __future__ import annotations

import click


@click.command()
def states() -> None:
    """Print the state machine as a Mermaid diagram, drawn from the one transition table."""
    click.echo(diagram())


def diagram() -> str:
    """Return the Mermaid text of docs/concepts/state-machine.md; a test compares the two."""
    from jobplatform.domain.states import FINAL, TRANSITIONS, State

    arrows: dict[tuple[State | None, State], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        for state in after:
            arrows.setdefault((before, state), []).append(event.value)
    order = [None, *State]  # sets have no order of their own
    lines = ["stateDiagram-v2"]
    for before, state in sorted(arrows, key=lambda pair: (order.index(pair[0]), order.index(pair[1]))):
        events = ", ".join(sorted(arrows[before, state]))
        lines.append(f"    {before.value if before else '[*]'} --> {state.value}: {events}")
    lines += [f"    {state.value} --> [*]" for state in sorted(FINAL)]
    return "\n".join(lines)
