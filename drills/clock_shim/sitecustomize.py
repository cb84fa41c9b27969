"""Loaded by Python at its start, in the worker whose clock is wrong.

libfaketime 0.9.10 lets clock_nanosleep fail with EINVAL when the monotonic clock stays as it is; time.sleep uses it.
"""

import select
import time


def sleep(seconds: float) -> None:
    """Wait without it."""
    select.select([], [], [], seconds)


time.sleep = sleep  # type: ignore[assignment]
