-- A round of a queue is a transaction of two calls: read the queue, then lock, pick and mark jobs of the chosen flows. The
-- caller chooses between them (domain/shares.py), publishes, and commits when the broker has confirmed
-- (docs/concepts/delivery.md, "Dispatch"): until then a claim of one of these jobs waits at the row.
--
-- A flow: the waiting jobs of one queue, priority, tenant and set of limit keys.

-- Lock a queue, count jobs in flight, return flows with recent arrivals and the capacity of limit keys.
--
-- p_arrived_from: read jobs that became available then or later, the newest p_arrivals of them; NULL: within the last
-- 15 seconds. And those that returned to an old position (refuse_run). A single job must not be found only after a million of another tenant: `arrived_all` is false if there were
-- more; the caller then sweeps all flows. p_active_mark
-- (of this queue), p_limited_mark (of all queues): no job in flight was dispatched before it. These marks only save
-- time: under a long snapshot an index keeps entries of deleted rows.
-- p_keys: limit keys to read. Each is locked first, so that no other dispatcher assigns the same slot; the
-- lock is only tried, without waiting.
--
-- verdicts: ready · paused (or not known) · elsewhere (another dispatcher has the queue) · no epoch
--   in_flight: jobs in flight of priority 0 … 9;  oldest: the first dispatched_at of them (now, if there are none)
--   line_…:     flows with arrivals: how many, and when the first one arrived, in seconds since 1970
--   arrived_until: start of the next read;  arrived_all: there were no more arrivals than were read
--   key_…:      per key of p_keys how many of its jobs may be dispatched, and in how many seconds to check again (NULL:
--               when one of its jobs ends);  limited_oldest: as oldest, of jobs with limit keys, if p_keys is not empty
CREATE OR REPLACE FUNCTION read_queue(
    p_queue text, p_arrived_from timestamptz, p_active_mark timestamptz, p_limited_mark timestamptz, p_keys text[],
    p_arrivals integer,
    OUT verdict text, OUT in_flight integer[], OUT oldest timestamptz,
    OUT line_priorities integer[], OUT line_tenants text[], OUT line_keys text[], OUT line_sizes integer[],
    OUT line_heads double precision[], OUT arrived_until timestamptz, OUT arrived_all boolean,
    OUT key_free integer[], OUT key_seconds double precision[], OUT limited_oldest timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_from timestamptz := coalesce(p_arrived_from, clock_timestamp() - interval '15 s');
    v_seen integer;
    counted record;
BEGIN
    -- on the transaction that does the marking: a dispatcher that dies, or is ended by the server's time-outs, loses
    -- rows and lock together, and a pooled connection can't keep it
    PERFORM 1 FROM try_locks(ARRAY['dispatch/' || p_queue]);
    IF NOT FOUND THEN
        verdict := 'elsewhere';
        RETURN;
    END IF;
    PERFORM 1 FROM queues WHERE name = p_queue AND paused_at IS NULL;
    IF NOT FOUND THEN
        verdict := 'paused';
        RETURN;
    END IF;
    PERFORM 1 FROM broker_epochs WHERE current;
    IF NOT FOUND THEN
        verdict := 'no epoch';
        RETURN;
    END IF;
    verdict := 'ready';
    in_flight := array_fill(0, ARRAY[10]);
    FOR counted IN
        SELECT jobs.priority, count(*)::integer AS jobs, min(dispatched_at) AS first FROM jobs
        WHERE queue = p_queue AND jobs.state IN ('dispatched', 'running')
            AND dispatched_at >= coalesce(p_active_mark, '-infinity')
        GROUP BY jobs.priority
    LOOP
        in_flight[counted.priority + 1] := counted.jobs;
        oldest := least(oldest, counted.first);
    END LOOP;
    oldest := coalesce(oldest, clock_timestamp());

    arrived_until := greatest(v_from, clock_timestamp() - interval '0.1 s');  -- commits come out of order
    WITH arrived AS MATERIALIZED (
        SELECT jobs.priority, tenant_id, limit_keys, state_at FROM jobs
        WHERE queue = p_queue AND jobs.state = 'available' AND attempt >= 0 AND state_at >= v_from
        ORDER BY state_at DESC LIMIT p_arrivals
    ), placed AS (  -- returned to their old positions
        SELECT jobs.priority, tenant_id, limit_keys, state_at FROM jobs
        WHERE queue = p_queue AND jobs.state = 'available' AND reserved_at IS NOT NULL AND state_at < v_from
        LIMIT p_arrivals
    ), line AS (
        SELECT come.priority, tenant_id, limit_keys, count(*) AS size, min(state_at) AS head
        FROM (SELECT * FROM arrived UNION ALL SELECT * FROM placed) AS come
        GROUP BY come.priority, tenant_id, limit_keys
    )
    SELECT array_agg(line.priority::integer), array_agg(tenant_id::text), array_agg(limit_keys::text),
           array_agg(size::integer), array_agg(extract(epoch FROM head)::double precision),
           (SELECT count(*) FROM arrived)
    INTO line_priorities, line_tenants, line_keys, line_sizes, line_heads, v_seen FROM line;
    arrived_all := v_seen < p_arrivals;

    IF cardinality(p_keys) > 0 THEN
        SELECT array_agg(k.free ORDER BY ordinality), array_agg(k.seconds ORDER BY ordinality), min(k.oldest)
        INTO key_free, key_seconds, limited_oldest FROM capacity_of_keys(p_keys, p_limited_mark) k;
    END IF;
END $$;

-- Mark jobs as dispatched that this transaction has locked; p_times is when they became available. Returns them in the
-- order in which they were given; the caller publishes, and commits when the broker has confirmed.
CREATE OR REPLACE FUNCTION mark_dispatched(p_ids uuid[], p_times timestamptz[])
RETURNS TABLE (
    ordinality integer, id text, kind text, priority integer, dispatch_no integer, state_at timestamptz, limit_keys text
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_epoch uuid;
    v_now timestamptz;
BEGIN
    -- read before publishing: the guard may make a new epoch meanwhile (rule "Epoch always")
    SELECT epoch INTO v_epoch FROM broker_epochs WHERE current;
    -- a mark that a crash of Postgres loses is harmless: the published message is stale or a duplicate, and
    -- a claim's own commit makes the mark of its job durable. Not waiting for the disk lets the claim in sooner.
    PERFORM set_config('synchronous_commit', 'off', true);
    v_now := clock_timestamp();
    RETURN QUERY
        WITH marked AS (
            UPDATE jobs SET
                state = 'dispatched', state_at = v_now, dispatched_at = v_now, dispatch_no = jobs.dispatch_no + 1,
                epoch = v_epoch
            FROM unnest(p_ids, p_times) WITH ORDINALITY AS due (id, state_at, ordinality)
            WHERE jobs.id = due.id
            RETURNING due.ordinality, jobs.id, tenant_id, jobs.kind, jobs.priority, jobs.dispatch_no, run_no, due.state_at,
                      jobs.limit_keys
        ), noted AS (
            INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
            SELECT marked.id, tenant_id, 'dispatched', 'dispatched', run_no,
                   jsonb_build_object('dispatch_no', marked.dispatch_no) FROM marked
        )
        SELECT marked.ordinality::integer, marked.id::text, marked.kind, marked.priority::integer, marked.dispatch_no,
               marked.state_at, marked.limit_keys::text
        FROM marked ORDER BY marked.ordinality;
END $$;

-- Lock, pick and mark jobs of flows, up to so many of each. Parallel arrays, one element per flow: priority, tenant, limit
-- keys as text, how many, and a time (in seconds since 1970) before which none of its jobs waits. p_asked: the limit keys that
-- read_queue was called with; a flow with another limited key, set meanwhile perhaps, gets nothing.
--
-- Returns a row per job, and after them a row per flow without id: `next_head` is when its next job became available,
-- NULL when there is none.
CREATE OR REPLACE FUNCTION dispatch_flows(
    p_queue text, p_priorities integer[], p_tenants uuid[], p_keys text[], p_counts integer[],
    p_marks double precision[], p_asked text[]
) RETURNS TABLE (
    line integer, id text, kind text, priority integer, dispatch_no integer, state_at timestamptz,
    next_head double precision
)
-- one index probe per flow, whatever the statistics of a recently empty table say
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_ids uuid[];
    v_lines integer[];
    v_times timestamptz[];
    v_closed text[] := '{}';
BEGIN
    IF EXISTS (SELECT 1 FROM limits) THEN
        v_closed := ARRAY(
            SELECT key FROM limits_of(ARRAY(
                SELECT DISTINCT k FROM unnest(p_keys) AS written, unnest(written::text[]) AS k WHERE k <> ALL (p_asked)))
            WHERE max_concurrent IS NOT NULL OR rate_units IS NOT NULL);
    END IF;
    SELECT array_agg(due.id), array_agg(l.ordinality::integer), array_agg(due.state_at) INTO v_ids, v_lines, v_times
    FROM unnest(p_priorities, p_tenants, p_keys, p_counts, p_marks)
        WITH ORDINALITY AS l (priority, tenant, keys, jobs, mark, ordinality),
    LATERAL (
        SELECT jobs.id, jobs.state_at FROM jobs
        WHERE queue = p_queue AND jobs.state = 'available' AND jobs.priority = l.priority AND tenant_id = l.tenant
            AND limit_keys = l.keys::text[] AND jobs.state_at >= to_timestamp(l.mark)
        ORDER BY jobs.state_at LIMIT l.jobs FOR UPDATE SKIP LOCKED) AS due
    WHERE NOT l.keys::text[] && v_closed;
    RETURN QUERY
        SELECT v_lines[m.ordinality], m.id, m.kind, m.priority, m.dispatch_no, m.state_at, NULL::double precision
        FROM mark_dispatched(v_ids, v_times) m;
    -- a separate statement: it sees the marked jobs
    RETURN QUERY
        SELECT l.ordinality::integer, NULL::text, NULL::text, NULL::integer, NULL::integer, NULL::timestamptz,
               (SELECT extract(epoch FROM jobs.state_at)::double precision FROM jobs
                WHERE queue = p_queue AND jobs.state = 'available' AND jobs.priority = l.priority
                    AND tenant_id = l.tenant AND limit_keys = l.keys::text[]
                    AND jobs.state_at >= to_timestamp(l.mark)
                ORDER BY jobs.state_at LIMIT 1)
        FROM unnest(p_priorities, p_tenants, p_keys, p_marks) WITH ORDINALITY AS l (priority, tenant, keys, mark, ordinality);
END $$;

-- Lock, pick and mark jobs that have a start_by, the earliest first within a priority, regardless of tenant; for queues that
-- are ordered so. p_slots: for each priority, the slots for it and for higher ones, of which p_above are for
-- higher ones; p_keys, p_free: how many jobs of a limit key may be dispatched. Reads 2,000 jobs: a job blocked by its key must not block later ones, and
-- the rest is served by fair shares.
CREATE OR REPLACE FUNCTION dispatch_by_deadline(
    p_queue text, p_slots integer[], p_above integer[], p_keys text[], p_free integer[]
) RETURNS TABLE (
    ordinality integer, id text, kind text, priority integer, dispatch_no integer, state_at timestamptz, limit_keys text
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_ids uuid[] := '{}';
    v_more uuid[];
    v_slots integer;
BEGIN
    FOR v_priority IN REVERSE 9..0 LOOP
        v_slots := p_slots[v_priority + 1] - greatest(p_above[v_priority + 1], cardinality(v_ids));
        CONTINUE WHEN v_slots <= 0;
        WITH first AS MATERIALIZED (
            SELECT j.id, j.limit_keys, j.start_by FROM jobs j
            WHERE j.queue = p_queue AND j.state = 'available' AND j.priority = v_priority AND j.start_by IS NOT NULL
            ORDER BY j.start_by LIMIT 2000
        ), asking AS (
            SELECT first.id, k, row_number() OVER (PARTITION BY k ORDER BY first.start_by, first.id) AS ordinality
            FROM first, unnest(first.limit_keys) AS k
        ), free AS MATERIALIZED (  -- a limited key that was not read has no capacity
            SELECT l.key, coalesce(f.free - (SELECT count(*) FROM jobs u  -- what higher priorities have taken
                                            WHERE u.id = ANY (v_ids) AND l.key = ANY (u.limit_keys)), CASE WHEN l.max_concurrent IS NOT NULL OR l.rate_units IS NOT NULL
                OR EXISTS (SELECT 1 FROM limit_states s WHERE s.key = l.key AND paused_until > clock_timestamp())
                THEN 0 END) AS free
            FROM limits_of(ARRAY(SELECT DISTINCT k FROM asking)) AS l
            LEFT JOIN unnest(p_keys, p_free) AS f (key, free) ON f.key = l.key
        )
        SELECT array_agg(chosen.id ORDER BY chosen.start_by, chosen.id) INTO v_more FROM (
            SELECT first.id, first.start_by FROM first
            WHERE NOT EXISTS (SELECT 1 FROM asking JOIN free ON free.key = asking.k
                              WHERE asking.id = first.id AND asking.ordinality > free.free)
            ORDER BY first.start_by, first.id LIMIT v_slots) AS chosen;
        v_ids := v_ids || ARRAY(
            SELECT j.id FROM unnest(v_more) WITH ORDINALITY AS chosen (id, ordinality) JOIN jobs j ON j.id = chosen.id
            WHERE j.state = 'available' ORDER BY chosen.ordinality FOR UPDATE OF j SKIP LOCKED);
    END LOOP;
    RETURN QUERY SELECT m.* FROM mark_dispatched(
        v_ids, ARRAY(SELECT j.state_at FROM unnest(v_ids) WITH ORDINALITY AS due (id, ordinality)
                     JOIN jobs j ON j.id = due.id ORDER BY due.ordinality)) m;
END $$;

-- The flows of a queue after (priority, tenant, keys): the highest priority first, then in index order; and
-- when their first job became available. One index probe per flow, at any number of jobs.
CREATE OR REPLACE FUNCTION sweep_flows(p_queue text, p_priority integer, p_tenant uuid, p_keys text, p_limit integer)
RETURNS TABLE (priority integer, tenant text, keys text, head double precision)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_tenant uuid := p_tenant;
    v_keys text[] := p_keys::text[];
    v_head timestamptz;
    v_left integer := p_limit;
BEGIN
    FOR v_priority IN REVERSE p_priority .. 0 LOOP
        WHILE v_left > 0 LOOP
            SELECT j.tenant_id, j.limit_keys, j.state_at INTO v_tenant, v_keys, v_head FROM jobs j
            WHERE j.queue = p_queue AND j.state = 'available' AND j.priority = v_priority
                AND (j.tenant_id, j.limit_keys) > (v_tenant, v_keys)
            ORDER BY j.tenant_id, j.limit_keys, j.state_at LIMIT 1;
            EXIT WHEN NOT FOUND;
            v_left := v_left - 1;
            priority := v_priority;
            tenant := v_tenant::text;
            keys := v_keys::text;
            head := extract(epoch FROM v_head);
            RETURN NEXT;
        END LOOP;
        EXIT WHEN v_left = 0;
        v_tenant := '00000000-0000-0000-0000-000000000000';
        v_keys := '{}';
    END LOOP;
END $$;

-- Before the commit, return jobs to available that the broker did not confirm.
CREATE OR REPLACE FUNCTION undispatch_jobs(p_ids uuid[], p_times timestamptz[]) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count integer;
BEGIN
    UPDATE jobs SET state = 'available', state_at = back.state_at, dispatch_no = jobs.dispatch_no - 1
    FROM unnest(p_ids, p_times) AS back (id, state_at)
    WHERE jobs.id = back.id AND jobs.state = 'dispatched';
    GET DIAGNOSTICS v_count = ROW_COUNT;
    DELETE FROM job_events e USING jobs j
    WHERE e.job_id = ANY (p_ids) AND j.id = e.job_id AND e.event = 'dispatched' AND e.at >= transaction_timestamp()
        AND (e.data ->> 'dispatch_no')::integer = j.dispatch_no + 1;
    RETURN v_count;
END $$;
