-- Claim many dispatched jobs in one statement, ahead of a free slot (docs/concepts/delivery.md, "Claim").
--
-- Claims the usual case only: no deadline, no limit keys, no workflow, a small payload, a queue that is not paused. A job
-- that is left out, or whose dispatcher has not committed yet, is claimed by its own `claim_run`, which decides everything
-- else. So nothing is concluded here from a row that does not match.
--
-- p_claims: [{"job", "no" (dispatch), "kind", "lease"}, …]
CREATE OR REPLACE FUNCTION claim_runs(p_claims json, p_worker uuid, p_node text)
RETURNS TABLE (lease uuid, tenant_id uuid, payload json, run_no integer, attempt integer, max_attempts integer)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_jobs uuid[];
BEGIN
    WITH wanted AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_claims) AS wanted (job uuid, no integer, kind text, lease uuid) ORDER BY job
    ), claimed AS (
        UPDATE jobs SET
            state = 'running', state_at = v_now, run_no = jobs.run_no + 1, attempt = jobs.attempt + 1,
            lease_id = wanted.lease, worker_id = p_worker, run_started_at = v_now,
            started_at = coalesce(started_at, v_now), progress = NULL
        FROM wanted
        WHERE jobs.id = wanted.job AND state = 'dispatched' AND dispatch_no = wanted.no AND jobs.kind = wanted.kind
            AND start_by IS NULL AND limit_keys = '{}' AND workflow_id IS NULL AND pg_column_size(jobs.payload) <= 32768
        RETURNING jobs.id
    )
    SELECT array_agg(id) INTO v_jobs FROM claimed;
    -- read after the rows are locked: a pause that was committed before must be obeyed (rule "Pause under the lock")
    IF EXISTS (SELECT 1 FROM queues WHERE paused_at IS NOT NULL) THEN
        WITH undone AS (
            UPDATE jobs SET
                state = 'dispatched', run_no = jobs.run_no - 1, attempt = jobs.attempt - 1, lease_id = NULL,
                worker_id = NULL, started_at = CASE WHEN started_at < v_now THEN started_at END
            FROM queues
            WHERE jobs.id = ANY (v_jobs) AND queues.name = jobs.queue AND queues.paused_at IS NOT NULL
            RETURNING jobs.id
        )
        SELECT array_agg(job) INTO v_jobs FROM unnest(v_jobs) AS job WHERE job NOT IN (SELECT id FROM undone);
    END IF;
    RETURN QUERY WITH claimed AS MATERIALIZED (
        SELECT id, lease_id, tenant_id, payload, run_no, attempt, max_attempts FROM jobs WHERE id = ANY (v_jobs)
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, 'started', 'running', run_no, jsonb_build_object('worker', p_node, 'attempt', attempt)
        FROM claimed
    )
    SELECT lease_id, tenant_id, payload, run_no, attempt, max_attempts FROM claimed;
END $$;
