-- Take the lease of a dispatched job, in one round trip (docs/concepts/delivery.md, "Claim").
--
-- The row is locked by primary key alone and only then looked at: a condition on the target of an UPDATE would
-- return nothing at once while the dispatcher's transaction is open, the message would be acknowledged, and the job
-- would wait for ever. VOLATILE gives every statement below its own snapshot, so the pause is read as it is now.
--
-- verdicts: claimed · mine (my earlier commit's answer was lost) · gone · stale (another dispatch, state or kind)
--           · paused (back to available) · expired
CREATE OR REPLACE FUNCTION claim_job(
    p_job uuid, p_dispatch_no integer, p_kind text, p_lease uuid, p_worker uuid, p_node text
) RETURNS TABLE (verdict text, job jobs)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    j jobs;
    v_now timestamptz;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'gone'::text, j;
        RETURN;
    END IF;
    IF j.lease_id = p_lease THEN
        RETURN QUERY SELECT 'mine'::text, j;
        RETURN;
    END IF;
    IF j.state <> 'dispatched' OR j.dispatch_no <> p_dispatch_no OR j.kind <> p_kind THEN
        RETURN QUERY SELECT 'stale'::text, j;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    IF j.start_by IS NOT NULL AND j.start_by < v_now AND j.run_no = 0 THEN
        j.state := 'expired';
        j.error := jsonb_build_object(
            'code', 'expired', 'message', 'start_by passed before a run began', 'retryable', false);
        PERFORM note_event(j, 'expired');
        PERFORM finish_job(j, v_now);
        RETURN QUERY SELECT 'expired'::text, j;
        RETURN;
    END IF;
    IF EXISTS (SELECT 1 FROM queues WHERE name = j.queue AND paused_at IS NOT NULL) THEN
        UPDATE jobs SET state = 'available', state_at = v_now WHERE id = p_job RETURNING * INTO j;
        PERFORM note_event(j, 'returned', '{"reason": "queue paused"}');
        RETURN QUERY SELECT 'paused'::text, j;
        RETURN;
    END IF;
    UPDATE jobs SET
        state = 'running', state_at = v_now, run_no = run_no + 1, attempt = jobs.attempt + 1,
        lease_id = p_lease, worker_id = p_worker, run_started_at = v_now,
        started_at = coalesce(started_at, v_now), progress = NULL
    WHERE id = p_job RETURNING * INTO j;
    PERFORM note_event(j, 'started', jsonb_build_object('worker', p_node, 'attempt', j.attempt));
    RETURN QUERY SELECT 'claimed'::text, j;
END $$;
