-- Make the partitions of one table from p_from on, p_days each, until p_until. Idempotent; safe beside another caller.
CREATE OR REPLACE FUNCTION ensure_partitions(p_table text, p_days integer, p_from timestamptz, p_until timestamptz)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_step interval := make_interval(days => p_days);
    v_start timestamptz;
    v_name text;
    v_made integer := 0;
BEGIN
    PERFORM take_lock('partitions');
    -- bounds are whole steps since an origin in UTC, so that every caller computes the same ones
    v_start := to_timestamp(floor(extract(epoch FROM p_from) / (p_days * 86400)) * p_days * 86400);
    WHILE v_start < p_until LOOP
        v_name := p_table || '_' || to_char(v_start AT TIME ZONE 'UTC', 'YYYYMMDD');
        IF to_regclass(v_name) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', v_name, p_table, v_start,
                    v_start + v_step);
                v_made := v_made + 1;
            EXCEPTION WHEN check_violation THEN
                -- rows of this time already stand in the default partition: they stay there and are found there
                RAISE WARNING 'partition % not made: its rows are in the default partition', v_name;
            END;
        END IF;
        v_start := v_start + v_step;
    END LOOP;
    RETURN v_made;
END $$;
