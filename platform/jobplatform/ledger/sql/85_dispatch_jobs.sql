-- One round of a queue: lock it, count what is out, pick what fits its window, mark it dispatched. The caller
-- publishes and commits when the broker has confirmed (docs/concepts/delivery.md, "Dispatch"): until then a claim of
-- one of these jobs waits at the row.
--
-- free(p) = window − jobs dispatched or running with priority ≥ p: a more urgent job goes out when the window is full
-- of lesser ones, and there is never more than a window of any class.
--
-- p_marks: where the pick of priority 0 … 9 begins (state_at), NULL is "at the oldest"; p_active_mark: nothing that is
-- out was dispatched before it. Both only save time: under a long snapshot an index keeps the entries of what is gone.
--
-- Returns one row per job, in the order in which they are to be published; without a job, one row with id NULL.
-- verdicts: dispatched · empty · full · paused (or not known) · elsewhere (another dispatcher has the queue) · no epoch
--   oldest: the first dispatched_at of what is out (now, when nothing is);  closed: the highest priority without a free place, −1 when there
--   is none;  waiting: jobs are left that a free place, or another round, would take
CREATE OR REPLACE FUNCTION dispatch_jobs(
    p_queue text, p_window integer, p_batch integer, p_marks timestamptz[], p_active_mark timestamptz
) RETURNS TABLE (
    verdict text, active integer, oldest timestamptz, closed integer, waiting boolean,
    id text, kind text, priority integer, dispatch_no integer, state_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_epoch uuid;
    v_out integer[] := array_fill(0, ARRAY[10]);
    v_busy integer := 0;
    v_free integer;
    v_ids uuid[] := '{}';
    v_times timestamptz[] := '{}';
    v_more_ids uuid[];
    v_more_times timestamptz[];
    v_now timestamptz;
    one record;
BEGIN
    active := 0;
    closed := -1;
    waiting := false;
    -- on the transaction that does the marking: a dispatcher that dies, or is ended by the server's time-outs, loses
    -- rows and lock together, and a pooled connection can't keep it
    IF NOT pg_try_advisory_xact_lock(hashtext('jobplatform.dispatch'), hashtext(p_queue)) THEN
        verdict := 'elsewhere';
        RETURN NEXT;
        RETURN;
    END IF;
    PERFORM 1 FROM queues WHERE name = p_queue AND paused_at IS NULL;
    IF NOT FOUND THEN
        verdict := 'paused';
        RETURN NEXT;
        RETURN;
    END IF;
    -- read before publishing: the guard may make a new epoch meanwhile (rule 5)
    SELECT epoch INTO v_epoch FROM broker_epochs WHERE current;
    IF NOT FOUND THEN
        verdict := 'no epoch';
        RETURN NEXT;
        RETURN;
    END IF;
    FOR one IN
        SELECT jobs.priority AS class, count(*)::integer AS jobs, min(dispatched_at) AS first FROM jobs
        WHERE queue = p_queue AND jobs.state IN ('dispatched', 'running')
            AND dispatched_at >= coalesce(p_active_mark, '-infinity')
        GROUP BY jobs.priority
    LOOP
        v_out[one.class + 1] := one.jobs;
        active := active + one.jobs;
        oldest := least(oldest, one.first);
    END LOOP;

    FOR v_class IN REVERSE 9..0 LOOP
        v_busy := v_busy + v_out[v_class + 1];
        v_free := least(p_window - v_busy, p_batch) - cardinality(v_ids);
        IF v_free > 0 THEN
            -- one more than fits tells whether there is more
            SELECT array_agg(due.id), array_agg(due.state_at) INTO v_more_ids, v_more_times FROM (
                SELECT jobs.id, jobs.state_at FROM jobs
                WHERE queue = p_queue AND jobs.state = 'available' AND jobs.priority = v_class
                    AND jobs.state_at >= coalesce(p_marks[v_class + 1], '-infinity')
                ORDER BY jobs.state_at LIMIT v_free + 1 FOR UPDATE SKIP LOCKED) AS due;
            waiting := coalesce(cardinality(v_more_ids), 0) > v_free;
            v_ids := v_ids || v_more_ids[:v_free];
            v_times := v_times || v_more_times[:v_free];
        ELSE
            PERFORM 1 FROM jobs
            WHERE queue = p_queue AND jobs.state = 'available' AND jobs.priority = v_class
                AND jobs.state_at >= coalesce(p_marks[v_class + 1], '-infinity')
            ORDER BY jobs.state_at LIMIT 1;  -- the order makes it a probe of the index
            waiting := FOUND;
        END IF;
        IF closed < 0 AND v_busy + cardinality(v_ids) >= p_window THEN
            closed := v_class;
        END IF;
        EXIT WHEN waiting;
    END LOOP;

    IF cardinality(v_ids) = 0 THEN
        verdict := CASE WHEN waiting THEN 'full' ELSE 'empty' END;
        oldest := coalesce(oldest, clock_timestamp());
        RETURN NEXT;
        RETURN;
    END IF;
    verdict := 'dispatched';
    -- a mark that a crash of Postgres loses is a doubt like any other: the message out is stale or the first of two, and
    -- a claim's own commit writes the mark of its job down with it. Not waiting for the disk lets the claim in sooner.
    PERFORM set_config('synchronous_commit', 'off', true);
    v_now := clock_timestamp();
    oldest := coalesce(oldest, v_now);
    RETURN QUERY
        WITH marked AS (
            UPDATE jobs SET
                state = 'dispatched', state_at = v_now, dispatched_at = v_now, dispatch_no = jobs.dispatch_no + 1,
                epoch = v_epoch
            FROM unnest(v_ids, v_times) WITH ORDINALITY AS due (id, state_at, place)
            WHERE jobs.id = due.id
            RETURNING jobs.id, tenant_id, jobs.kind, jobs.priority, jobs.dispatch_no, run_no, due.state_at, due.place
        ), noted AS (
            INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
            SELECT marked.id, tenant_id, 'dispatched', 'dispatched', run_no,
                   jsonb_build_object('dispatch_no', marked.dispatch_no) FROM marked
        )
        SELECT verdict, active, oldest, closed, waiting,
               marked.id::text, marked.kind, marked.priority::integer, marked.dispatch_no, marked.state_at
        FROM marked ORDER BY place;
END $$;

-- Take back, before the commit, what the broker did not take: available as before.
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
