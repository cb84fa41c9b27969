"""A benchmark run that ends early reports what it has measured."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from rich.console import Console

from bench.__main__ import PARTS, WRK_PARTS, _judge, report
from bench.figures import Figures
from jobplatform.devstack import system
from jobplatform.errors import ConfigurationError


def test_a_run_that_ended_after_one_side_is_judged_and_written(tmp_path: Path) -> None:
    figures = Figures()
    figures.add("drain, prefork 2 (jobs/s)", "job platform", 500.0)
    figures.add("accept, 16 clients (req/s)", "job platform, granian", 3000.0)
    figures.add("chain of 100 (ms per step)", "bare Celery", 3.0)
    figures.add("big ledger: dispatch (jobs/s)", "waiting ledger", 3.0)
    _judge(figures)
    file = tmp_path / "results" / "latest.json"
    report(figures, Console(quiet=True), file)
    written = orjson.loads(file.read_bytes())
    assert written["all"]["drain, prefork 2 (jobs/s)"] == {"job platform": [500.0]}
    assert written["goals"] == []


def test_figures_of_both_sides_give_a_goal(tmp_path: Path) -> None:
    figures = Figures()
    figures.add("drain, prefork 2 (jobs/s)", "job platform", 500.0)
    figures.add("drain, prefork 2 (jobs/s)", "bare Celery", 250.0)
    _judge(figures)
    assert [(goal["what"], goal["value"]) for goal in figures.goals] == [("drain, prefork 2 ÷ bare Celery", 2.0)]


def test_a_run_without_figures_overwrites_no_older_ones(tmp_path: Path) -> None:
    report(Figures(), Console(quiet=True), tmp_path / "latest.json")
    assert not (tmp_path / "latest.json").exists()


def test_a_missing_program_is_named_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"please install wrk: apt-get install wrk"):
        system.require_programs("wrk")
    assert set(PARTS) > WRK_PARTS
