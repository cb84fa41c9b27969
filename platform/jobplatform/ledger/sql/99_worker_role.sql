-- The group role of workers. They run third-party code (ffmpeg, kinds of teams), so they read and write jobs and
-- nothing more: no DDL, no API keys, no audit log. `jobplatform workers login` creates a login.
DO $$
DECLARE
    v_schema name := current_schema();
BEGIN
    PERFORM harden_definer('ensure_partitions'), harden_definer('drop_partition');
    IF NOT ensure_group_role('jobplatform_worker', 'docs/operations/overview.md') THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO jobplatform_worker', v_schema);
    REVOKE INSERT, UPDATE, DELETE ON alembic_version, api_keys, audit_log, installation FROM jobplatform_worker;
    PERFORM grant_execute(name, 'jobplatform_worker')
    FROM unnest(ARRAY['ensure_partitions', 'drop_partition', 'submit_job']) AS name;
END $$;
