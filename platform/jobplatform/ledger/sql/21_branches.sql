-- Failures that end their own branch of a workflow (docs/concepts/workflows.md, "Failures"), and jobs that a failure makes.

-- The error of a workflow, from the step that has failed it.
CREATE OR REPLACE FUNCTION step_failure(p_name text, p_job uuid, p_state text, p_error jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'code', 'step_failed', 'message', format('step %s is %s', p_name, p_state), 'step', p_name, 'job_id', p_job,
        'last', p_error));
$$;

-- A step has failed: create its errback jobs. Each has `failed` in its payload's headers, the id
-- of the failed job. Cancelled or expired jobs have not failed.
CREATE OR REPLACE FUNCTION call_errbacks(s workflow_steps, j jobs) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- a replay that was stopped before it ran is not a failure either: a replay resets all counters
    IF s.errbacks IS NULL OR j.state <> 'dead' OR j.attempt + j.crash_count + j.lost_count = 0 THEN
        RETURN;
    END IF;
    PERFORM insert_following_jobs(json_agg(errback || jsonb_build_object(
        'id', gen_step_id(), 'tenant_id', j.tenant_id, 'state', 'available',
        'payload', jsonb_set(errback -> 'payload', '{headers,failed}', to_jsonb(j.id)))))
    FROM jsonb_array_elements(s.errbacks) AS errback
    HAVING count(*) > 0;
END $$;

-- The error of a step that is cancelled because a job it waited for has failed (dead jobs are live).
CREATE OR REPLACE FUNCTION branch_error(p_cause uuid, p_since timestamptz) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'code', 'step_failed', 'message', format('step %s, which it waited for, has failed', p.name),
        'retryable', false, 'step', p.name, 'job_id', p.id, 'last', coalesce(live.error, ended.error)))
    FROM workflow_steps p LEFT JOIN jobs live ON live.id = p.id
    LEFT JOIN job_history ended ON ended.id = p.id AND ended.finished_at >= p_since
    WHERE p.id = p_cause;
$$;

-- Whether the header of a chord has started: the steps it waits for (`header_after` of its body's template) have not failed.
CREATE OR REPLACE FUNCTION chord_has_begun(p_template jsonb) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT 1 FROM jsonb_array_elements_text(p_template -> 'header_after') AS before (id)
        JOIN workflow_steps p ON p.id = before.id::uuid
        WHERE p.failure_propagated OR p.state IN ('failed', 'cancelled'));
$$;

