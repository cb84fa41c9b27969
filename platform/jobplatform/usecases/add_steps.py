"""Steps that a run adds to its workflow: validated when they are added, written when the run settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from jobplatform.domain.kinds import KindRegistry
from jobplatform.domain.workflows import MAX_STEPS, Part
from jobplatform.errors import FieldError, InvalidRequest
from jobplatform.ledger import workflows
from jobplatform.ledger.ids import new_id
from jobplatform.ledger.session import Ledger
from jobplatform.usecases.execute_run import Delivery, retry_until_answered
from jobplatform.usecases.plan_workflow import Defaults, Written, plan_workflow


class AddedSteps:
    """The steps that one run has added so far."""

    def __init__(self, delivery: Delivery, kinds: KindRegistry) -> None:
        self._delivery, self._kinds = delivery, kinds
        self._parts = 0
        #: JSON, without the brackets around it
        self._steps: list[bytes] = []
        self._names: set[str] = set()
        self._count = self._pending = 0
        self._name: str | None = None
        self._result_of: UUID | None = None
        self._on_failure: str | None = None

    def add_planned(self, ledger: Ledger, steps: Sequence[Mapping[str, Any]], pending: int, result_of: UUID) -> None:
        """Add planned steps, named after `own_name`. The result of step `result_of` becomes the result of the
        run's own step, and so does its failure: it ends this branch of the workflow only. `pending` of
        them have this step among their children."""
        self.own_name(ledger)
        self._steps.append(orjson.dumps([{**step, "position": step["position"] + self._count} for step in steps])[1:-1])
        self._names.update(str(step["name"]) for step in steps)
        self._count += len(steps)
        self._pending += pending
        self._result_of = result_of
        self._on_failure = "skip"

    def add(self, ledger: Ledger, parts: Sequence[Part]) -> None:
        """Add parts. Raises `InvalidRequest` or `UnknownKind`; then nothing is added."""
        name = self.own_name(ledger)
        job_id = str(self._delivery.job_id)
        planned: list[Written] = []
        count = self._count
        for index, part in enumerate(parts):
            planned.append(
                plan_workflow(
                    self._kinds,
                    part,
                    Defaults(),
                    field_name=f"parts.{index}",
                    prefix=f"{name}/",
                    name=f"{name}[{self._parts + index}]",
                    waits=job_id,
                    first_position=count,
                )
            )
            count += len(planned[-1].plan.steps)
        names = Counter(step.name for written in planned for step in written.plan.steps)
        twice = sorted(step for step, times in names.items() if times > 1 or step in self._names)
        if twice:
            wrong = FieldError("parts", "names that no other step has", ", ".join(twice[:5]))
            raise InvalidRequest(f"steps are named twice: {', '.join(twice[:5])}", (wrong,))
        if count > MAX_STEPS:
            wrong = FieldError("parts", f"at most {MAX_STEPS:,} steps of one run", str(count))
            raise InvalidRequest(f"a run adds at most {MAX_STEPS:,} steps: let a step of them add more", (wrong,))
        self._steps += [written.steps[1:-1] for written in planned]
        self._pending += sum(written.pending for written in planned)
        self._names.update(names)
        self._count = count
        self._parts += len(parts)

    def as_json(self) -> bytes | None:
        """Return the argument of `settle_run`; None when nothing was added."""
        if not self._steps:
            return None
        return orjson.dumps(
            {
                "workflow_id": str(new_id()),
                "step": self._name,
                "pending": self._pending,
                "result_of": self._result_of,
                "on_failure": self._on_failure,
                "steps": orjson.Fragment(b"[" + b",".join(self._steps) + b"]"),
            }
        )

    def own_name(self, ledger: Ledger) -> str:
        """Name prefix of the steps: this step's name, or the kind of a job outside any workflow."""
        if self._name is None:

            def once() -> str | None:
                with ledger.statement() as connection:
                    return workflows.step_name(connection, self._delivery.job_id)

            result: str | None = retry_until_answered(once, "step_name", self._delivery)
            self._name = result or self._delivery.kind.replace(".", "-")
        return self._name
