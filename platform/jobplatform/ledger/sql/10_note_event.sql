-- One event of a job's history. Called in the transaction that changes the state (I5).
-- PL/pgSQL keeps the plan; a function in plain SQL is planned anew at each call before Postgres 18.
CREATE OR REPLACE FUNCTION note_event(j jobs, p_event text, p_data jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
    VALUES (j.id, j.tenant_id, p_event, j.state, j.run_no, p_data);
END $$;

-- Count the deadline (start_by) of a job: met when its first run starts, missed when it expires.
CREATE OR REPLACE FUNCTION count_deadline(p_tenant uuid, p_queue text, p_kept boolean) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, deadlines_met, deadlines_missed)
    VALUES (p_tenant, p_queue, pg_backend_pid() % 64, p_kept::integer, (NOT p_kept)::integer)
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET
        deadlines_met = c.deadlines_met + excluded.deadlines_met,
        deadlines_missed = c.deadlines_missed + excluded.deadlines_missed;
$$;
