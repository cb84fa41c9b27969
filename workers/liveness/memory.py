"""Peak memory of pool children, read from the kernel while they live.

A child that the OOM killer ends can't report its memory. The crash's error has the value that the parent read at its
last heartbeat.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from workers.runtime.deliveries import Held


def note_peaks(children: Iterable[Held]) -> None:
    """Note the peak of each child that has a run; threads share this process's, which says nothing about one run."""
    for held in children:
        if held.pid == os.getpid():
            continue
        peak = peak_memory_of(held.pid)
        if peak is not None:
            held.peak_memory_bytes = peak


def peak_memory_of(pid: int) -> int | None:
    """Return the most memory a process has used so far, in bytes; None where it is not known (not Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return int(peak.split()[1]) * 1024 if peak else None
