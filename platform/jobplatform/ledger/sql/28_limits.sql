-- Limits on keys. A definition names a key ("provider:openai"), or all keys of a name ("domain:*"); the first goes first.
CREATE OR REPLACE FUNCTION limits_of(p_keys text[])
RETURNS TABLE (
    key text, place integer, max_concurrent integer, rate_units double precision, rate_seconds double precision,
    burst_units double precision, sliding boolean
)
LANGUAGE sql STABLE AS $$
    SELECT k.key, k.place::integer, l.max_concurrent, l.rate_units, l.rate_seconds, l.burst_units, l.sliding
    FROM unnest(p_keys) WITH ORDINALITY AS k (key, place)
    LEFT JOIN LATERAL (
        SELECT * FROM limits WHERE name IN (k.key, split_part(k.key, ':', 1) || ':*') ORDER BY name = k.key DESC LIMIT 1
    ) AS l ON true;
$$;

-- How many jobs of each key may be dispatched now, and in how many seconds it is worth another look (NULL: when one of
-- its jobs ends). Locks the keys until the transaction ends; one that another dispatcher has locked has no place now.
--
-- Places are counted from the jobs that are dispatched or running, of all queues, and from nothing else: what a crash, a
-- rescue or a hand does to a job gives its place back by itself, and once. Units per period are taken at the claim
-- (take_units); here they only tell how many jobs are worth a message.
CREATE OR REPLACE FUNCTION room_of_keys(p_keys text[], p_mark timestamptz)
RETURNS TABLE (place integer, free integer, seconds double precision, oldest timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_mine text[];
    v_used jsonb;
    v_oldest timestamptz;
BEGIN
    SELECT array_agg(k) INTO v_mine FROM unnest(p_keys) AS k
    WHERE pg_try_advisory_xact_lock(hashtext('jobplatform.limit'), hashtext(k));
    -- a statement of its own: it sees what the last holder of the locks has committed
    SELECT jsonb_object_agg(k, jobs), min(first) INTO v_used, v_oldest FROM (
        SELECT k, count(*) AS jobs, min(dispatched_at) AS first
        FROM jobs, unnest(limit_keys) AS k
        WHERE state IN ('dispatched', 'running') AND limit_keys <> '{}'
            AND dispatched_at >= coalesce(p_mark, '-infinity')
        GROUP BY k) AS used;
    RETURN QUERY
        SELECT l.place,
               CASE WHEN l.key = ANY (v_mine)
                    THEN greatest(0, coalesce(l.max_concurrent - coalesce((v_used ->> l.key)::integer, 0), 2147483647))
                    ELSE 0 END,
               CASE WHEN l.key = ANY (v_mine) THEN NULL ELSE 0.01::double precision END,
               v_oldest
        FROM limits_of(p_keys) AS l;
END $$;
