-- Events of tenants in the order of their transactions: a feed without gaps. Ids alone won't do: they are given when a line is written, and become visible
-- when its transaction commits, in another order. Who has seen everything of the transactions below the horizon (the oldest one that is
-- under way) misses nothing, as no more can come there.
--
-- One row per tenant at least, without an id when there is nothing. Behind (p_tx, p_id) of each tenant, p_limit lines of it. Lines at the horizon or above it may
-- have others before them that are not to be seen yet; those of one job are in order nevertheless: whoever writes one holds the job's row.
CREATE OR REPLACE FUNCTION read_feed(
    p_tenants uuid[], p_tx bigint[], p_id bigint[], p_since timestamptz, p_limit integer
) RETURNS TABLE (
    horizon bigint, tenant text, tx bigint, id bigint, job_id text, at double precision, event text, state text,
    run_no integer, data text
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, t.tenant::text, e.tx, e.id, e.job_id::text,
               extract(epoch FROM e.at)::double precision, e.event, e.state, e.run_no, e.data::text
        FROM unnest(p_tenants, p_tx, p_id) AS t (tenant, tx, id)
        LEFT JOIN LATERAL (
            SELECT * FROM job_events j
            WHERE j.tenant_id = t.tenant AND (j.tx, j.id) > (t.tx, t.id) AND j.at >= p_since
            ORDER BY j.tx, j.id LIMIT p_limit) AS e ON true
        ORDER BY t.tenant, e.tx, e.id;
END $$;
