-- A dispatched job whose pool child died before it could claim it returns to available (rule "Return what was not claimed"):
-- by primary key, and only if nothing else has happened to it since.
CREATE OR REPLACE FUNCTION return_job(p_job uuid, p_dispatch_no integer, p_reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    j jobs;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job FOR UPDATE;
    IF NOT FOUND OR j.state <> 'dispatched' OR j.dispatch_no <> p_dispatch_no THEN
        RETURN false;
    END IF;
    j.lost_count := j.lost_count + 1;
    IF j.lost_count >= j.lost_limit THEN
        UPDATE jobs SET state = 'dead', state_at = clock_timestamp(), lost_count = j.lost_count,
            error = jsonb_build_object('code', 'lost_limit', 'message', p_reason, 'retryable', false)
        WHERE id = p_job RETURNING * INTO j;
        PERFORM note_event(j, 'lost', jsonb_build_object('reason', p_reason));
        IF j.workflow_id IS NOT NULL THEN
            PERFORM step_ended(j);
        END IF;
    ELSE
        UPDATE jobs SET state = 'available', state_at = clock_timestamp(), lost_count = j.lost_count
        WHERE id = p_job RETURNING * INTO j;
        PERFORM note_event(j, 'lost', jsonb_build_object('reason', p_reason));
    END IF;
    RETURN true;
END $$;
