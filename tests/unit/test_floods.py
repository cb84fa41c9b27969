"""How the API logs refusals: the first at once, thousands in a few lines, and all of them counted."""

from __future__ import annotations

from structlog.testing import capture_logs

from api.floods import Floods
from tests.support.waiting import eventually


def test_the_first_refusal_is_logged_at_once_and_the_rest_as_counts() -> None:
    floods = Floods(seconds=0.2)
    with capture_logs() as lines:
        for _ in range(5000):
            floods.note("ledger_unavailable", "the ledger can't be reached")
        assert lines[0]["detail"] == "the ledger can't be reached" and lines[0]["log_level"] == "warning"
        floods.note("storage_full", "no space")
        eventually(lambda: sum(line["requests"] for line in lines if line["code"] == "ledger_unavailable") == 5000)
        assert len(lines) < 50
        # after a quiet period the next refusal is logged at once again
        eventually(lambda: not floods._counts)
        before = len(lines)
        floods.note("storage_full", "no space")
        assert lines[before]["detail"] == "no space"
