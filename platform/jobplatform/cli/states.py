"""`jobplatform states`: the state machine as a diagram."""

from __future__ import annotations

import click


@click.command()
def states() -> None:
    """Print the state machine as a Mermaid diagram, drawn from the one transition table."""
    click.echo(diagram())


def diagram() -> str:
    """Return the Mermaid text of docs/concepts/state-machine.md; a test holds the two together."""
    from jobplatform.domain.states import FINAL, TRANSITIONS

    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        for state in sorted(after):
            arrows.setdefault((before.value if before else "[*]", state.value), []).append(event.value)
    lines = ["stateDiagram-v2"]
    lines += [f"    {before} --> {after}: {', '.join(sorted(events))}" for (before, after), events in arrows.items()]
    lines += [f"    {state.value} --> [*]" for state in sorted(FINAL)]
    return "\n".join(lines)
