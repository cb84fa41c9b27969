-- Settle many successful runs in one statement, fenced by their leases; returns the leases of the settled ones.
--
-- Settles plain jobs only: no limit keys, no workflow. A run that is not returned is settled by its own `settle_run`, which
-- tells a repeated settlement from a lost lease.
--
-- p_runs: [{"job", "lease", "result", "usage", "seconds"}, …]; seconds: since the handler started, for a run that was claimed
-- ahead of a free slot; NULL: it started at its claim.
CREATE OR REPLACE FUNCTION settle_runs(p_runs json) RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_leases uuid[];
    v_jobs uuid[];
    v_tenants uuid[];
    v_queues text[];
BEGIN
    WITH run AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_runs)
            AS run (job uuid, lease uuid, result json, usage jsonb, seconds double precision) ORDER BY job
    ), gone AS (
        DELETE FROM jobs USING run
        WHERE jobs.id = run.job AND lease_id = run.lease AND workflow_id IS NULL AND limit_keys = '{}'
        RETURNING jobs.*, run.result AS run_result, run.usage AS run_usage,
            greatest(clock_timestamp(), run_started_at) AS ended_at,
            greatest(clock_timestamp() - make_interval(secs => seconds), run_started_at) AS began_at
    ), runs AS (
        INSERT INTO job_runs (
            job_id, run_no, tenant_id, queue, kind, attempt, outcome, lease_id, worker_id, dispatched_at, started_at,
            finished_at, usage)
        SELECT id, run_no, tenant_id, queue, kind, attempt, 'succeeded', lease_id, worker_id, dispatched_at, began_at,
            ended_at, run_usage
        FROM gone
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no)
        SELECT id, tenant_id, 'succeeded', 'succeeded', run_no FROM gone
    ), moved AS (
        INSERT INTO job_history (
            id, tenant_id, queue, kind, state, priority, payload, tags, attempt, max_attempts, run_no, dispatch_no,
            crash_count, crash_limit, lost_count, lost_limit, created_at, state_at, run_at, start_by, dispatched_at,
            started_at, run_started_at, cancel_requested_at, cancel_reason, epoch, progress, result, limit_keys,
            limit_units, finished_at)
        SELECT id, tenant_id, queue, kind, 'succeeded', priority, payload, tags, attempt, max_attempts, run_no,
            dispatch_no, crash_count, crash_limit, lost_count, lost_limit, created_at, ended_at, run_at, start_by,
            dispatched_at, CASE WHEN started_at = run_started_at THEN began_at ELSE started_at END, began_at,
            cancel_requested_at, cancel_reason, epoch, progress, run_result, limit_keys, limit_units, ended_at
        FROM gone
    )
    SELECT array_agg(lease_id), array_agg(id), array_agg(tenant_id), array_agg(queue)
    INTO v_leases, v_jobs, v_tenants, v_queues FROM gone;
    -- before the counters, in the lock order of accepting: otherwise two transactions could deadlock
    DELETE FROM unique_locks WHERE job_id = ANY (v_jobs) AND expires_at IS NULL;
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, finished)
    SELECT tenant_id, queue, pg_backend_pid() % 64, count(*) FROM unnest(v_tenants, v_queues) AS ended (tenant_id, queue)
    GROUP BY tenant_id, queue ORDER BY tenant_id, queue
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET finished = c.finished + excluded.finished;
    RETURN QUERY SELECT unnest(v_leases);
END $$;
