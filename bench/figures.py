"""The results of a run: figures by work and side, medians, ratios and goals; as table and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

#: the share of a ratio on record below which a run is a regression: the rest is noise
TOLERATED = 0.8


@dataclass
class Figures:
    """All measurements of a run. `goals` are rows: what, ratio or value, limit, whether less is better."""

    all: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    goals: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured."""
        return not (self.all or self.tables)

    def add(self, work: str, side: str, value: float) -> None:
        """Add one measurement."""
        self.all.setdefault(work, {}).setdefault(side, []).append(value)

    def median(self, work: str, side: str) -> float:
        """Return the median of all rounds."""
        return statistics.median(self.all[work][side])

    def ratio(self, work: str, numerator: str, denominator: str) -> float | None:
        """Return the ratio of two sides' medians; None when a side was not measured (an interrupted run)."""
        sides = self.all.get(work, {})
        if not (sides.get(numerator) and sides.get(denominator)):
            return None
        return self.median(work, numerator) / self.median(work, denominator)

    def ratio_goal(self, what: str, work: str, numerator: str, denominator: str, limit: float) -> None:
        """Add a goal for the ratio of two sides, if both were measured."""
        ratio = self.ratio(work, numerator, denominator)
        if ratio is not None:
            self.goal(what, ratio, limit)

    def goal(self, what: str, value: float, limit: float, *, unit: str = "×", at_most: bool = False) -> None:
        """Add a goal for a figure."""
        reached = value <= limit if at_most else value >= limit
        self.goals.append(
            {"what": what, "value": value, "limit": limit, "unit": unit, "at_most": at_most, "reached": reached}
        )

    def regressions(self, record: Mapping[str, float]) -> list[str]:
        """Return a line for each ratio on record that was not measured, or is below `TOLERATED` of the record."""
        values = {goal["what"]: goal["value"] for goal in self.goals}
        result = []
        for what, recorded in record.items():
            limit = TOLERATED * recorded
            if what not in values:
                result.append(f"{what}: not measured; {recorded:.2f} × on record")
            elif values[what] < limit:
                result.append(
                    f"{what}: {values[what]:.2f} ×, expected at least {limit:.2f} × ({recorded:.2f} × on record)"
                )
        return result

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        medians = {work: {side: statistics.median(v) for side, v in by.items()} for work, by in self.all.items()}
        return {"medians": medians, "goals": self.goals, "tables": self.tables, "all": self.all}

    def show(self, console: Console) -> None:
        """Print the figures, then the goals."""
        table = Table("work", "side", "median", "rounds", title="measured", title_justify="left")
        for work, by in self.all.items():
            for number, (side, values) in enumerate(by.items()):
                rounds = " ".join(f"{value:,.1f}" for value in values)
                table.add_row("" if number else work, side, f"{statistics.median(values):,.1f}", rounds)
        console.print(table)
        for title, rows in self.tables.items():
            table = Table(*rows[0], title=title, title_justify="left")
            for row in rows:
                table.add_row(*[f"{v:,.2f}" if isinstance(v, float) else str(v) for v in row.values()])
            console.print(table)
        table = Table("goal", "limit", "this run", "", title="goals", title_justify="left")
        for goal in self.goals:
            sign = "≤" if goal["at_most"] else "≥"
            verdict = "[green]reached[/]" if goal["reached"] else "[red]not reached[/]"
            limit, value = f"{sign} {goal['limit']:g} {goal['unit']}", f"{goal['value']:,.2f} {goal['unit']}"
            table.add_row(goal["what"], limit, value, verdict)
        console.print(table)
