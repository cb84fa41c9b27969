"""Retry policies: delays, jitter, and invalid policies."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobplatform import Exponential, Fixed, Steps, read_retry_after
from jobplatform.domain.kinds import Kind, KindRegistry
from jobplatform.errors import ConfigurationError
from tests.support.ledger_harness import Anything


def test_steps_are_taken_in_order_and_the_last_one_repeats() -> None:
    steps = Steps(1, 10, 60)
    assert [steps.delay_seconds(attempt, lambda: 0.5) for attempt in (1, 2, 3, 4, 99)] == [1, 10, 60, 60, 60]


@pytest.mark.parametrize(("dice", "seconds"), [(0.0, 90), (0.5, 100), (1.0, 110)])
def test_jitter_spreads_a_wait(dice: float, seconds: float) -> None:
    assert Fixed(100, jitter=0.1).delay_seconds(1, lambda: dice) == pytest.approx(seconds)
    assert Steps(100, jitter=0.1).delay_seconds(7, lambda: dice) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "make",
    [lambda: Fixed(-1), lambda: Fixed(1, jitter=2), lambda: Steps(), lambda: Steps(1, -1), lambda: Exponential(0)],
)
def test_an_invalid_policy_is_refused(make) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        make()


def test_an_error_code_may_have_its_own_policy() -> None:
    kind = Kind("a.b", "q", Anything, lambda payload, ctx: None, retry=Fixed(1), retry_codes={"busy": Fixed(60)})
    assert kind.delay_seconds("busy", 1, lambda: 0) == 60
    assert kind.delay_seconds("other", 1, lambda: 0) == 1


def test_a_maximum_age_of_zero_is_refused() -> None:
    kind = Kind("a.b", "q", Anything, lambda payload, ctx: None, max_age_seconds=0)
    with pytest.raises(ConfigurationError, match="max_age_seconds > 0"):
        KindRegistry().add(kind)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", None),
        ("0", None),
        ("9" * 400, None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Fri, 20 Nov 2026 12:01:00 -0000", 60.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_in_both_of_its_forms(value: str | None, seconds: float | None) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
    assert read_retry_after(value, lambda: noon) == seconds
