"""The whole ledger, as 0001_create_ledger.sql says it. Up to the first release there is this one revision."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text()
    # the driver would read a % as a placeholder
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))


def downgrade() -> None:
    op.execute("DROP SCHEMA IF EXISTS reporting CASCADE")
    op.execute(
        """
        DO $$
        DECLARE r record;
        BEGIN
            FOR r IN SELECT oid::regprocedure AS name FROM pg_proc
                WHERE pronamespace = current_schema()::regnamespace LOOP
                EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', r.name);
            END LOOP;
            FOR r IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = current_schema()::regnamespace
                AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'alembic_version' LOOP
                EXECUTE format('DROP TABLE %s CASCADE', r.name);
            END LOOP;
        END $$
        """
    )
