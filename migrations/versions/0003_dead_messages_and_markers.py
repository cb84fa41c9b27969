"""Dead messages, markers, pauses that end by themselves; what waits in a worker.

Compatible with the running code: functions that have more parameters now take fewer, too (`sql/00_drop_old.sql`).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
OUTCOMES = ("succeeded", "failed", "timed_out", "snoozed", "released", "crashed", "lost", "cancelled")


def _one_of(outcomes: tuple[str, ...]) -> str:
    return f"outcome IN ({', '.join(repr(one) for one in sorted(outcomes))})"


def upgrade() -> None:
    op.add_column(
        "workers",
        sa.Column(
            "waiting",
            postgresql.ARRAY(sa.UUID()),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="jobs whose message it has and whose run has not begun",
        ),
    )
    op.add_column(
        "queues",
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True, comment="NULL: until somebody resumes it"),
    )
    op.create_check_constraint(
        "queues_paused_until_is_a_pause", "queues", "paused_until IS NULL OR paused_at IS NOT NULL"
    )
    op.drop_constraint("job_runs_outcome_is_known", "job_runs")
    op.create_check_constraint("job_runs_outcome_is_known", "job_runs", _one_of((*OUTCOMES, "held")))
    op.create_table(
        "effects",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("run_no", sa.Integer(), nullable=False, comment="the run that intended it last"),
        sa.Column("token", sa.UUID(), nullable=False, comment="of that intention: its repetition is no second one"),
        sa.Column(
            "receipt", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="what the other side said"
        ),
        sa.Column("intended_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('intended', 'done', 'skipped')", name=op.f("effects_state_is_known")),
        sa.CheckConstraint("(state = 'intended') = (done_at IS NULL)", name=op.f("effects_done_has_its_time")),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_effects")),
    )
    op.create_index("ix_effects_intended_at", "effects", ["intended_at"])
    op.create_table(
        "dispatchers",
        sa.Column("id", sa.UUID(), nullable=False, comment="one per process"),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("broker_error", sa.Text(), nullable=True, comment="why RabbitMQ can't be used now; NULL: it can"),
        sa.Column("broker_error_at", sa.DateTime(timezone=True), nullable=True, comment="since when"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dispatchers")),
    )
    op.create_table(
        "dead_messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("queue", sa.Text(), nullable=True, comment="where it was, as RabbitMQ says"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=True),
        sa.Column("dispatch_no", sa.Integer(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column(
            "message",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="headers, properties and x-death, cut where they are long",
        ),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="its first bytes"),
        sa.Column("body_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "reason IN ('malformed', 'no_job', 'refused', 'stale')", name=op.f("dead_messages_reason_is_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_messages")),
    )
    op.create_index("ix_dead_messages_at", "dead_messages", ["at"])
    op.create_index(
        "ix_dead_messages_job_id", "dead_messages", ["job_id"], postgresql_where=sa.text("job_id IS NOT NULL")
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("tenant_id", sa.UUID(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("filter", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("chosen", sa.Integer(), nullable=False, comment="dead letters that are run again by it"),
        sa.Column("rate_per_second", sa.Double(), nullable=True, comment="NULL: all at once"),
        sa.Column("stop_after", sa.Integer(), nullable=True, comment="stops when so many have died again; NULL: never"),
        sa.Column("died_again", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("stopped", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="put back unrun"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'done', 'stopped')", name=op.f("replays_state_is_known")),
        sa.CheckConstraint("(state = 'running') = (ended_at IS NULL)", name=op.f("replays_ended_has_its_time")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
    )
    op.create_index("ix_replays_running", "replays", ["created_at"], postgresql_where=sa.text("state = 'running'"))
    op.create_index("ix_replays_tenant", "replays", ["tenant_id", "created_at"])
    op.create_table(
        "replay_jobs",
        sa.Column("replay_id", sa.UUID(), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("run_no", sa.Integer(), nullable=False, comment="the last run before it"),
        sa.PrimaryKeyConstraint("replay_id", "job_id", name=op.f("pk_replay_jobs")),
    )
    op.create_table(
        "queue_markers",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True, comment="when a worker took it from the queue"),
        sa.Column(
            "used",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="its evidence was looked at",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_markers")),
    )
    op.create_index("ix_queue_markers_queue", "queue_markers", ["queue", "priority", "sent_at"])


def downgrade() -> None:
    op.execute(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() AND p.proname IN "
        "('accept_job', 'ended_job', 'beat_worker', 'cancel_job', 'settle_run', 'replay_job', 'discard_job', "
        "'change_job', 'wanted_markers', 'take_evidence', 'begin_effect', 'resolve_effect', "
        "'return_dispatched', 'replay_many', 'watch_replays') "
        "LOOP EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; END LOOP; END $$"
    )
    op.drop_table("replay_jobs")
    op.drop_table("replays")
    op.drop_table("effects")
    op.execute(
        "UPDATE jobs SET state = 'dead', error = coalesce(error, '{}') || "
        '\'{"code": "effect_unknown", "message": "it was held by an effect", "retryable": false}\' '
        "WHERE state = 'held'"
    )
    op.execute("UPDATE job_runs SET outcome = 'failed' WHERE outcome = 'held'")
    op.drop_constraint("job_runs_outcome_is_known", "job_runs")
    op.create_check_constraint("job_runs_outcome_is_known", "job_runs", _one_of(OUTCOMES))
    op.drop_table("queue_markers")
    op.drop_table("dead_messages")
    op.drop_table("dispatchers")
    op.drop_constraint("queues_paused_until_is_a_pause", "queues")
    op.drop_column("queues", "paused_until")
    op.drop_column("workers", "waiting")
