"""The tables of workflows (docs/concepts/workflows.md). See `tables`."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from jobplatform.domain.workflows import ON_FAILURE, STEP_STATES, STEP_TYPES, WorkflowState
from jobplatform.ledger.tables.columns import metadata, moment, now, one_of

workflows = Table(
    "workflows",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("tenant_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("pending", Integer, nullable=False, comment="number of final steps that have not ended"),
    Column("time_limit_seconds", Double),
    moment("deadline_at"),
    Column("stop_as", Text, comment="final state after stopping"),
    Column("kill_running", Boolean, nullable=False, server_default=text("false")),
    Column("error", JSONB),
    now("created_at"),
    moment("ended_at"),
    CheckConstraint(one_of("state", WorkflowState), name="workflows_state_is_known"),
    CheckConstraint("(state IN ('running', 'stopping')) = (ended_at IS NULL)", name="workflows_ended_has_its_time"),
    CheckConstraint(
        "(state = 'running') = (stop_as IS NULL) OR state = 'succeeded'", name="workflows_stopped_says_how"
    ),
    Index("ix_workflows_tenant_id_id", "tenant_id", "id"),
    Index("ix_workflows_stopping", "id", postgresql_where=text("state = 'stopping'")),
    Index("ix_workflows_deadline", "deadline_at", postgresql_where=text("state = 'running'")),
    Index("ix_workflows_ended_at", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
)

workflow_steps = Table(
    "workflow_steps",
    metadata,
    Column("id", UUID(as_uuid=True), nullable=False, comment="id of its job, if any"),
    Column("workflow_id", UUID(as_uuid=True), nullable=False),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False, comment="order of the results of a group"),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("pending", Integer, nullable=False, comment="number of predecessors that have not ended"),
    Column("children", ARRAY(UUID(as_uuid=True)), nullable=False, comment="ids of its successors"),
    Column("on_failure", Text, nullable=False),
    Column("item", JSONB, comment="element of a map's list"),
    Column("template", JSONB, comment="template of a map's steps; of a job: delays that count from its release"),
    Column(
        "failed_parents", Integer, nullable=False, server_default=text("0"), comment="number of failed predecessors"
    ),
    Column("failed_by", UUID(as_uuid=True), comment="the job of the first failure that reached it"),
    Column(
        "failure_propagated",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="its failure was counted by its children",
    ),
    Column("result_of", UUID(as_uuid=True), comment="the step that replaced it and provides its result"),
    Column("errbacks", JSONB, comment="submissions of the jobs that its failure creates"),
    Column(
        "skip_calls_errbacks",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="runs even if a predecessor has failed",
    ),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("workflow_id", "name"),
    CheckConstraint(one_of("type", STEP_TYPES), name="workflow_steps_type_is_known"),
    CheckConstraint(one_of("state", STEP_STATES), name="workflow_steps_state_is_known"),
    CheckConstraint(one_of("on_failure", ON_FAILURE), name="workflow_steps_on_failure_is_known"),
    CheckConstraint("pending >= 0", name="workflow_steps_pending_is_not_negative"),
)
