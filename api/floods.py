"""Rate limit for log lines of refusals, which come by the thousand: the first, then a count every few seconds."""

from __future__ import annotations

import threading

from jobplatform.observe.logs import get_log

SECONDS = 10.0

log = get_log(__name__)


class Floods:
    """Counts refusals by the problem's code; may be shared by threads."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def note(self, code: str, detail: str) -> None:
        """Log a refusal, or only count it when one with this code was logged recently."""
        with self._lock:
            if code in self._counts:
                self._counts[code] += 1
                return
            self._counts[code] = 0
        log.warning("requests_refused", code=code, detail=detail, requests=1)
        self._report_later(code)

    def _report_later(self, code: str) -> None:
        timer = threading.Timer(self._seconds, self._report, (code,))
        timer.daemon = True
        timer.start()

    def _report(self, code: str) -> None:
        with self._lock:
            count = self._counts.pop(code)
            if count:
                self._counts[code] = 0
        if count:
            log.warning("requests_refused", code=code, requests=count, seconds=self._seconds)
            self._report_later(code)
