-- Which of these queues have available jobs and are not paused, each from a time on (NULL: from the beginning).
-- One index probe per queue: a single statement with EXISTS was planned as a scan of all waiting jobs (8 s with a
-- million jobs).
CREATE OR REPLACE FUNCTION waiting_queues(p_queues text[], p_marks timestamptz[])
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    named record;
BEGIN
    FOR named IN
        SELECT q.name, m.mark FROM queues q LEFT JOIN unnest(p_queues, p_marks) AS m (queue, mark) ON m.queue = q.name
        WHERE q.paused_at IS NULL ORDER BY q.name
    LOOP
        PERFORM 1 FROM jobs
        WHERE queue = named.name AND state = 'available' AND attempt >= 0 AND state_at >= coalesce(named.mark, '-infinity')
        ORDER BY state_at LIMIT 1;
        IF NOT FOUND THEN  -- returned to an old position
            PERFORM 1 FROM jobs WHERE queue = named.name AND state = 'available' AND reserved_at IS NOT NULL LIMIT 1;
        END IF;
        IF FOUND THEN
            RETURN NEXT named.name;
        END IF;
    END LOOP;
END $$;
