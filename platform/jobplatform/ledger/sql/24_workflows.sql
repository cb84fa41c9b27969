-- Workflows: accept, stop, replay, delete.

-- Accept a workflow: its row, its steps and their jobs in one transaction (I1).
-- p_steps: see insert_steps; p_pending: number of steps without successors.
-- verdicts: accepted · repeated (workflow_id is the earlier one) · conflict (the key was used for another request)
--           · quota (of quota_queue; quota_seconds as in accept_job)
CREATE OR REPLACE FUNCTION create_workflow(
    p_tenant uuid, p_idempotency_key text, p_request_hash bytea, p_idempotency_seconds integer,
    p_id uuid, p_name text, p_time_limit double precision, p_pending integer, p_steps json,
    OUT verdict text, OUT workflow_id uuid, OUT woken text, OUT quota_queue text, OUT quota_seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_hash bytea;
    v_now timestamptz := clock_timestamp();
    v_over bigint;
BEGIN
    WHILE p_idempotency_key IS NOT NULL LOOP
        -- a second request with the key waits here until the first has committed
        INSERT INTO idempotency_keys AS k (tenant_id, key, request_hash, job_id, expires_at)
        VALUES (p_tenant, p_idempotency_key, p_request_hash, p_id, v_now + make_interval(secs => p_idempotency_seconds))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET request_hash = excluded.request_hash, job_id = excluded.job_id, created_at = clock_timestamp(),
                expires_at = excluded.expires_at
            WHERE k.expires_at < clock_timestamp();
        EXIT WHEN FOUND;
        SELECT k.job_id, k.request_hash INTO workflow_id, v_hash FROM idempotency_keys k
        WHERE k.tenant_id = p_tenant AND k.key = p_idempotency_key AND k.expires_at >= clock_timestamp();
        IF FOUND THEN
            verdict := CASE WHEN v_hash = p_request_hash THEN 'repeated' ELSE 'conflict' END;
            RETURN;
        END IF;
    END LOOP;
    IF EXISTS (SELECT 1 FROM quotas) THEN
        SELECT o.queue, greatest(o.jobs - quota_left(p_tenant, o.queue), o.of_all - live_left(p_tenant)) INTO quota_queue, v_over
        FROM (SELECT queue, count(*) AS jobs, sum(count(*)) OVER ()::bigint AS of_all FROM json_to_recordset(p_steps) AS s (queue text) WHERE queue IS NOT NULL
              GROUP BY queue) AS o
        ORDER BY 2 DESC NULLS LAST LIMIT 1;
        IF v_over > 0 THEN  -- a refusal binds no key: a repetition is a new submission
            DELETE FROM idempotency_keys k WHERE k.tenant_id = p_tenant AND k.key = p_idempotency_key AND k.job_id = p_id;
            verdict := 'quota';
            quota_seconds := quota_seconds(p_tenant, quota_queue, v_over);
            RETURN;
        END IF;
    END IF;
    INSERT INTO workflows (id, tenant_id, name, state, pending, time_limit_seconds, deadline_at)
    VALUES (p_id, p_tenant, p_name, 'running', p_pending, p_time_limit, v_now + make_interval(secs => p_time_limit));
    PERFORM insert_steps(p_tenant, p_id, p_steps);
    verdict := 'accepted';
    workflow_id := p_id;
    woken := nullif(current_setting('jobplatform.woken', true), '');
END $$;

-- Request the cancellation of a workflow; `stop_workflow` carries it out. verdicts: requested · ended (state says how) · gone
CREATE OR REPLACE FUNCTION cancel_workflow(p_tenant uuid, p_workflow uuid, p_reason text, p_by text)
RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    UPDATE workflows SET
        state = 'stopping', stop_as = 'cancelled', kill_running = true, error = jsonb_strip_nulls(jsonb_build_object(
            'code', 'cancelled', 'message', coalesce(p_reason, 'cancelled'), 'by', p_by, 'last', error))
    WHERE id = p_workflow AND tenant_id = p_tenant AND state IN ('running', 'stopping')
        AND stop_as IS DISTINCT FROM 'cancelled';
    IF FOUND THEN
        RETURN QUERY SELECT 'requested'::text, 'stopping'::text;
        RETURN;
    END IF;
    RETURN QUERY SELECT CASE WHEN w.state = 'stopping' THEN 'requested' ELSE 'ended' END, w.state
    FROM workflows w WHERE w.id = p_workflow AND w.tenant_id = p_tenant;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'gone'::text, NULL::text;
    END IF;
END $$;

-- Cancel waiting jobs of a stopping workflow, at most p_limit; running ones are left to end, or are cancelled too
-- (`kill_running`). When only jobs that need an operator are left, it has ended. Returns its state.
CREATE OR REPLACE FUNCTION stop_workflow(p_workflow uuid, p_limit integer) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    w workflows;
    j jobs;
    v_unblocked jsonb;
BEGIN
    SELECT * INTO w FROM workflows WHERE id = p_workflow;  -- not locked: jobs come before their workflow
    IF w.state <> 'stopping' THEN
        RETURN w.state;
    END IF;
    v_unblocked := jsonb_build_object('by', coalesce(w.error ->> 'by', 'its workflow'), 'reason', w.error ->> 'message');
    FOR j IN
        SELECT live.* FROM workflow_steps s JOIN jobs live ON live.id = s.id
        WHERE s.workflow_id = p_workflow AND (
            live.state IN ('blocked', 'scheduled', 'available', 'dispatched') AND s.state IN ('waiting', 'open')
            OR live.state IN ('dead', 'held') AND w.stop_as = 'cancelled'
            OR live.state = 'running' AND w.kill_running AND live.cancel_requested_at IS NULL)
        ORDER BY live.queue, live.id LIMIT p_limit FOR UPDATE OF live, s SKIP LOCKED
    LOOP
        IF j.state = 'running' THEN
            UPDATE jobs SET cancel_requested_at = clock_timestamp(), cancel_reason = w.error ->> 'message'
            WHERE id = j.id RETURNING * INTO j;
            PERFORM note_event(j, 'cancel_requested', v_unblocked);
            CONTINUE;
        END IF;
        UPDATE workflow_steps SET state = 'cancelled' WHERE id = j.id AND state <> 'done';
        j.state := 'cancelled';
        j.cancel_reason := w.error ->> 'message';
        j.error := jsonb_strip_nulls(jsonb_build_object(
            'code', CASE WHEN w.stop_as = 'cancelled' THEN 'cancelled' ELSE 'workflow_failed' END,
            'message', w.error ->> 'message', 'retryable', false, 'last', j.error));
        PERFORM note_event(j, 'cancelled', v_unblocked);
        PERFORM finish_job(j, clock_timestamp());
    END LOOP;
    PERFORM 1 FROM workflow_steps s JOIN jobs live ON live.id = s.id
    WHERE s.workflow_id = p_workflow AND (live.state NOT IN ('dead', 'held') OR w.stop_as = 'cancelled');
    IF FOUND THEN
        RETURN w.state;
    END IF;
    UPDATE workflow_steps SET state = 'cancelled' WHERE workflow_id = p_workflow AND type <> 'job' AND state = 'waiting';
    -- everything was done before it could be stopped: success wins
    UPDATE workflows SET state = 'succeeded', ended_at = clock_timestamp(), error = NULL
    WHERE id = p_workflow AND state = 'stopping' AND pending = 0
        AND NOT EXISTS (
            SELECT 1 FROM workflow_steps s WHERE s.workflow_id = p_workflow AND (s.state = 'failed' OR s.failure_propagated));
    UPDATE workflows SET state = stop_as, ended_at = clock_timestamp()
    WHERE id = p_workflow AND state = 'stopping';
    SELECT * INTO w FROM workflows WHERE id = p_workflow;
    RETURN w.state;
END $$;

-- Stop workflows past their time limit. In a transaction of its own: it locks workflows, which come after jobs in the lock order.
CREATE OR REPLACE FUNCTION time_out_workflows() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count integer;
BEGIN
    UPDATE workflows SET
        state = 'stopping', stop_as = 'failed', kill_running = true, error = jsonb_build_object(
            'code', 'timed_out', 'message', format('its time limit of %s s is over', time_limit_seconds))
    WHERE id IN (
        SELECT id FROM workflows WHERE state = 'running' AND deadline_at <= clock_timestamp()
        ORDER BY deadline_at LIMIT 100 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- Whether a failed step waits for others, or for the replay of one: its replayed job waits with it. Locked, as the
-- last of them may be settled concurrently.
CREATE OR REPLACE FUNCTION step_is_blocked(p_job uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    s workflow_steps;
BEGIN
    SELECT * INTO s FROM workflow_steps WHERE id = p_job FOR UPDATE;
    RETURN s.state = 'failed' AND (s.pending > 0 OR s.failed_parents > 0);
END $$;

-- A failed step runs again. If its workflow continues, steps that were cancelled for it wait again; if the workflow has
-- ended and this was the last failed step, the rest is restored. `replay_workflow` restores it by itself, once.
CREATE OR REPLACE FUNCTION step_replayed(j jobs) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    w workflows;
    s workflow_steps;
BEGIN
    UPDATE workflow_steps SET state = CASE WHEN j.state = 'blocked' THEN 'waiting' ELSE 'open' END
    WHERE id = j.id AND state = 'failed' RETURNING * INTO s;
    IF NOT FOUND OR current_setting('jobplatform.replaying', true) = j.workflow_id::text THEN
        UPDATE workflow_steps SET failure_propagated = false WHERE id = s.id;
        RETURN;
    END IF;
    SELECT * INTO w FROM workflows WHERE id = j.workflow_id FOR UPDATE;
    UPDATE workflow_steps SET failure_propagated = false WHERE id = s.id;
    IF w.state = 'running' AND s.failure_propagated THEN
        PERFORM retract_notifications(w.id, s.children, (cardinality(s.children) = 0)::integer);
    END IF;
    IF w.state = 'running' AND w.error ->> 'job_id' = j.id::text THEN
        UPDATE workflows SET error = (
            SELECT step_failure(f.name, f.id, 'dead', NULL) FROM workflow_steps f
            WHERE f.workflow_id = w.id AND f.state = 'failed' ORDER BY f.position LIMIT 1)
        WHERE id = w.id;
    END IF;
    IF w.state = 'failed' AND NOT EXISTS (
            SELECT 1 FROM workflow_steps WHERE workflow_id = w.id AND state = 'failed') THEN
        PERFORM revive_workflow(w.id);
    END IF;
END $$;

-- Restore jobs of waiting steps from history: all of a workflow, or some.
CREATE OR REPLACE FUNCTION restore_steps(p_workflow uuid, p_steps uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_since timestamptz;
BEGIN
    SELECT created_at - interval '1 day' INTO v_since FROM workflows WHERE id = p_workflow;
    WITH back AS (
        DELETE FROM job_history USING workflow_steps s
        WHERE s.workflow_id = p_workflow AND s.state = 'waiting' AND s.type = 'job' AND job_history.id = s.id
            AND (p_steps IS NULL OR s.id = ANY (p_steps))
            AND job_history.finished_at >= v_since AND job_history.state = 'cancelled'
        RETURNING job_history.*
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT j.id, j.tenant_id, 'replayed', j.state, j.run_no, '{"by": "its workflow"}'
        FROM back CROSS JOIN LATERAL restore_job(back, 'blocked', back.run_at, NULL, v_now) AS j
    )
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, finished)
    SELECT tenant_id, queue, pg_backend_pid() % 64, -count(*) FROM back GROUP BY tenant_id, queue
    ORDER BY tenant_id, queue
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET finished = c.finished + excluded.finished;
END $$;

-- Restore the cancelled steps of an ended workflow, unless one of its steps is still failed. The caller has locked
-- its row.
CREATE OR REPLACE FUNCTION revive_workflow(p_workflow uuid) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    w workflows;
    v_now timestamptz := clock_timestamp();
    v_ready uuid[];
    v_unblocked uuid[];
    v_sinks integer;
BEGIN
    -- a concurrently settling run decrements its successors, or fails: it comes first, and is seen below
    PERFORM 1 FROM workflow_steps WHERE workflow_id = p_workflow AND state <> 'done' ORDER BY id FOR UPDATE;
    PERFORM 1 FROM workflow_steps WHERE workflow_id = p_workflow AND state = 'failed';
    IF FOUND THEN
        RETURN;
    END IF;
    UPDATE workflow_steps SET state = 'waiting' WHERE workflow_id = p_workflow AND state = 'cancelled';
    UPDATE workflow_steps s SET pending = coalesce(counted.open, 0), failed_parents = 0, failed_by = NULL,
        failure_propagated = false
    FROM workflow_steps t LEFT JOIN (
        SELECT child, count(*)::integer AS open FROM workflow_steps p, unnest(p.children) AS child
        WHERE p.workflow_id = p_workflow AND p.state <> 'done' GROUP BY child) AS counted ON counted.child = t.id
    WHERE t.id = s.id AND s.workflow_id = p_workflow AND s.state <> 'done';
    UPDATE workflows SET
        state = 'running', stop_as = NULL, kill_running = false, error = NULL, ended_at = NULL,
        deadline_at = v_now + make_interval(secs => time_limit_seconds),
        pending = (SELECT count(*) FROM workflow_steps
                   WHERE workflow_id = p_workflow AND state <> 'done' AND cardinality(children) = 0)
    WHERE id = p_workflow RETURNING * INTO w;
    PERFORM restore_steps(p_workflow, NULL);
    SELECT array_agg(id) INTO v_ready FROM workflow_steps
    WHERE workflow_id = p_workflow AND pending = 0 AND state IN ('waiting', 'joining', 'skipped');
    IF v_ready IS NOT NULL THEN
        SELECT unblocked, sinks INTO v_unblocked, v_sinks FROM unblock_steps(p_workflow, v_ready);
        PERFORM notify_steps(p_workflow, v_unblocked, v_sinks);
    END IF;
END $$;

-- Replay a failed or cancelled workflow from its failed steps. Completed steps are not repeated.
-- verdicts: replayed · live (it has not ended) · ended (it has succeeded) · stuck (a step of it was discarded; state
--           is its name) · gone
CREATE OR REPLACE FUNCTION replay_workflow(p_tenant uuid, p_workflow uuid, p_data jsonb)
RETURNS TABLE (verdict text, state text, woken text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    w workflows;
    s workflow_steps;
    v_verdict text;
    v_since timestamptz;
BEGIN
    -- jobs come before their workflow
    PERFORM 1 FROM workflow_steps f JOIN jobs ON jobs.id = f.id
    WHERE f.workflow_id = p_workflow AND f.state = 'failed' ORDER BY jobs.id FOR UPDATE OF jobs;
    SELECT * INTO w FROM workflows WHERE id = p_workflow AND tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'gone'::text, NULL::text, NULL::text;
        RETURN;
    END IF;
    IF w.state NOT IN ('failed', 'cancelled') THEN
        RETURN QUERY SELECT CASE WHEN w.state = 'succeeded' THEN 'ended' ELSE 'live' END, w.state, NULL::text;
        RETURN;
    END IF;
    v_since := w.created_at - interval '1 day';
    SELECT step.* INTO s FROM workflow_steps step
    WHERE step.workflow_id = p_workflow AND step.type = 'job' AND step.state IN ('failed', 'cancelled')
        AND NOT EXISTS (SELECT 1 FROM jobs WHERE id = step.id)
        AND NOT EXISTS (SELECT 1 FROM job_history h WHERE h.id = step.id AND h.finished_at >= v_since
                            AND h.state IN ('cancelled', 'expired'))
    ORDER BY step.position LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT 'stuck'::text, s.name, NULL::text;
        RETURN;
    END IF;
    -- the workflow is unchanged until all of them are replayed: revived once, below
    PERFORM set_config('jobplatform.replaying', p_workflow::text, true);
    UPDATE workflow_steps SET state = 'waiting' WHERE workflow_id = p_workflow AND type <> 'job' AND workflow_steps.state = 'failed';
    FOR s IN SELECT * FROM workflow_steps WHERE workflow_id = p_workflow AND workflow_steps.state = 'failed' ORDER BY position LOOP
        PERFORM replay_job(p_tenant, s.id, v_since, 0, p_data);
    END LOOP;
    PERFORM set_config('jobplatform.replaying', '', true);
    PERFORM revive_workflow(p_workflow);
    RETURN QUERY SELECT 'replayed'::text, 'running'::text, nullif(current_setting('jobplatform.woken', true), '');
END $$;

-- Delete workflows that ended before a time and have no live jobs. Returns how many.
CREATE OR REPLACE FUNCTION forget_workflows(p_before timestamptz, p_limit integer) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    WITH old AS (
        SELECT id FROM workflows w WHERE ended_at < p_before
            AND NOT EXISTS (SELECT 1 FROM workflow_steps s JOIN jobs ON jobs.id = s.id WHERE s.workflow_id = w.id)
        ORDER BY ended_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), steps AS (
        DELETE FROM workflow_steps WHERE workflow_id IN (SELECT id FROM old)
    ), gone AS (
        DELETE FROM workflows WHERE id IN (SELECT id FROM old) RETURNING id
    )
    SELECT count(*)::integer FROM gone;
$$;
