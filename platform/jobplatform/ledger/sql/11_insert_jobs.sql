-- Jobs that are not submitted by a request, and jobs that come back from history. Requests have accept_job, accept_jobs
-- and accept_batch, whose statements are measured.

-- Insert jobs with their events, and count them. p_jobs: an array of {"id", "tenant_id", "queue", "kind", "state",
-- "priority", "payload", "tags", "max_attempts", "crash_limit", "lost_limit", "run_at" (default: now), "start_by",
-- "workflow_id", "limit_keys", "limit_units", "data" (of the event)}. Returns "queue priority,…" that got available jobs.
CREATE OR REPLACE FUNCTION insert_jobs(p_jobs json) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_woken text;
BEGIN
    WITH asked AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_jobs) AS o (
            id uuid, tenant_id uuid, queue text, kind text, state text, priority integer, payload json, tags text[],
            max_attempts integer, crash_limit integer, lost_limit integer, run_at timestamptz, start_by timestamptz,
            workflow_id uuid, limit_keys text[], limit_units integer[], data jsonb)
    ), made AS (
        INSERT INTO jobs (
            id, tenant_id, queue, kind, state, priority, payload, tags, max_attempts, crash_limit, lost_limit,
            created_at, state_at, run_at, start_by, workflow_id, limit_keys, limit_units)
        SELECT id, tenant_id, queue, kind, state, priority, payload, coalesce(tags, '{}'), max_attempts, crash_limit,
               lost_limit, v_now, v_now, coalesce(run_at, v_now), start_by, workflow_id, keys_of(limit_keys, tenant_id),
               coalesce(limit_units, '{}')
        FROM asked
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, 'submitted', state, 0, data FROM asked
    ), counted AS (
        INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted)
        SELECT tenant_id, queue, pg_backend_pid() % 64, count(*) FROM asked GROUP BY tenant_id, queue
        ORDER BY tenant_id, queue
        ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET accepted = c.accepted + excluded.accepted
    )
    SELECT string_agg(DISTINCT queue || ' ' || priority, ',') INTO v_woken FROM asked WHERE state = 'available';
    RETURN v_woken;
END $$;

-- The same in a settling transaction: its caller sends the hints after the commit (`jobplatform.woken`).
CREATE OR REPLACE FUNCTION insert_following_jobs(p_jobs json) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_woken text := insert_jobs(p_jobs);
BEGIN
    IF v_woken IS NOT NULL THEN
        PERFORM set_config('jobplatform.woken', concat_ws(
            ',', nullif(current_setting('jobplatform.woken', true), ''), v_woken), true);
    END IF;
END $$;

-- Make a job of a row that was deleted from the history: without its attempts, and without a deadline that has passed.
CREATE OR REPLACE FUNCTION restore_job(
    h job_history, p_state text, p_run_at timestamptz, p_error jsonb, p_now timestamptz) RETURNS jobs
LANGUAGE sql VOLATILE AS $$
    INSERT INTO jobs (
        id, tenant_id, queue, kind, state, priority, payload, tags, attempt, max_attempts, run_no, dispatch_no,
        crash_limit, lost_limit, created_at, state_at, run_at, start_by, dispatched_at, started_at, run_started_at,
        epoch, error, workflow_id, limit_keys, limit_units)
    VALUES (
        h.id, h.tenant_id, h.queue, h.kind, p_state, h.priority, h.payload, h.tags, 0, h.max_attempts, h.run_no,
        h.dispatch_no, h.crash_limit, h.lost_limit, h.created_at, p_now, p_run_at,
        CASE WHEN h.start_by > p_now THEN h.start_by END, h.dispatched_at, h.started_at, h.run_started_at, h.epoch,
        p_error, h.workflow_id, h.limit_keys, h.limit_units)
    RETURNING jobs.*;
$$;
