-- The group role of workers. They run third-party code (ffmpeg, kinds of teams), so they read and write jobs and
-- nothing more: no DDL, no API keys, no audit log. `jobplatform workers login` creates a login.
DO $$
DECLARE
    v_schema name := current_schema();
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = v_schema::regnamespace AND p.proname IN ('ensure_partitions', 'drop_partition')
    LOOP
        -- built-in functions first, whatever stands in the schema; nothing of a session's temporary schema
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', v_function, v_schema);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', v_function);
    END LOOP;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'jobplatform_worker') THEN
        BEGIN
            CREATE ROLE jobplatform_worker NOLOGIN;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE WARNING 'role jobplatform_worker was not created: an administrator must create it (docs/operations/overview.md)';
                RETURN;
            WHEN duplicate_object OR unique_violation THEN  -- another deployer was faster
                NULL;
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO jobplatform_worker', v_schema);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO jobplatform_worker', v_schema);
    REVOKE INSERT, UPDATE, DELETE ON alembic_version, api_keys, audit_log, installation FROM jobplatform_worker;
    FOR v_function IN
        SELECT p.oid FROM pg_proc p
        WHERE p.pronamespace = v_schema::regnamespace AND p.proname IN ('ensure_partitions', 'drop_partition', 'submit_job')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO jobplatform_worker', v_function);
    END LOOP;
END $$;
