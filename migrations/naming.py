"""Which names of the database are the migrations' to compare."""

from __future__ import annotations

import re
from typing import Any

_PARTITION = re.compile(r"_(default|\d{8})(_|$)")


def is_ours(name: str | None, _kind: str, _parents: Any) -> bool:
    """Leave partitions and their indexes out of comparisons: `ensure_partitions` makes them."""
    return name is None or not _PARTITION.search(name)
