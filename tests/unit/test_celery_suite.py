"""How a run of Celery's own tests is judged: it fails for a new failure, and for a known one that now passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.celery_suite.__main__ import judge, read_known, read_report

REPORT = """<testsuites><testsuite>
<testcase classname="t.integration.test_canvas.test_chain" name="test_a[1]"/>
<testcase classname="t.integration.test_canvas.test_chain" name="test_b"><failure/></testcase>
<testcase classname="t.integration.test_tasks.test_tasks" name="test_c"><skipped/></testcase>
<testcase classname="t.integration.test_tasks.test_tasks" name="test_d"/>
<testcase classname="t.integration.test_tasks.test_tasks" name="test_d"><failure/></testcase>
<testcase classname="" name="t.integration.collected_not"><error/></testcase>
</testsuite></testsuites>"""
CHAIN, TASKS = "t/integration/test_canvas.py::test_chain", "t/integration/test_tasks.py::test_tasks"


def test_a_report_is_read_by_test_and_a_failed_subtest_fails_its_test(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert read_report(tmp_path / "report.xml") == {
        f"{CHAIN}::test_a[1]": True,
        f"{CHAIN}::test_b": False,
        f"{TASKS}::test_c": False,
        f"{TASKS}::test_d": False,
        ".py::t.integration.collected_not": False,
    }


@pytest.mark.parametrize(
    ("outcomes", "known", "code", "said"),
    [
        ({"a": True, "b": False}, {"b": "expected"}, 0, "1 passed, 1 failed or skipped as known, 0 new failures"),
        ({"a": True, "b": False}, {}, 1, "NEW FAILURE: b"),
        ({"a": True}, {"a": "expected"}, 1, "PASSES NOW, take it off the list: a"),
        ({"a": True, "b": True}, {"b": "flaky: a race"}, 0, "2 passed, 0 failed"),
        ({"a": True, "b": False}, {"b": "flaky: a race"}, 0, "1 passed, 1 failed or skipped as known, 0 new failures"),
        ({"a": True}, {"z": "expected"}, 1, "NOT RUN: z"),
        ({}, {}, 1, "0 passed"),
    ],
)
def test_any_change_from_the_known_failures_fails_the_run(
    outcomes: dict[str, bool], known: dict[str, str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(outcomes, known, complete=True) == code
    assert said in capsys.readouterr().out


def test_every_known_failure_has_its_reason() -> None:
    known = read_known()
    assert len(known) > 30 and all(len(reason) > 30 for reason in known.values())
