-- The group role of people who report (docs/operations/reporting.md).
DO $$
BEGIN
    IF ensure_group_role('jobplatform_reporting', 'docs/operations/reporting.md') THEN
        GRANT USAGE ON SCHEMA reporting TO jobplatform_reporting;
        GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO jobplatform_reporting;
    END IF;
END $$;
