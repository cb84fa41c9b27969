-- Record a worker's heartbeat, with the leases it has handed to its pool and the jobs whose run has not started.
-- Returns its runs that must be cancelled. Returns no row at all when there are
-- none; `known` is false when the worker is not registered.
-- p_draining: it was asked to shut down, and takes no more jobs.
CREATE OR REPLACE FUNCTION record_heartbeat(
    p_worker uuid, p_leases uuid[], p_waiting uuid[] DEFAULT '{}', p_draining boolean DEFAULT false)
RETURNS TABLE (
    known boolean, job_id uuid, lease_id uuid, cancel_requested_seconds double precision, cancel_signal text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    UPDATE workers SET
        previous_leases = leases, previous_heartbeat_at = heartbeat_at,
        leases = p_leases, waiting = p_waiting, heartbeat_at = clock_timestamp(), session_pid = pg_backend_pid(),
        draining_at = CASE WHEN p_draining THEN coalesce(draining_at, clock_timestamp()) END
    WHERE id = p_worker AND stopped_at IS NULL;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, NULL::uuid, NULL::uuid, NULL::double precision, NULL::text;
        RETURN;
    END IF;
    RETURN QUERY SELECT true, j.id, j.lease_id,
        extract(epoch FROM clock_timestamp() - j.cancel_requested_at)::double precision, j.cancel_signal
    FROM jobs j
    WHERE j.worker_id = p_worker AND j.state = 'running' AND j.cancel_requested_at IS NOT NULL;
END $$;
