"""Draw the graph of a workflow as SVG: columns in order of dependency, many similar steps as one stack."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from typing import Any

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")

#: from this number on, similar steps with the same parents and children are drawn as one stack
STACK_FROM = 7
MAX_PLACES = 2000
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, HEAD = 208, 46, 64, 16, 24, 72
#: state → colour group
LOOKS = {
    "succeeded": "good",
    "done": "good",
    "running": "busy",
    "dispatched": "busy",
    "open": "busy",
    "joining": "busy",
    "dead": "bad",
    "failed": "bad",
    "held": "warn",
    "expired": "off",
    "cancelled": "off",
    "discarded": "off",
    "skipped": "off",
}
STYLE = """
svg{font:12px system-ui,sans-serif;background:#fff}.t{fill:#1c2430}.s{fill:#5b6675;font-size:11px}
.b{fill:#f7f8fa;stroke:#c9d0d9}.e{fill:none;stroke:#b3bcc8;stroke-width:1.3}.h{font-size:16px;font-weight:600}
.wait{fill:#c3cad4}.good{fill:#1a8f4c}.busy{fill:#2368d6}.bad{fill:#cc2f2f}.warn{fill:#c77700}.off{fill:#7c8796}
@media(prefers-color-scheme:dark){svg{background:#14181d}.t{fill:#e6e9ee}.s{fill:#9aa5b3}.b{fill:#1d232b;stroke:#3a434e}
.e{stroke:#4b5664}.wait{fill:#4b5664}}
"""


@dataclass
class _Box:
    """One rectangle: a step, or a stack of similar steps; without any, a point that an edge passes through."""

    nodes: list[Mapping[str, Any]]
    column: int = 0
    row: int = 0
    parents: set[int] = field(default_factory=set)
    children: set[int] = field(default_factory=set)

    @property
    def at(self) -> tuple[int, int]:
        return MARGIN + self.column * (WIDTH + GAP_X), HEAD + self.row * (HEIGHT + GAP_Y)


def draw(graph: Mapping[str, Any]) -> str:
    """Return the SVG of a graph in the form of `GET /v1/workflows/{id}/graph`."""
    boxes = _boxes(graph["nodes"], graph["edges"])
    columns = _arrange(boxes)
    rows = max((len(column) for column in columns), default=1)
    width = max(2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X, 2 * MARGIN + 2 * WIDTH)
    height = HEAD + rows * (HEIGHT + GAP_Y) - GAP_Y + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{_safe(_sentence(graph["workflow"]))}"><style>{STYLE}</style>',
        *_head(graph["workflow"], width),
        *(_edge(box, boxes[child]) for box in boxes for child in sorted(box.children)),
        *(_rectangle(box) for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts)


def _boxes(nodes: Sequence[Mapping[str, Any]], edges: Iterable[Mapping[str, str]]) -> list[_Box]:
    parents: dict[str, list[str]] = defaultdict(list)
    children: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        parents[edge["to"]].append(edge["from"])
        children[edge["from"]].append(edge["to"])
    alike: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for node in nodes:
        item = node["id"]
        alike[(node["type"], node["kind"], tuple(parents[item]), tuple(children[item]))].append(node)
    boxes: list[_Box] = []
    for some in alike.values():
        boxes += (
            [_Box(some)] if len(some) >= STACK_FROM and some[0]["type"] == "job" else [_Box([item]) for item in some]
        )
    position = {node["id"]: index for index, box in enumerate(boxes) for node in box.nodes}
    for index, box in enumerate(boxes):
        for node in box.nodes:
            box.parents |= {position[parent] for parent in parents[node["id"]]} - {index}
            box.children |= {position[item] for item in children[node["id"]]} - {index}
    return boxes


def _arrange(boxes: list[_Box]) -> list[list[_Box]]:
    """Give every box its column (after all its predecessors) and its row (near them)."""
    waiting = [len(box.parents) for box in boxes]
    ready = [index for index, count in enumerate(waiting) if not count]
    while ready:
        box = boxes[ready.pop()]
        for child in box.children:
            boxes[child].column = max(boxes[child].column, box.column + 1)
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    _bridge(boxes)
    columns: list[list[_Box]] = [[] for _ in range(max((box.column for box in boxes), default=-1) + 1)]
    for box in boxes:
        columns[box.column].append(box)
    for column in columns:
        column.sort(
            key=lambda box: sum(boxes[parent].row for parent in box.parents) / len(box.parents) if box.parents else 0
        )
        for row, box in enumerate(column):
            box.row = row
    return columns


def _bridge(boxes: list[_Box]) -> None:
    """Route edges that span several columns through points of their own, so that they cross no box; only while few."""
    spans = (boxes[child].column - box.column - 1 for box in boxes for child in box.children)
    if sum(spans) > MAX_PLACES:
        return
    for index in range(len(boxes)):
        for child in sorted(boxes[index].children):
            before = index
            for column in range(boxes[index].column + 1, boxes[child].column):
                boxes.append(_Box([], column, parents={before}))
                _replace(boxes[before].children, child, len(boxes) - 1)
                boxes[-1].children.add(child)
                before = len(boxes) - 1
            if before != index:
                _replace(boxes[child].parents, index, before)


def _replace(some: set[int], old: int, new: int) -> None:
    some.discard(old)
    some.add(new)


def _head(workflow: Mapping[str, Any], width: int) -> Iterable[str]:
    state, progress = workflow["state"], float(workflow["progress"])
    full = width - 2 * MARGIN
    look = {"succeeded": "good", "failed": "bad", "cancelled": "off", "stopping": "warn"}.get(state, "busy")
    yield f'<text class="t h" x="{MARGIN}" y="30">{_safe(_cut(workflow["name"], 60))}</text>'
    yield f'<text class="s" x="{width - MARGIN}" y="30" text-anchor="end">{_safe(_sentence(workflow))}</text>'
    yield f'<rect class="b" x="{MARGIN}" y="42" width="{full}" height="6" rx="3"/>'
    yield f'<rect class="{look}" x="{MARGIN}" y="42" width="{full * progress:.1f}" height="6" rx="3"/>'


def _sentence(workflow: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {state}" for state, count in workflow["steps"].items())
    return f"{workflow['state']} · {float(workflow['progress']):.0%} · {counts or 'no jobs'}"


def _edge(box: _Box, child: _Box) -> str:
    (x, y), (to_x, to_y) = box.at, child.at
    x, y, to_y = x + WIDTH, y + HEIGHT // 2, to_y + HEIGHT // 2
    bend = max(24, (to_x - x) // 2)
    return f'<path class="e" d="M{x} {y}C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"/>'


def _rectangle(box: _Box) -> str:
    x, y = box.at
    if not box.nodes:
        return f'<path class="e" d="M{x} {y + HEIGHT // 2}h{WIDTH}"/>'
    states = Counter(node["state"] for node in box.nodes)
    if len(box.nodes) == 1:
        (node,) = box.nodes
        title, what = node["name"], _line(node)
        label = f"{node['name']}: {what}"
        if isinstance(node["error"], Mapping):
            label += f" – {node['error'].get('message', '')}"
    else:
        first = box.nodes[0]
        title = f"{_common([node['name'] for node in box.nodes])} × {len(box.nodes):,}"
        what = " · ".join(f"{count:,} {state}" for state, count in states.most_common())
        label = f"{title} {first['kind']}: {what}"
    parts = ["<g>", f"<title>{_safe(label)}</title>"]
    if len(box.nodes) > 1:
        parts.append(f'<rect class="b" x="{x + 5}" y="{y + 5}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
    dashed = ' stroke-dasharray="4 3"' if box.nodes[0]["type"] != "job" else ""
    parts.append(f'<rect class="b" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5"{dashed}/>')
    top = float(y)
    for state, count in sorted(states.items()):
        share = HEIGHT * count / len(box.nodes)
        parts.append(f'<rect class="{LOOKS.get(state, "wait")}" x="{x}" y="{top:.1f}" width="6" height="{share:.1f}"/>')
        top += share
    parts.append(f'<text class="t" x="{x + 16}" y="{y + 19}">{_safe(_cut(title, 27))}</text>')
    parts.append(f'<text class="s" x="{x + 16}" y="{y + 36}">{_safe(_cut(what, 32))}</text></g>')
    return "".join(parts)


def _line(node: Mapping[str, Any]) -> str:
    if node["type"] != "job":
        return f"{'end of a group' if node['type'] == 'gate' else 'map'} · {node['state']}"
    state = str(node["state"])
    if node["started_at"] and node["completed_at"]:
        return f"{state} in {_seconds(node['completed_at'] - node['started_at'])} · {node['kind']}"
    progress = node["progress"] or {}
    if state == "running" and progress.get("total"):
        return f"running {progress['current'] / progress['total']:.0%} · {node['kind']}"
    return f"{state} · {node['kind']}"


def _seconds(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _common(names: Sequence[str]) -> str:
    """Return the common prefix of names: `resize` of resize[0], resize[1], …"""
    first, last = min(names), max(names)
    length = next(
        (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    return first[:length].rstrip("[/") or f"{first}, …"


def _safe(text: str) -> str:
    """Return text that is valid in XML: an error message may have control characters."""
    return escape(_NO_XML.sub("�", text))


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
