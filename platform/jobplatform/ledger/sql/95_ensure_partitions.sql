-- Create the partitions of one table from p_from on, p_days each, until p_until. Idempotent; safe for concurrent callers.
-- With the rights of the ledger's owner, as workers may not change tables (99_worker_role.sql).
CREATE OR REPLACE FUNCTION ensure_partitions(p_table text, p_days integer, p_from timestamptz, p_until timestamptz)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
    v_step interval := make_interval(days => p_days);
    v_start timestamptz;
    v_name text;
    v_made integer := 0;
    -- not current_schema(): its search_path begins with pg_catalog
    v_schema regnamespace := (SELECT relnamespace FROM pg_class WHERE oid = p_table::regclass);
BEGIN
    PERFORM take_lock('partitions');
    -- bounds are whole steps since an origin in UTC, so that every caller computes the same ones
    v_start := to_timestamp(floor(extract(epoch FROM p_from) / (p_days * 86400)) * p_days * 86400);
    WHILE v_start < p_until LOOP
        v_name := p_table || '_' || to_char(v_start AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(v_name) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE %s.%I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', v_schema, v_name, p_table, v_start,
                    v_start + v_step);
                v_made := v_made + 1;
            EXCEPTION WHEN check_violation THEN
                -- rows of this time are already in the default partition: they stay there, and queries find them there
                RAISE WARNING 'partition % not made: its rows are in the default partition', v_name;
            END;
        END IF;
        v_start := v_start + v_step;
    END LOOP;
    RETURN v_made;
END $$;

-- Drop a partition of the ledger that lies in the past; returns whether there was one. Waits for a reader of it for a
-- moment only: writers would queue behind it.
CREATE OR REPLACE FUNCTION drop_partition(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET lock_timeout = '200ms' AS $$
DECLARE
    v_partition regclass := (
        SELECT c.oid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_class parent ON parent.oid = i.inhparent
        WHERE c.relname = p_name
            AND parent.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'job_history'::regclass)
            AND substring(pg_get_expr(c.relpartbound, c.oid) FROM $r$TO \('([^']+)'\)$r$)::timestamptz < clock_timestamp());
BEGIN
    IF v_partition IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %s', v_partition);
    RETURN true;
END $$;
