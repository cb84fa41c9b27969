-- Evidence for single lost messages (docs/concepts/delivery.md, "Marker"): a marker goes behind the messages of a queue
-- and priority; when a worker takes it, what was published before it has been taken too, or is lost.

-- Queues and priorities that are worth a marker: a job has been out for p_quiet seconds without a run, a worker that
-- consumes the queue beats, and no marker is on its way. Each marker that found nothing doubles the wait, up to 64-fold.
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

-- Use the markers that were taken: a job that was dispatched before one, neither runs nor waits in a worker by two beats
-- of each that consumes the queue, has lost its message. Returns the jobs that went back to available.
--
-- A job wrongly taken for lost costs a message too many, no more (I3).
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
        -- the rows of markers that found nothing are the memory of the back-off; a find begins anew
        IF v_found THEN
            DELETE FROM queue_markers m WHERE m.queue = marker.queue AND m.priority = marker.priority;
        ELSE
            UPDATE queue_markers SET used = true WHERE id = marker.id;
        END IF;
    END LOOP;
    DELETE FROM queue_markers m WHERE m.sent_at < clock_timestamp() - interval '1 day';
END $$;
