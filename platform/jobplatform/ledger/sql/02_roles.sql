-- Group roles and SECURITY DEFINER functions: called by the scripts below (38, 99) and by reporting/30_role.sql.

-- Create a group role without a login if it is missing, and return whether it exists. Where the ledger's owner may not
-- create roles, it warns: an administrator must create the role as `p_page` says, and `migrate` again.
CREATE OR REPLACE FUNCTION ensure_group_role(p_name text, p_page text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = p_name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', p_name);
    END IF;
    RETURN true;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'role % was not created: an administrator must create it (%)', p_name, p_page;
        RETURN false;
    WHEN duplicate_object OR unique_violation THEN  -- another deployer was faster
        RETURN true;
END $$;

-- Harden a SECURITY DEFINER function, which runs with the rights of its owner: built-in functions come first, then the
-- ledger's schema, and nothing of a session's temporary schema before them. A group role grants the right to call it.
CREATE OR REPLACE FUNCTION harden_definer(p_name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_function regprocedure := (SELECT oid FROM pg_proc WHERE proname = p_name AND pronamespace = current_schema()::regnamespace);
BEGIN
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', v_function, current_schema());
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', v_function);
END $$;

-- Grant a group role the right to call a function of the ledger.
CREATE OR REPLACE FUNCTION grant_execute(p_name text, p_role text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_function regprocedure := (SELECT oid FROM pg_proc WHERE proname = p_name AND pronamespace = current_schema()::regnamespace);
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), p_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_function, p_role);
END $$;
