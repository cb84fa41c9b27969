-- Make scheduled jobs available that became due after p_since; one that its limit keys had refused, at its old position. Returns the queues that got jobs.
CREATE OR REPLACE FUNCTION make_due(p_limit integer, p_since timestamptz) RETURNS TABLE (queue text, made integer)
LANGUAGE sql VOLATILE AS $$
    WITH due AS (
        SELECT id FROM jobs WHERE state = 'scheduled' AND run_at <= clock_timestamp() AND run_at >= p_since
        ORDER BY run_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), made AS (
        UPDATE jobs j SET state = 'available', state_at = coalesce(reserved_at, clock_timestamp())
        FROM due WHERE j.id = due.id RETURNING j.*
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no)
        SELECT id, tenant_id, 'due', state, run_no FROM made
    )
    SELECT queue, count(*)::integer FROM made GROUP BY queue;
$$;

-- Expire jobs whose start_by has passed, after p_since, without a run.
CREATE OR REPLACE FUNCTION expire_jobs(p_limit integer, p_since timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    j jobs;
    v_count integer := 0;
BEGIN
    FOR j IN
        WITH due AS MATERIALIZED (
            SELECT * FROM jobs
            WHERE start_by < clock_timestamp() AND start_by >= p_since AND run_no = 0
                AND state IN ('blocked', 'scheduled', 'available', 'dispatched')
            ORDER BY start_by LIMIT p_limit FOR UPDATE SKIP LOCKED)
        SELECT * FROM due ORDER BY tenant_id, queue  -- counters in one lock order, as in accept_jobs
    LOOP
        -- one before it may have cancelled it: a step of the same workflow that waited for it
        CONTINUE WHEN NOT EXISTS (SELECT 1 FROM jobs WHERE id = j.id);
        j.state := 'expired';
        j.error := jsonb_build_object(
            'code', 'expired', 'message', 'start_by passed before a run began', 'retryable', false);
        PERFORM note_event(j, 'expired');
        PERFORM finish_job(j, clock_timestamp());
        PERFORM count_deadline(j.tenant_id, j.queue, false);
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END $$;

-- All changes of jobs by time, in one round trip. p_slack: only jobs that became due that many seconds ago or
-- later (under a long snapshot an index keeps all that ever were due); NULL: all. more: the limit was
-- reached, so there may be more, and older ones than the slack at the next call.
CREATE OR REPLACE FUNCTION wake_jobs(
    p_limit integer, p_slack double precision,
    OUT due text[], OUT more boolean, OUT seconds_until_due double precision
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_since timestamptz := coalesce(clock_timestamp() - make_interval(secs => p_slack), '-infinity');
    v_made integer;
    v_expired integer;
    v_resumed text[];
    v_resume_seconds double precision;
BEGIN
    SELECT array_agg(queue), sum(made) INTO due, v_made FROM make_due(p_limit, v_since);
    v_expired := expire_jobs(p_limit, v_since);
    more := coalesce(v_made, 0) >= p_limit OR v_expired >= p_limit;
    SELECT extract(epoch FROM run_at - clock_timestamp()) INTO seconds_until_due FROM jobs
    WHERE state = 'scheduled' AND run_at >= v_since ORDER BY run_at LIMIT 1;
    -- pauses with an end time
    WITH resumed AS (
        UPDATE queues SET paused_at = NULL, paused_until = NULL WHERE paused_until <= clock_timestamp() RETURNING name)
    SELECT array_agg(name) INTO v_resumed FROM resumed;
    due := due || v_resumed;
    SELECT extract(epoch FROM min(paused_until) - clock_timestamp()) INTO v_resume_seconds FROM queues;
    seconds_until_due := least(seconds_until_due, v_resume_seconds);
END $$;

-- Return dispatched jobs to available: those of one queue or of all, those that were dispatched in an earlier epoch of
-- the broker (p_other_than: its current epoch), or those dispatched before a time.
CREATE OR REPLACE FUNCTION return_dispatched(
    p_queue text, p_other_than uuid, p_before timestamptz, p_limit integer, p_reason text
) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    WITH stale AS (
        SELECT id FROM jobs
        WHERE state = 'dispatched' AND state IN ('dispatched', 'running') AND (p_queue IS NULL OR queue = p_queue)
            AND (p_other_than IS NULL OR epoch <> p_other_than) AND (p_before IS NULL OR dispatched_at < p_before)
        LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), returned AS (
        UPDATE jobs j SET state = 'available', state_at = clock_timestamp()
        FROM stale WHERE j.id = stale.id RETURNING j.*
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, 'returned', state, run_no, jsonb_build_object('reason', p_reason) FROM returned
    )
    SELECT count(*)::integer FROM returned;
$$;

-- Return jobs dispatched in other epochs (rule "Epoch always"): on every check, not once.
CREATE OR REPLACE FUNCTION return_other_epochs(p_current uuid, p_limit integer) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    SELECT return_dispatched(NULL, p_current, NULL, p_limit, 'RabbitMQ was restarted or wiped');
$$;
