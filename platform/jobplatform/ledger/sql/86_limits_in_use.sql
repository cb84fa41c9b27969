-- Usage of limit keys: jobs in flight, and waiting flows, of which p_lines are read per queue.
-- Bounded by the windows and by p_lines, at any backlog (I7).
CREATE OR REPLACE FUNCTION limit_uses(p_lines integer)
RETURNS TABLE (
    key text, dispatched integer, running integer, waiting_lines integer, waiting_tenants integer,
    oldest_seconds double precision, units_left double precision, units_reserved double precision, paused_until timestamptz, paused_reason text
)
LANGUAGE sql VOLATILE AS $$
    WITH out AS MATERIALIZED (
        SELECT k AS key, count(*) FILTER (WHERE state = 'dispatched')::integer AS dispatched,
               count(*) FILTER (WHERE state = 'running')::integer AS running
        FROM jobs, unnest(limit_keys) AS k
        WHERE state IN ('dispatched', 'running') AND limit_keys <> '{}' GROUP BY k
    ), waiting AS MATERIALIZED (
        SELECT k AS key, count(*)::integer AS lines, count(DISTINCT tenant)::integer AS tenants, min(head) AS head
        FROM queues, sweep_flows(queues.name, 9, '00000000-0000-0000-0000-000000000000', '{}', p_lines) AS line,
             unnest(line.keys::text[]) AS k
        GROUP BY k
    ), held AS MATERIALIZED (
        SELECT s.key FROM limit_states s WHERE s.paused_until > clock_timestamp()
    ), known AS (
        SELECT key FROM out UNION SELECT key FROM waiting UNION SELECT key FROM held
    )
    SELECT known.key, coalesce(out.dispatched, 0), coalesce(out.running, 0), coalesce(waiting.lines, 0),
           coalesce(waiting.tenants, 0), extract(epoch FROM clock_timestamp())::double precision - waiting.head, u.units,
           CASE WHEN u.units IS NOT NULL THEN units_reserved(s, NULL, NULL) END,
           CASE WHEN s.paused_until > clock_timestamp() THEN s.paused_until END,
           CASE WHEN s.paused_until > clock_timestamp() THEN s.paused_reason END
    FROM known LEFT JOIN out USING (key) LEFT JOIN waiting USING (key) LEFT JOIN limit_states s USING (key)
    LEFT JOIN LATERAL limits_of(ARRAY[known.key]) l ON true
    LEFT JOIN LATERAL units_left(
        l.rate_units, l.rate_seconds, l.burst_units, l.sliding, s, 1, clock_timestamp()) u ON l.rate_units IS NOT NULL
    ORDER BY known.key;
$$;
