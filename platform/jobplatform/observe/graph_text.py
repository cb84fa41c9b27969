"""Draw the graph of a workflow as text, a step per line with lanes beside it, like `git log --graph`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: from this number on, similar steps with the same parents and children are one line
STACK_FROM = 4
#: a graph with more lanes is not readable
MOST_LANES = 24

Names = tuple[str, ...]


def draw_lines(graph: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]] | None:
    """Return (lanes, nodes) for each line, top to bottom; no nodes where lanes only merge or fork.

    `graph` has the form of `GET /v1/workflows/{id}/graph`. None: it is too wide to draw.
    """
    stacks, children = _stacked(graph["nodes"], [(str(item["from"]), str(item["to"])) for item in graph["edges"]])
    lines: list[tuple[str, list[Mapping[str, Any]]]] = []
    lanes: list[str | None] = []
    for name in _in_order(stacks, children):
        mine = [position for position, wanted in enumerate(lanes) if wanted == name]
        if not mine:
            mine = [_free(lanes)]
            lanes[mine[0]] = name
        first = mine[0]
        if len(mine) > 1:
            lines.append((_join(lanes, first, mine[1:], "┴╯"), []))
            for position in mine[1:]:
                lanes[position] = None
        row = ["●" if position == first else _lane(wanted) for position, wanted in enumerate(lanes)]
        lines.append((" ".join(row).rstrip(), stacks[name]))
        lanes[first] = None
        # a lane for each successor; the first continues in this one
        opened: list[int] = []
        for child in sorted(children[name]):
            position = first if not opened else _free(lanes)
            lanes[position] = child
            opened.append(position)
        if len(lanes) > MOST_LANES:
            return None
        if len(opened) > 1:
            lines.append((_join(lanes, first, opened[1:], "┬╮"), []))
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines


def _stacked(
    nodes: Sequence[Mapping[str, Any]], edges: Iterable[tuple[str, str]]
) -> tuple[dict[str, list[Mapping[str, Any]]], dict[str, set[str]]]:
    """Return lines by name, each with its similar nodes, and the successors of each."""
    parents: dict[str, set[str]] = defaultdict(set)
    children: dict[str, set[str]] = defaultdict(set)
    for before, after in edges:
        parents[after].add(before)
        children[before].add(after)
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for node in nodes:
        key = str(node["id"])
        alike[frozenset(parents[key]), frozenset(children[key]), node["type"]].append(node)
    line_of: dict[str, str] = {}
    stacks: dict[str, list[Mapping[str, Any]]] = {}
    for group in alike.values():
        for together in [group] if len(group) >= STACK_FROM else [[item] for item in group]:
            name = f"{len(stacks):06}"
            stacks[name] = together
            line_of |= {str(node["id"]): name for node in together}
    leads: dict[str, set[str]] = {
        name: {line_of[child] for node in group for child in children[str(node["id"])] if child in line_of}
        for name, group in stacks.items()
    }
    return stacks, leads


def _in_order(stacks: dict[str, Any], children: Mapping[str, set[str]]) -> Iterable[str]:
    """Yield lines in topological order, depth first."""
    waiting = Counter(child for each in children.values() for child in each)
    ready = [name for name in reversed(stacks) if not waiting[name]]
    while ready:
        name = ready.pop()
        yield name
        for child in sorted(children[name], reverse=True):
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)


def _free(lanes: list[str | None]) -> int:
    """Return an empty lane with no used lane after it, so that lines never cross."""
    while lanes and lanes[-1] is None:
        lanes.pop()
    lanes.append(None)
    return len(lanes) - 1


def _lane(wanted: str | None) -> str:
    return "│" if wanted is not None else " "


def _join(lanes: Sequence[str | None], first: int, others: Sequence[int], turns: str) -> str:
    """Return the line in which lanes merge into the first one, or fork from it."""
    between, last = turns[0], turns[1]
    row = []
    for position, wanted in enumerate(lanes):
        if position == first:
            row.append("├")
        elif position in others:
            row.append(last if position == max(others) else between)
        elif first < position < max(others):
            row.append("┼" if wanted is not None else "─")
        else:
            row.append(_lane(wanted))
    text = ""
    for position, mark in enumerate(row):
        text += mark + ("─" if first <= position < max(others) else " ")
    return text.rstrip()
