-- Event feeds: events of tenants in the order of their transactions, without gaps. Ids alone are not enough: they are assigned when a row is written, and become visible
-- when its transaction commits, in a different order. A reader of all transactions below the horizon (the oldest open
-- transaction) misses nothing, as no more events can appear there.
--
-- At least one row per tenant, without an id if there are no events. After (p_tx, p_id) of each tenant, p_limit events. Events at the horizon or above it may
-- be preceded by others that are not visible yet; those of one job are in order nevertheless: a writer locks the job's row.
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
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + (SELECT feed_offset FROM installation), t.tenant::text, e.tx, e.id, e.job_id::text,
               extract(epoch FROM e.at)::double precision, e.event, e.state, e.run_no, e.data::text
        FROM unnest(p_tenants, p_tx, p_id) AS t (tenant, tx, id)
        LEFT JOIN LATERAL (
            SELECT * FROM job_events j
            WHERE j.tenant_id = t.tenant AND (j.tx, j.id) > (t.tx, t.id) AND j.at >= p_since
            ORDER BY j.tx, j.id LIMIT p_limit) AS e ON true
        ORDER BY t.tenant, e.tx, e.id;
END $$;

-- Rebase feeds after the ledger was restored into another cluster: transaction ids restart there, and
-- new events would sort before every cursor. From here on they get an offset above all of
-- them, so that cursors stay as they are: those of webhooks, and those that callers keep.
-- Returns the new offset; NULL if the cluster is the same.
CREATE OR REPLACE FUNCTION rebase_feed() RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    i installation;
    v_cluster text := cluster_identity();
    -- callers may have read further than the dump: leave room for as many transactions
    v_gap bigint := 1000000000000;
BEGIN
    SELECT * INTO i FROM installation FOR UPDATE;
    IF i.cluster IS NULL THEN
        UPDATE installation SET cluster = v_cluster;
    ELSIF (CASE WHEN v_cluster IS NOT NULL THEN v_cluster <> i.cluster ELSE feed_is_ahead() END) THEN
        LOCK TABLE job_events IN ACCESS EXCLUSIVE MODE;
        i.feed_offset := (greatest(i.feed_offset, last_event_tx()) / v_gap + 1) * v_gap;
        EXECUTE format('ALTER TABLE job_events ALTER COLUMN tx SET DEFAULT (pg_current_xact_id()::text::bigint + %s)', i.feed_offset);
        UPDATE installation SET cluster = coalesce(v_cluster, cluster), feed_offset = i.feed_offset;
        RETURN i.feed_offset;
    END IF;
    RETURN NULL;
END $$;

-- The identity of this cluster; NULL without the privilege.
CREATE OR REPLACE FUNCTION cluster_identity() RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier::text FROM pg_control_system());
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END $$;

-- The highest transaction of any event or webhook cursor; one index lookup per tenant.
CREATE OR REPLACE FUNCTION last_event_tx() RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT greatest(
        0, (SELECT max(newest.tx) FROM tenants t CROSS JOIN LATERAL (
                SELECT max(tx) AS tx FROM job_events WHERE tenant_id = t.id) AS newest),
        (SELECT max(greatest(cursor_tx, replay_tx)) FROM webhook_endpoints));
$$;

-- Whether an event or a cursor has a transaction that this cluster has not reached: it is from another cluster.
CREATE OR REPLACE FUNCTION feed_is_ahead() RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT last_event_tx() > pg_snapshot_xmax(pg_current_snapshot())::text::bigint + (SELECT feed_offset FROM installation);
$$;
