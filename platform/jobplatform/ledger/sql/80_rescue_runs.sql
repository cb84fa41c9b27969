-- End the runs whose worker is gone, or lives but holds them no more (its pool child was killed).
--
-- A process that dies closes its sockets: when the session that wrote its last beat has ended and none has come since
-- for `p_gone_seconds`, its worker is gone. One that is frozen or cut off keeps its session, and has a lease. Behind a
-- pooler the session stays, and the lease decides, too.
--
-- `p_as_of`: the last moment of which the caller knows that beats could be written; how long a worker has been silent
-- is measured by it. When this server stands still, or this call waits, that silence is nobody else's.
--
-- SKIP LOCKED keeps two rescuers and a settling worker out of each other's way; what is found is looked at again
-- under the row's lock with a fresh snapshot of the beat, so that a beat that came in between counts.
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
            v_reason := format('no beat of its worker for %s s', p_lease_seconds);
        ELSIF w.heartbeat_at < v_as_of - make_interval(secs => p_gone_seconds)
            AND session_has_ended(w.session_pid) THEN
            v_outcome := 'lost';
            v_reason := format('the session of its worker has ended, and no beat came for %s s', p_gone_seconds);
        ELSIF candidate.run_started_at < w.previous_heartbeat_at
            AND NOT candidate.lease_id = ANY (w.leases) AND NOT candidate.lease_id = ANY (w.previous_leases) THEN
            v_outcome := 'crashed';
            v_reason := 'its worker lives but holds it no more: the process that ran it died';
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

-- Whether a session of this server is there no more; NULL when that can't be known.
CREATE OR REPLACE FUNCTION session_has_ended(p_pid integer) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_pid IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = p_pid);
EXCEPTION WHEN insufficient_privilege THEN  -- some hosters hide it
    RETURN NULL;
END $$;