-- All predecessors of these steps have ended, and some have failed: the steps are cancelled, and so are their successors,
-- whatever their own policies. Returns the steps to notify, the failed job, and the number of steps that nothing
-- waits for. Set-based, as one settlement may cancel ten thousand. Other steps of a stopping workflow stay.
CREATE OR REPLACE FUNCTION skip_steps(
    p_workflow uuid, p_steps uuid[], OUT failed uuid[], OUT causes uuid[], OUT sinks integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    w workflows;
    s workflow_steps;
    j jobs;
    v_steps uuid[];
    v_now timestamptz := clock_timestamp();
BEGIN
    failed := '{}';
    causes := '{}';
    sinks := 0;
    SELECT * INTO w FROM workflows WHERE id = p_workflow AND state = 'running';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT array_agg(id), count(*) FILTER (WHERE cardinality(children) = 0) INTO v_steps, sinks FROM workflow_steps
    WHERE id = ANY (p_steps) AND NOT failure_propagated
        AND (state IN ('waiting', 'joining', 'skipped') OR state = 'failed' AND on_failure = 'skip');
    SELECT coalesce(array_agg(child), '{}'), coalesce(array_agg(cause), '{}') INTO failed, causes FROM (
        SELECT unnest(children) AS child, coalesce(failed_by, id) AS cause FROM workflow_steps WHERE id = ANY (v_steps)
    ) AS each;
    WITH mine AS MATERIALIZED (
        SELECT id, failed_by AS cause FROM workflow_steps WHERE id = ANY (v_steps) AND type = 'job' AND state = 'waiting'
    ), why AS MATERIALIZED (
        SELECT cause, branch_error(cause, w.created_at - interval '1 day') AS error
        FROM (SELECT DISTINCT cause FROM mine) AS each
    ), gone AS (
        DELETE FROM jobs USING mine LEFT JOIN why USING (cause)
        WHERE jobs.id = mine.id AND jobs.state = 'blocked' RETURNING jobs.*, why.error AS why
    ), moved AS (
        INSERT INTO job_history (
            id, tenant_id, queue, kind, state, priority, payload, tags, attempt, max_attempts, run_no, dispatch_no,
            crash_count, crash_limit, lost_count, lost_limit, created_at, state_at, run_at, start_by, dispatched_at,
            started_at, run_started_at, epoch, progress, error, workflow_id, limit_keys, limit_units, finished_at)
        SELECT id, tenant_id, queue, kind, 'cancelled', priority, payload, tags, attempt, max_attempts, run_no,
               dispatch_no, crash_count, crash_limit, lost_count, lost_limit, created_at, v_now, run_at, start_by,
               dispatched_at, started_at, run_started_at, epoch, progress, why, workflow_id, limit_keys, limit_units, v_now
        FROM gone
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, 'cancelled', 'cancelled', run_no,
               jsonb_build_object('by', 'its workflow', 'reason', why -> 'message') FROM gone
    ), unlocked AS (
        DELETE FROM unique_locks USING gone WHERE unique_locks.job_id = gone.id AND expires_at IS NULL
    )
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, finished)
    SELECT tenant_id, queue, pg_backend_pid() % 64, count(*) FROM gone GROUP BY tenant_id, queue
    ORDER BY tenant_id, queue
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET finished = c.finished + excluded.finished;
    FOR s IN
        SELECT * FROM workflow_steps b WHERE id = ANY (v_steps) AND errbacks IS NOT NULL
            AND (state = 'joining' OR state = 'waiting' AND skip_calls_errbacks
                 -- steps that fail before the header call their own errbacks
                 AND chord_has_begun(b.template))
            ORDER BY id
    LOOP
        j.id := s.id;
        j.tenant_id := w.tenant_id;
        j.state := 'dead';
        j.attempt := 1;
        j.crash_count := 0;
        j.lost_count := 0;
        PERFORM call_errbacks(s, j);
    END LOOP;
    UPDATE workflow_steps SET
        state = CASE WHEN state = 'waiting' THEN 'cancelled' ELSE state END, failure_propagated = true
    WHERE id = ANY (v_steps);
END $$;

-- Retract failures: a failed step is replayed while its workflow continues. Steps that
-- were cancelled for it wait again, level by level. The caller has locked the workflow.
CREATE OR REPLACE FUNCTION retract_notifications(p_workflow uuid, p_told uuid[], p_sinks integer) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_told uuid[] := p_told;
    v_back uuid[];
    v_sinks integer := p_sinks;
    v_more integer;
BEGIN
    WHILE cardinality(v_told) > 0 LOOP
        PERFORM 1 FROM workflow_steps WHERE id = ANY (v_told) ORDER BY id FOR UPDATE;
        SELECT array_agg(id), count(*) FILTER (WHERE cardinality(children) = 0) INTO v_back, v_more
        FROM workflow_steps WHERE id = ANY (v_told) AND failure_propagated;
        UPDATE workflow_steps s SET
            pending = pending + back.times, failed_parents = failed_parents - back.times, failure_propagated = false,
            failed_by = CASE WHEN failed_parents > back.times THEN failed_by END
        FROM (SELECT id, count(*)::integer AS times FROM unnest(v_told) AS id GROUP BY id) AS back
        WHERE s.id = back.id;
        EXIT WHEN v_back IS NULL;
        v_sinks := v_sinks + v_more;
        UPDATE workflow_steps SET state = 'waiting' WHERE id = ANY (v_back) AND state = 'cancelled';
        PERFORM restore_steps(p_workflow, v_back);
        SELECT coalesce(array_agg(child), '{}') INTO v_told
        FROM workflow_steps p, unnest(p.children) AS child WHERE p.id = ANY (v_back);
    END LOOP;
    UPDATE workflows SET pending = pending + v_sinks WHERE id = p_workflow;
END $$;
