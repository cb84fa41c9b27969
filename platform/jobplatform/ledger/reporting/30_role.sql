-- A group role without a login, made where we may: give it to the people who report (docs/operations/reporting.md).
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'jobplatform_reporting') THEN
        CREATE ROLE jobplatform_reporting NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'role jobplatform_reporting was not created: an administrator must create it (docs/operations/reporting.md)';
        RETURN;
    WHEN duplicate_object OR unique_violation THEN  -- another deployer was faster
        NULL;
END $$;
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'jobplatform_reporting') THEN
        GRANT USAGE ON SCHEMA reporting TO jobplatform_reporting;
        GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO jobplatform_reporting;
    END IF;
END $$;
