-- Detection of single lost messages (docs/concepts/delivery.md, "Marker"): a marker is published behind the messages of a queue
-- and priority; when a worker receives it, all earlier messages were received or lost.

-- Queues and priorities for which a marker is due: a job has been in flight for p_quiet seconds without a run, a worker that
-- consumes the queue has heartbeats, and no marker is pending. Each marker that found nothing doubles the interval, up to 64-fold.
CREATE OR REPLACE FUNCTION due_markers(p_quiet double precision, p_lease double precision)
RETURNS TABLE (queue text, priority integer)
LANGUAGE sql STABLE AS $$
    SELECT quiet.queue, quiet.priority::integer FROM (
        SELECT DISTINCT queue, priority FROM jobs
        WHERE state = 'dispatched' AND state IN ('dispatched', 'running')
            AND dispatched_at < clock_timestamp() - make_interval(secs => p_quiet)) AS quiet
    LEFT JOIN LATERAL (
        SELECT max(m.sent_at) AS last, count(*) AS sent FROM queue_markers m
        WHERE m.queue = quiet.queue AND m.priority = quiet.priority) AS before ON true
    WHERE (before.last IS NULL
            OR before.last < clock_timestamp() - make_interval(secs => p_quiet * power(2, least(before.sent - 1, 6))))
        AND EXISTS (
            SELECT 1 FROM workers w WHERE quiet.queue = ANY (w.queues) AND w.stopped_at IS NULL
                AND w.heartbeat_at > clock_timestamp() - make_interval(secs => p_lease));
$$;

-- Evaluate received markers: a job that was dispatched before one, and neither runs nor waits in a worker by two heartbeats
-- of each worker of the queue, has lost its message. Returns the jobs that were returned to available.
--
-- A message wrongly considered lost costs a duplicate message, no more (I3).
CREATE OR REPLACE FUNCTION confirm_lost_messages(p_lease double precision, p_limit integer)
RETURNS TABLE (job_id uuid, queue text, priority integer)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    marker queue_markers;
    j jobs;
    v_found boolean;
BEGIN
    FOR marker IN
        SELECT * FROM queue_markers m WHERE m.seen_at IS NOT NULL AND NOT m.used AND NOT EXISTS (
            SELECT 1 FROM workers w WHERE m.queue = ANY (w.queues) AND w.stopped_at IS NULL
                AND w.heartbeat_at > clock_timestamp() - make_interval(secs => p_lease)
                AND coalesce(w.previous_heartbeat_at, '-infinity') < m.seen_at)
        FOR UPDATE SKIP LOCKED
    LOOP
        v_found := false;
        FOR j IN
            UPDATE jobs SET state = 'available', state_at = clock_timestamp()
            WHERE id IN (
                SELECT lost.id FROM jobs AS lost
                WHERE lost.queue = marker.queue AND lost.priority = marker.priority AND lost.state = 'dispatched'
                    AND lost.dispatched_at < marker.sent_at
                    AND NOT EXISTS (
                        SELECT 1 FROM workers w WHERE w.stopped_at IS NULL AND lost.id = ANY (w.waiting)
                            AND w.heartbeat_at > clock_timestamp() - make_interval(secs => p_lease))
                LIMIT p_limit FOR UPDATE SKIP LOCKED)
            RETURNING *
        LOOP
            v_found := true;
            PERFORM note_event(j, 'returned', '{"reason": "its message was lost"}');
            RETURN QUERY SELECT j.id, j.queue, j.priority::integer;
        END LOOP;
        -- the rows of markers that found nothing are the state of the back-off; a loss resets it
        IF v_found THEN
            DELETE FROM queue_markers m WHERE m.queue = marker.queue AND m.priority = marker.priority;
        ELSE
            UPDATE queue_markers SET used = true WHERE id = marker.id;
        END IF;
    END LOOP;
    DELETE FROM queue_markers m WHERE m.sent_at < clock_timestamp() - interval '1 day';
END $$;
