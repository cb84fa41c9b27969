-- Move a job that has ended from the live table to history, with its counter, its unique lock and its workflow's step.
-- `j` carries the final state already; the caller holds the row's lock, or has deleted it.
CREATE OR REPLACE FUNCTION finish_job(j jobs, p_finished_at timestamptz, p_deleted boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT p_deleted THEN
        DELETE FROM jobs WHERE id = j.id;
    END IF;
    INSERT INTO job_history (
        id, tenant_id, queue, kind, state, priority, payload, tags, attempt, max_attempts, run_no, dispatch_no,
        crash_count, crash_limit, lost_count, lost_limit, created_at, state_at, run_at, start_by, dispatched_at,
        started_at, run_started_at, cancel_requested_at, cancel_reason, epoch, worker_id, lease_id, progress, result,
        error, workflow_id, limit_keys, limit_units, finished_at)
    VALUES (
        j.id, j.tenant_id, j.queue, j.kind, j.state, j.priority, j.payload, j.tags, j.attempt, j.max_attempts,
        j.run_no, j.dispatch_no, j.crash_count, j.crash_limit, j.lost_count, j.lost_limit, j.created_at,
        p_finished_at, j.run_at, j.start_by, j.dispatched_at, j.started_at, j.run_started_at, j.cancel_requested_at,
        j.cancel_reason, j.epoch, NULL, NULL, j.progress, j.result, j.error, j.workflow_id,
        j.limit_keys, j.limit_units, p_finished_at);
    -- before the counter, in the lock order of accepting: otherwise two transactions could deadlock
    DELETE FROM unique_locks WHERE job_id = j.id AND expires_at IS NULL;
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, finished)
    VALUES (j.tenant_id, j.queue, pg_backend_pid() % 64, 1)
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET finished = c.finished + 1;
    IF j.workflow_id IS NOT NULL THEN
        PERFORM step_ended(j);
    END IF;
END $$;
