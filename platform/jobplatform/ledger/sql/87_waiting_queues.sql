-- The queues that are not paused and have available jobs, looking from the low-water marks on (queue, priority, mark).
-- One probe of the index per queue and priority: as one statement with EXISTS it was planned as a scan of all that
-- waits (8 s with a million jobs).
CREATE OR REPLACE FUNCTION waiting_queues(p_queues text[], p_priorities integer[], p_marks timestamptz[])
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_queue text;
    v_mark timestamptz;
BEGIN
    FOR v_queue IN SELECT name FROM queues WHERE paused_at IS NULL ORDER BY name LOOP
        FOR v_class IN REVERSE 9..0 LOOP
            SELECT m.mark INTO v_mark FROM unnest(p_queues, p_priorities, p_marks) AS m (queue, priority, mark)
            WHERE m.queue = v_queue AND m.priority = v_class;
            PERFORM 1 FROM jobs
            WHERE queue = v_queue AND state = 'available' AND priority = v_class
                AND state_at >= coalesce(v_mark, '-infinity')
            ORDER BY state_at LIMIT 1;
            IF FOUND THEN
                RETURN NEXT v_queue;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
END $$;
