-- Cancel a job: immediately unless it runs; a running one is asked to stop, and killed by its worker after a grace period.
-- p_running: false leaves a running one alone
-- p_signal: sent to the process of a run at once ('SIGTERM'), instead of the grace period; NULL: after the grace period
-- The worker of a running job is notified (channel jobplatform_cancel, its id), and reads the rest with its heartbeat.
-- verdicts: cancelled · requested · running (left alone) · ended (state says how) · gone
CREATE OR REPLACE FUNCTION cancel_job(
    p_tenant uuid, p_job uuid, p_since timestamptz, p_reason text, p_by text DEFAULT NULL, p_running boolean DEFAULT true,
    p_signal text DEFAULT NULL)
RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
    v_now timestamptz;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ended_job(p_tenant, p_job, p_since);
        RETURN;
    END IF;
    IF j.tenant_id <> p_tenant THEN
        RETURN QUERY SELECT 'gone'::text, NULL::text;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    IF j.state = 'running' AND NOT p_running THEN
        RETURN QUERY SELECT 'running'::text, 'running'::text;
        RETURN;
    END IF;
    IF j.state = 'running' THEN
        IF j.cancel_requested_at IS NULL THEN
            UPDATE jobs SET cancel_requested_at = v_now, cancel_reason = p_reason WHERE id = p_job RETURNING * INTO j;
            PERFORM note_event(j, 'cancel_requested', jsonb_build_object('reason', p_reason, 'by', p_by));
            PERFORM pg_notify('jobplatform_cancel', j.worker_id::text);
        END IF;
        IF p_signal IS NOT NULL AND j.cancel_signal IS NULL THEN
            UPDATE jobs SET cancel_signal = p_signal WHERE id = p_job;
            PERFORM pg_notify('jobplatform_cancel', j.worker_id::text);
        END IF;
        RETURN QUERY SELECT 'requested'::text, 'running'::text;
        RETURN;
    END IF;
    j.state := 'cancelled';
    j.cancel_reason := p_reason;
    -- the error of a dead letter is kept as `last`
    j.error := jsonb_strip_nulls(jsonb_build_object(
        'code', 'cancelled', 'message', coalesce(p_reason, 'cancelled'), 'retryable', false, 'last', j.error));
    PERFORM note_event(j, 'cancelled', jsonb_build_object('reason', p_reason, 'by', p_by));
    PERFORM finish_job(j, v_now);
    RETURN QUERY SELECT 'cancelled'::text, 'cancelled'::text;
END $$;
