"""`python -m bench.chart RESULTS.json`: draw docs/operations/rounds.svg from a run of `--only shares`.

Requires matplotlib, which nothing else here does: pip install -e '.[chart]'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from jobplatform.devstack.instance import CHECKOUT
from jobplatform.errors import ConfigurationError

TABLE = "rounds of the dispatcher, 100 jobs each"
TARGET = CHECKOUT / "docs" / "operations" / "rounds.svg"


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Draw milliseconds per round by the number of waiting jobs, a line per case. Raises `ConfigurationError`."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ConfigurationError("please install matplotlib: pip install -e '.[chart]'") from None
    pyplot.rcParams["svg.fonttype"] = "none"  # text stays text
    pyplot.rcParams["svg.hashsalt"] = "rounds"  # the same figures give the same file
    figure, axes = pyplot.subplots(figsize=(7.5, 4))
    for name in dict.fromkeys(row["waiting jobs"] for row in rows):
        mine = [row for row in rows if row["waiting jobs"] == name]
        axes.plot([row["jobs waiting"] for row in mine], [row["ms per round"] for row in mine], marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.15 * max(row["ms per round"] for row in rows))
    axes.set_xlabel("jobs waiting")
    axes.set_ylabel("ms per round of 100 jobs (median)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    results = orjson.loads(Path(sys.argv[1]).read_bytes())
    draw(results["tables"][TABLE], TARGET)
    print(f"drawn: {TARGET}")
