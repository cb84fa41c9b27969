-- End the runs of lost workers, and runs that their live worker no longer names (its pool child was killed).
--
-- A process that dies closes its sockets: when the session of its last heartbeat has ended and none has come since
-- for `p_gone_seconds`, its worker is lost. A frozen or disconnected one keeps its session until its lease ends. Behind a
-- pooler the session stays, and the lease decides too.
--
-- `p_as_of`: the last time at which the caller knows that heartbeats could be written; a worker's silence
-- is measured by it. A pause of this server, or a wait of this call, does not count as a worker's silence.
--
-- SKIP LOCKED separates concurrent rescuers and settling workers; candidates are checked again
-- under the row's lock with a fresh snapshot, so that a heartbeat that came in between counts.
CREATE OR REPLACE FUNCTION rescue_runs(
    p_lease_seconds double precision, p_limit integer, p_gone_seconds double precision DEFAULT NULL,
    p_as_of timestamptz DEFAULT NULL
)
RETURNS TABLE (job_id uuid, run_no integer, outcome text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_as_of timestamptz := coalesce(p_as_of, clock_timestamp());
    candidate record;
    w workers;
    v_outcome text;
    v_reason text;
BEGIN
    FOR candidate IN
        WITH gone AS MATERIALIZED (  -- asked once per worker, of the few that are silent and not yet past their lease
            SELECT id FROM workers
            WHERE stopped_at IS NULL AND heartbeat_at < v_as_of - make_interval(secs => p_gone_seconds)
                AND heartbeat_at >= v_as_of - make_interval(secs => p_lease_seconds)
                AND session_has_ended(session_pid))
        SELECT j.id, j.lease_id, j.run_no, j.worker_id, j.run_started_at
        FROM jobs j LEFT JOIN workers k ON k.id = j.worker_id
        WHERE j.state = 'running' AND (
            k.id IS NULL OR k.stopped_at IS NOT NULL
            OR k.heartbeat_at < v_as_of - make_interval(secs => p_lease_seconds)
            OR k.id IN (SELECT id FROM gone)
            OR (j.run_started_at < k.previous_heartbeat_at
                AND NOT j.lease_id = ANY (k.leases) AND NOT j.lease_id = ANY (k.previous_leases)))
        ORDER BY j.run_started_at LIMIT p_limit
        FOR UPDATE OF j SKIP LOCKED
    LOOP
        SELECT * INTO w FROM workers WHERE id = candidate.worker_id;
        v_outcome := NULL;
        IF NOT FOUND THEN
            v_outcome := 'lost';
            v_reason := 'its worker is not known';
        ELSIF w.stopped_at IS NOT NULL THEN
            v_outcome := 'lost';
            v_reason := 'its worker has stopped';
        ELSIF w.heartbeat_at < v_as_of - make_interval(secs => p_lease_seconds) THEN
            v_outcome := 'lost';
            v_reason := format('no heartbeat of its worker for %s s', p_lease_seconds);
        ELSIF w.heartbeat_at < v_as_of - make_interval(secs => p_gone_seconds)
            AND session_has_ended(w.session_pid) THEN
            v_outcome := 'lost';
            v_reason := format('the session of its worker has ended, and no heartbeat came for %s s', p_gone_seconds);
        ELSIF candidate.run_started_at < w.previous_heartbeat_at
            AND NOT candidate.lease_id = ANY (w.leases) AND NOT candidate.lease_id = ANY (w.previous_leases) THEN
            v_outcome := 'crashed';
            v_reason := 'its worker is alive but no longer runs it: the process that ran it has died';
        END IF;
        CONTINUE WHEN v_outcome IS NULL;
        RETURN QUERY SELECT candidate.id, candidate.run_no, v_outcome, s.state
        FROM settle_run(
            candidate.id, candidate.lease_id, v_outcome, NULL, 0, NULL,
            jsonb_build_object('code', v_outcome, 'message', v_reason, 'retryable', true,
                               'worker', coalesce(w.node, 'unknown'))) s
        WHERE s.verdict = 'settled';
    END LOOP;
END $$;

-- Whether a session of this server has ended; NULL if unknown.
CREATE OR REPLACE FUNCTION session_has_ended(p_pid integer) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_pid IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = p_pid);
EXCEPTION WHEN insufficient_privilege THEN  -- some hosting providers hide it
    RETURN NULL;
END $$;
