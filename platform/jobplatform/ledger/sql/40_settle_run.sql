-- End a run: its row, the job's state, the event, the counter and the move to history in one transaction, fenced by
-- the lease (I4, I5; docs/concepts/delivery.md, "Settle").
--
-- p_outcome: succeeded · failed · timed_out · snoozed · released · held · crashed · lost · cancelled
-- p_state:   what the caller decided for the job: succeeded · scheduled (after p_delay seconds) · dead · available · held.
--            Ignored for crashed and lost, whose limits are in the row.
-- p_added:   steps that a success adds to its workflow
-- p_next_run: changes for its next run: payload, priority
-- p_max_age: no attempt starts later than this many seconds after the job was accepted: dead instead of scheduled
-- woken:     "queue priority,…" that got jobs by it: steps of its workflow
-- freed:     whether it has returned slots of limit keys, for which jobs of other queues may wait
-- verdicts:  settled · already (the response of an earlier commit was lost) · lost (the lease)
CREATE OR REPLACE FUNCTION settle_run(
    p_job uuid, p_lease uuid, p_outcome text, p_state text, p_delay double precision DEFAULT 0,
    p_result json DEFAULT NULL, p_error jsonb DEFAULT NULL, p_usage jsonb DEFAULT NULL,
    p_max_age double precision DEFAULT NULL, p_added json DEFAULT NULL, p_next_run json DEFAULT NULL
) RETURNS TABLE (verdict text, state text, woken text, freed boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
    v_now timestamptz;
    v_outcome text := p_outcome;
    v_state text := p_state;
    -- a year at most: a delay given in milliseconds by mistake must not create a time that no client can read
    v_delay double precision := greatest(0, least(coalesce(nullif(p_delay, 'NaN'), 0), 366 * 86400));
    v_error jsonb := p_error;
    v_before text;
    v_limit_note text;
    v_code text;
    v_deleted boolean := p_outcome = 'succeeded';
BEGIN
    IF v_deleted THEN  -- success wins over any request: nothing to check first
        DELETE FROM jobs WHERE id = p_job AND lease_id = p_lease RETURNING * INTO j;
    ELSE
        SELECT * INTO j FROM jobs WHERE id = p_job FOR UPDATE;
    END IF;
    IF NOT FOUND OR j.lease_id IS DISTINCT FROM p_lease THEN
        SELECT r.outcome INTO v_before FROM job_runs r WHERE r.job_id = p_job AND r.lease_id = p_lease;
        IF v_before = p_outcome THEN
            RETURN QUERY SELECT 'already'::text, p_state, NULL::text, false;
        ELSIF v_before = 'cancelled' THEN
            RETURN QUERY SELECT 'already'::text, 'cancelled'::text, NULL::text, false;
        ELSE
            RETURN QUERY SELECT 'lost'::text, NULL::text, NULL::text, false;
        END IF;
        RETURN;
    END IF;

    v_now := greatest(clock_timestamp(), j.run_started_at);
    IF p_outcome = 'cancelled' OR (j.cancel_requested_at IS NOT NULL AND p_outcome <> 'succeeded') THEN
        v_outcome := 'cancelled';
        v_state := 'cancelled';
    ELSIF p_outcome = 'crashed' THEN
        j.crash_count := j.crash_count + 1;
        v_state := CASE WHEN j.crash_count >= j.crash_limit THEN 'dead' ELSE 'scheduled' END;
        v_limit_note := format('%s runs of this job took their process down (limit %s)', j.crash_count, j.crash_limit);
        v_delay := least(300, power(2, least(j.crash_count, 10) - 1) - 1);
    ELSIF p_outcome = 'lost' THEN
        j.lost_count := j.lost_count + 1;
        v_state := CASE WHEN j.lost_count >= j.lost_limit THEN 'dead' ELSE 'scheduled' END;
        v_limit_note := format('%s workers vanished under this job (limit %s)', j.lost_count, j.lost_limit);
        v_delay := least(300, power(2, least(j.lost_count, 10) - 1) - 1);
    END IF;
    IF v_outcome IN ('snoozed', 'released', 'held', 'crashed', 'lost') THEN
        j.attempt := j.attempt - 1;
    END IF;
    IF v_state = 'scheduled' AND v_outcome IN ('failed', 'timed_out')
            AND v_now + make_interval(secs => v_delay) > j.created_at + make_interval(secs => p_max_age) THEN
        v_state := 'dead';
        v_code := 'too_old';
        v_limit_note := format('no attempt may begin later than %s s after the job was accepted', p_max_age);
    END IF;
    IF v_state = 'dead' THEN
        v_error := coalesce(v_error, '{}'::jsonb);
        IF v_limit_note IS NOT NULL THEN
            v_error := v_error || jsonb_build_object(
                'code', coalesce(v_code, v_outcome || '_limit'), 'message', v_limit_note, 'retryable', false,
                'last', coalesce(p_error -> 'message', 'null'::jsonb));
        END IF;
    END IF;

    INSERT INTO job_runs (
        job_id, run_no, tenant_id, queue, kind, attempt, outcome, lease_id, worker_id, dispatched_at, started_at,
        finished_at, error, usage)
    VALUES (
        j.id, j.run_no, j.tenant_id, j.queue, j.kind, j.attempt, v_outcome, j.lease_id, j.worker_id, j.dispatched_at,
        j.run_started_at, v_now, p_error, p_usage);

    j.state := v_state;
    INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
    VALUES (j.id, j.tenant_id, v_outcome, v_state, j.run_no, CASE
        WHEN v_state = 'scheduled' THEN
            coalesce(jsonb_build_object('error', p_error), '{}') || jsonb_build_object('delay_seconds', v_delay)
        WHEN v_error IS NOT NULL THEN jsonb_build_object('error', v_error)
    END);

    IF v_state IN ('succeeded', 'cancelled') THEN
        j.result := CASE WHEN v_state = 'succeeded' THEN p_result END;
        j.error := CASE WHEN v_state = 'cancelled' THEN jsonb_build_object(
            'code', 'cancelled', 'message', coalesce(j.cancel_reason, 'cancelled'), 'retryable', false) END;
        IF p_added IS NOT NULL AND v_state = 'succeeded' THEN
            j.workflow_id := add_steps(j, p_added);
        END IF;
        PERFORM finish_job(j, v_now, v_deleted);
        IF v_state = 'cancelled' THEN  -- the run's output is deleted with it, by whichever process it was ended
            WITH gone AS (DELETE FROM artifacts WHERE job_id = j.id AND run_no = j.run_no RETURNING location)
            INSERT INTO artifact_removals (location) SELECT location FROM gone ON CONFLICT DO NOTHING;
        END IF;
    ELSE
        UPDATE jobs SET
            state = v_state, state_at = v_now, attempt = j.attempt, crash_count = j.crash_count,
            lost_count = j.lost_count, lease_id = NULL, worker_id = NULL, cancel_requested_at = NULL,
            cancel_signal = NULL,
            error = CASE WHEN v_outcome IN ('snoozed', 'released') THEN jobs.error ELSE v_error END,
            run_at = CASE WHEN v_state = 'scheduled' THEN v_now + make_interval(secs => v_delay) ELSE jobs.run_at END,
            payload = CASE WHEN v_state = 'scheduled' THEN coalesce(p_next_run -> 'payload', jobs.payload) ELSE jobs.payload END,
            priority = CASE WHEN v_state = 'scheduled' THEN coalesce((p_next_run ->> 'priority')::smallint, jobs.priority)
                       ELSE jobs.priority END,
            -- a caller that counts attempts itself may exceed the planned number
            max_attempts = CASE WHEN v_state = 'scheduled' THEN greatest(max_attempts, j.attempt + 1) ELSE max_attempts END
        WHERE id = p_job RETURNING * INTO j;
        IF v_state = 'dead' AND j.workflow_id IS NOT NULL THEN
            PERFORM step_ended(j);
            PERFORM 1 FROM jobs WHERE id = p_job;
            IF NOT FOUND THEN
                v_state := 'discarded';
            END IF;
        END IF;
    END IF;
    RETURN QUERY SELECT
        'settled'::text, v_state,
        CASE WHEN j.workflow_id IS NOT NULL THEN nullif(current_setting('jobplatform.woken', true), '') END,
        cardinality(j.limit_keys) > 0;
END $$;
