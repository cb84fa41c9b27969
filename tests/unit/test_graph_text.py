"""Graphs as lines of text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jobplatform.observe.graph_text import MOST_LANES, draw_lines


def graph(*edges: str, nodes: str = "") -> dict[str, Any]:
    names = dict.fromkeys([*nodes, *(name for edge in edges for name in edge)])
    return {
        "nodes": [{"id": name, "name": name, "type": "job"} for name in names],
        "edges": [{"from": edge[0], "to": edge[1]} for edge in edges],
    }


def drawn(*edges: str, nodes: str = "") -> str:
    lines = draw_lines(graph(*edges, nodes=nodes))
    assert lines is not None
    return "\n".join(f"{lanes} {','.join(node['name'] for node in result)}".rstrip() for lanes, result in lines)


def test_a_chain() -> None:
    assert drawn("ab", "bc") == "● a\n● b\n● c"


def test_a_diamond() -> None:
    assert drawn("ab", "ac", "bd", "cd") == "● a\n├─╮\n● │ b\n│ ● c\n├─╯\n● d"


def test_unconnected_parts() -> None:
    assert drawn("ab", "cd") == "● a\n● b\n● c\n● d"


def test_many_similar_steps_share_one_line() -> None:
    assert drawn("a1", "a2", "a3", "a4", "1z", "2z", "3z", "4z") == "● a\n● 1,2,3,4\n● z"


def test_a_graph_that_is_too_wide_is_not_drawn() -> None:
    many = [chr(200 + n) for n in range(40)]
    assert (
        draw_lines(graph(*(f"a{item}" for item in many), *(f"{item}{chr(ord(item) + 200)}" for item in many))) is None
    )


@pytest.mark.parametrize("seed", range(30))
def test_every_step_has_its_line_after_those_it_waits_for(seed: int) -> None:
    """Each line of a step also has one mark, below a lane that leads to it if the step waits for another."""
    chosen = random.Random(seed)
    names = [chr(97 + n) for n in range(14)]
    edges = [a + b for n, a in enumerate(names) for b in names[n + 1 :] if chosen.random() < 0.2]
    lines = draw_lines(graph(*edges, nodes="".join(names)))
    if lines is None:
        return
    position = {node["id"]: number for number, (_, result) in enumerate(lines) for node in result}
    assert set(position) == set(names)
    for before, after in edges:
        assert position[before] <= position[after]
    waits = {edge[1] for edge in edges}
    for number, (lanes, result) in enumerate(lines):
        assert len(lanes) <= 2 * MOST_LANES
        assert (lanes.count("●") == 1) == bool(result)
        if result and result[0]["id"] in waits:
            column = lanes.index("●")
            assert lines[number - 1][0][column : column + 1] in tuple("●│├┬╮┴╯┼"), lines
