"""The record of the benchmark: which ratios count as a regression."""

from __future__ import annotations

import orjson

from bench.figures import Figures
from jobplatform.devstack.instance import CHECKOUT

RECORD = orjson.loads((CHECKOUT / "bench" / "record.json").read_bytes())


def measured(share: float) -> Figures:
    figures = Figures()
    for what, recorded in RECORD.items():
        figures.goal(what, share * recorded, 1.0)
    return figures


def test_a_ratio_below_four_fifths_of_the_record_is_a_regression() -> None:
    assert measured(0.81).regressions(RECORD) == []
    assert len(measured(0.79).regressions(RECORD)) == len(RECORD) > 0


def test_a_ratio_that_was_not_measured_is_a_regression() -> None:
    assert len(Figures().regressions(RECORD)) == len(RECORD)
