-- One line of a job's history. Called in the transaction that changes the state (I5).
-- PL/pgSQL keeps the plan; a function in plain SQL is planned anew at each call before Postgres 18.
CREATE OR REPLACE FUNCTION note_event(j jobs, p_event text, p_data jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
    VALUES (j.id, j.tenant_id, p_event, j.state, j.run_no, p_data);
END $$;
