"""Python imports this module at startup, in the workers whose clock is wrong.

libfaketime 0.9.10 makes clock_nanosleep fail with EINVAL when the monotonic clock is not faked; time.sleep uses it.
"""

import select
import time


def sleep(seconds: float) -> None:
    """Sleep without clock_nanosleep."""
    select.select([], [], [], seconds)


time.sleep = sleep  # type: ignore[assignment]
