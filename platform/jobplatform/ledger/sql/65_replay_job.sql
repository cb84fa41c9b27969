-- Replay a job that is dead, cancelled or expired: same id, history kept, run_no and dispatch_no keep increasing.
-- Attempts and the counts of crashes and losses are reset; a start_by in the past is removed.
--
-- p_delay: seconds until it is due (a replay of many is rate-limited)
-- verdicts: replayed · live (nothing to replay; with its state) · ended (succeeded, discarded) · gone
--           · workflow (a step that was cancelled with its workflow, or is about to be: replay the workflow)
CREATE OR REPLACE FUNCTION replay_job(
    p_tenant uuid, p_job uuid, p_since timestamptz, p_delay double precision, p_data jsonb
) RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
    h job_history;
    v_now timestamptz;
    v_state text := CASE WHEN p_delay > 0 THEN 'scheduled' ELSE 'available' END;
BEGIN
    FOR v_try IN 1..2 LOOP
        SELECT * INTO j FROM jobs WHERE id = p_job AND tenant_id = p_tenant FOR UPDATE;
        IF FOUND THEN
            IF j.state <> 'dead' THEN
                RETURN QUERY SELECT 'live'::text, j.state;
                RETURN;
            END IF;
            IF EXISTS (SELECT 1 FROM workflows w WHERE w.id = j.workflow_id AND w.state = 'stopping') THEN
                RETURN QUERY SELECT 'workflow'::text, j.state;  -- it would be cancelled with the rest
                RETURN;
            END IF;
            v_now := clock_timestamp();
            UPDATE jobs SET
                state = v_state, state_at = v_now, run_at = v_now + make_interval(secs => p_delay), attempt = 0,
                crash_count = 0, lost_count = 0, progress = NULL, cancel_reason = NULL,
                start_by = CASE WHEN start_by > v_now THEN start_by END
            WHERE id = p_job RETURNING * INTO j;
            EXIT;
        END IF;
        SELECT 'workflow', ended.state INTO verdict, state FROM ended_job(p_tenant, p_job, p_since) AS ended
        WHERE ended.verdict = 'ended' AND EXISTS (
            SELECT 1 FROM workflow_steps s JOIN workflows w ON w.id = s.workflow_id
            WHERE s.id = p_job AND (
                s.state IN ('cancelled', 'skipped') OR w.state = 'stopping'
                OR w.state = 'running' AND s.state = 'failed' AND s.failed_parents > 0));  -- its predecessors come first
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
        -- of two concurrent replays one locks the row; the other waits here, and then finds the job live
        DELETE FROM job_history
        WHERE id = p_job AND finished_at >= p_since AND tenant_id = p_tenant AND state IN ('cancelled', 'expired')
        RETURNING * INTO h;
        IF FOUND THEN
            v_now := clock_timestamp();
            SELECT * INTO j FROM restore_job(h, v_state, v_now + make_interval(secs => p_delay), h.error, v_now);
            INSERT INTO queue_counters AS c (tenant_id, queue, slot, finished)
            VALUES (j.tenant_id, j.queue, pg_backend_pid() % 64, -1)
            ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET finished = c.finished - 1;
            EXIT;
        END IF;
    END LOOP;
    IF j.id IS NULL THEN
        RETURN QUERY SELECT * FROM ended_job(p_tenant, p_job, p_since);
        RETURN;
    END IF;
    IF j.workflow_id IS NOT NULL AND step_is_blocked(j.id)
        -- submitted in another transaction and not released: its payload must be validated first (`release_validated_jobs`)
        OR j.workflow_id IS NULL AND j.run_no = 0 AND EXISTS (
            SELECT 1 FROM job_events e
            WHERE e.job_id = p_job AND e.at >= p_since AND e.event = 'submitted' AND e.state = 'blocked')
        AND NOT EXISTS (
            SELECT 1 FROM job_events e WHERE e.job_id = p_job AND e.at >= p_since AND e.event = 'unblocked')
    THEN
        UPDATE jobs SET state = 'blocked' WHERE id = p_job RETURNING * INTO j;
    END IF;
    PERFORM note_event(j, 'replayed', p_data);
    IF j.workflow_id IS NOT NULL THEN
        PERFORM step_replayed(j);
    END IF;
    RETURN QUERY SELECT 'replayed'::text, j.state;
END $$;

-- Discard a dead or held job: final, and kept in history with the reason.
-- verdicts: discarded · live · ended · gone
CREATE OR REPLACE FUNCTION discard_job(
    p_tenant uuid, p_job uuid, p_since timestamptz, p_reason text, p_data jsonb
) RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job AND tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ended_job(p_tenant, p_job, p_since);
        RETURN;
    END IF;
    IF j.state NOT IN ('dead', 'held') THEN
        RETURN QUERY SELECT 'live'::text, j.state;
        RETURN;
    END IF;
    j.state := 'discarded';
    j.error := jsonb_strip_nulls(jsonb_build_object(
        'code', 'discarded', 'message', p_reason, 'retryable', false, 'last', j.error));
    PERFORM note_event(j, 'discarded', p_data);
    PERFORM finish_job(j, clock_timestamp());
    RETURN QUERY SELECT 'discarded'::text, 'discarded'::text;
END $$;

-- Change the priority or run_at of a job that is not running. NULL leaves a value as it is. A dispatched
-- job returns to available: the dispatcher publishes it again, with the next number, and the old message is stale.
-- verdicts: changed · same (it was so already) · running · live (dead or held) · ended · gone
CREATE OR REPLACE FUNCTION change_job(
    p_tenant uuid, p_job uuid, p_since timestamptz, p_priority integer, p_run_at timestamptz, p_data jsonb
) RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
    v_state text;
    v_now timestamptz;
    v_run_at timestamptz;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job AND tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ended_job(p_tenant, p_job, p_since);
        RETURN;
    END IF;
    IF j.state NOT IN ('blocked', 'scheduled', 'available', 'dispatched') THEN
        RETURN QUERY SELECT CASE WHEN j.state = 'running' THEN 'running' ELSE 'live' END, j.state;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    v_run_at := coalesce(p_run_at, j.run_at);
    IF coalesce(p_priority, j.priority) = j.priority AND v_run_at = j.run_at THEN
        RETURN QUERY SELECT 'same'::text, j.state;
        RETURN;
    END IF;
    v_state := CASE
        WHEN j.state = 'blocked' THEN 'blocked'
        WHEN p_run_at IS NULL AND j.state = 'scheduled' THEN 'scheduled'
        WHEN v_run_at > v_now THEN 'scheduled'
        ELSE 'available' END;
    p_data := p_data || jsonb_strip_nulls(jsonb_build_object(
        'priority', p_priority, 'run_at', p_run_at, 'was_priority', j.priority, 'was_run_at', j.run_at));
    UPDATE jobs SET
        state = v_state, state_at = v_now, run_at = v_run_at, priority = coalesce(p_priority, jobs.priority)
    WHERE id = p_job RETURNING * INTO j;
    PERFORM note_event(j, 'changed', p_data);
    RETURN QUERY SELECT 'changed'::text, j.state;
END $$;
