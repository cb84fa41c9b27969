"""The properties of the model hold with all rules, and no rule can be left out."""

from __future__ import annotations

import pytest

from tests.model.protocol import Model, Rule
from tests.model.report import NEEDED_FOR, PAGE, explored, render, shortest


@pytest.mark.parametrize(
    ("model", "states"),
    [
        (Model(faults=2), 100_000),
        (Model(faults=3, wishes=0), 100_000),
        (Model(faults=1, marker=True), 10_000),
        (Model(faults=2, wishes=0, marker=True), 50_000),
    ],
    ids=["two faults and a wish", "three faults", "a fault and a wish, with markers", "two faults, with markers"],
)
def test_with_all_rules_nothing_breaks(model: Model, states: int) -> None:
    result = explored(model)
    assert result.failures == {}
    assert result.states > states, "the model explores far fewer states than it should"


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.name)
def test_no_rule_can_be_left_out(rule: Rule) -> None:
    assert shortest(rule).property == NEEDED_FOR[rule]


def test_the_page_of_rules_matches_the_model() -> None:
    assert PAGE.read_text() == render(), "run `python -m tests.model`"


def test_the_rules_have_the_names_used_on_the_delivery_page() -> None:
    page = (PAGE.parent / "delivery.md").read_text()
    table = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ") and line.count("|") == 3]
    names = [rule.name.replace("_", " ").capitalize() for rule in Rule]
    assert table[table.index("rule") + 1 :][: len(names)] == names
