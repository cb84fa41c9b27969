"""The SVG of a workflow: bounded in size, and valid XML whatever names and errors contain."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from jobplatform.observe.graph_svg import draw


def node(name: str, **more: Any) -> dict[str, Any]:
    values = {"type": "job", "state": "blocked", "kind": "k", "error": None, "progress": None}
    return {"id": name, "name": name, "started_at": None, "completed_at": None, **values, **more}


def picture(nodes: list[dict[str, Any]], edges: list[tuple[str, str]], name: str = "w") -> Any:
    workflow = {"name": name, "state": "running", "progress": 0.5, "steps": {"waiting": len(nodes)}}
    edge_views = [{"from": item, "to": other} for item, other in edges]
    return ElementTree.fromstring(draw({"workflow": workflow, "nodes": nodes, "edges": edge_views}))


def test_characters_that_xml_does_not_allow_are_left_out() -> None:
    dead = node("a", state="dead", error={"message": "\x1b[31mno\x00 <b>"})
    texts = "".join(picture([dead], [], name="<w>\x07").itertext())
    assert "[31mno" in texts and "<b>" in texts and "<w>" in texts


def test_a_long_edge_has_its_own_place_in_each_row_that_it_crosses() -> None:
    steps = [node(name) for name in "abcd"]
    result = picture(steps, [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")])
    paths = [item.get("d") for item in result.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 4 + 2 + 2, "two positions, each with a line through it"


def test_many_long_edges_are_drawn_directly() -> None:
    names = [f"s{n}" for n in range(600)]
    chain = list(pairwise(names))
    result = draw(
        {
            "workflow": {"name": "w", "state": "running", "progress": 0.0, "steps": {}},
            "nodes": [node(name) for name in names],
            "edges": [{"from": item, "to": other} for item, other in [*chain, *(("s0", name) for name in names[2:])]],
        }
    )
    assert len(result) < 2_000_000
