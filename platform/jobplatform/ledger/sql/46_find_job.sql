-- Find a job, live or in history: one round trip, and one snapshot, so that a job that moves meanwhile is not missed between
-- the two tables. p_tenant NULL: any tenant. p_since: do not read jobs that ended earlier (NULL: only live jobs).
--
-- Uses the generic plan: custom plans would be made for each call, over all partitions. It prunes partitions before p_since at start.
CREATE OR REPLACE FUNCTION find_job(p_tenant uuid, p_job uuid, p_since timestamptz)
RETURNS TABLE (
    id uuid, kind text, queue text, state text, priority smallint, attempt integer, max_attempts integer, run_no integer,
    created_at timestamptz, run_at timestamptz, start_by timestamptz, started_at timestamptz, progress jsonb, result json,
    error jsonb, tags text[], cancel_requested_at timestamptz, workflow_id uuid, finished_at timestamptz)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT j.id, j.kind, j.queue, j.state, j.priority, j.attempt, j.max_attempts, j.run_no, j.created_at, j.run_at,
               j.start_by, j.started_at, j.progress, j.result, j.error, j.tags, j.cancel_requested_at, j.workflow_id,
               NULL::timestamptz
        FROM jobs j WHERE j.id = p_job AND (p_tenant IS NULL OR j.tenant_id = p_tenant);
    IF FOUND OR p_since IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
        SELECT h.id, h.kind, h.queue, h.state, h.priority, h.attempt, h.max_attempts, h.run_no, h.created_at, h.run_at,
               h.start_by, h.started_at, h.progress, h.result, h.error, h.tags, h.cancel_requested_at, h.workflow_id,
               h.finished_at
        FROM job_history h
        WHERE h.id = p_job AND h.finished_at >= p_since AND (p_tenant IS NULL OR h.tenant_id = p_tenant);
END $$;
