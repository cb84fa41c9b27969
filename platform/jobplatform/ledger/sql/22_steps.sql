-- The steps of workflows (docs/concepts/workflows.md). A step that ends notifies its successors in the transaction
-- that ends its job: no polling, and no message that could be lost.
--
-- states of a step: waiting (for others) → open (its job is live) → joining (waits for steps it has added) → done
--                   failed (its failure counts) · cancelled (with its workflow, or because a predecessor has failed)
--                   · skipped (ended before its turn)
-- A step with failed_parents waits until all predecessors have ended; it is then cancelled, and notifies its successors.
-- Lock order of a settling run: its job, steps in topological order, the workflow. A deadlock is resolved by a retry.

-- The job of a step has ended, or is dead. A second end (a discarded dead letter, for instance) notifies nothing.
CREATE OR REPLACE FUNCTION step_ended(j jobs) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    s workflow_steps;
BEGIN
    SELECT * INTO s FROM workflow_steps WHERE id = j.id FOR UPDATE;
    IF NOT FOUND OR s.state NOT IN ('waiting', 'open') THEN
        RETURN;
    END IF;
    IF j.state = 'succeeded' AND s.pending > 0 THEN
        UPDATE workflow_steps SET state = 'joining' WHERE id = s.id;
    ELSIF j.state <> 'succeeded' AND EXISTS (
            SELECT 1 FROM workflows WHERE id = s.workflow_id AND state = 'stopping') THEN
        UPDATE workflow_steps SET state = CASE WHEN j.state = 'cancelled' THEN 'cancelled' ELSE 'failed' END
        WHERE id = s.id;
        PERFORM call_errbacks(s, j);
    ELSIF j.state <> 'succeeded' AND s.on_failure IN ('fail', 'skip') THEN
        -- a step that was cancelled before its turn: its branch ends when its turn comes (`notify_steps`), as what it waited
        -- for goes on
        UPDATE workflow_steps SET state = 'failed', failure_propagated = s.on_failure = 'skip' AND s.pending = 0 WHERE id = s.id;
        PERFORM call_errbacks(s, j);
        IF s.on_failure = 'fail' THEN
            PERFORM fail_workflow(s, j.state, j.error);
        ELSIF s.pending > 0 THEN
            PERFORM end_sinks(s.workflow_id, 0, step_failure(s.name, j.id, j.state, j.error));
        ELSE
            PERFORM notify_steps(
                s.workflow_id, '{}', (cardinality(s.children) = 0)::integer, s.children, j.id,
                step_failure(s.name, j.id, j.state, j.error));
        END IF;
    ELSIF s.state = 'waiting' THEN  -- its successors wait for its turn nevertheless
        UPDATE workflow_steps SET state = 'skipped' WHERE id = s.id;
    ELSE
        UPDATE workflow_steps SET state = 'done' WHERE id = s.id;
        PERFORM notify_steps(s.workflow_id, s.children, (cardinality(s.children) = 0)::integer);
        IF j.state = 'dead' AND s.on_failure = 'ignore' THEN  -- no operator is needed
            j.state := 'discarded';
            j.error := jsonb_build_object(
                'code', 'discarded', 'message', 'its workflow ignores its failure', 'retryable', false,
                'last', j.error);
            PERFORM note_event(j, 'discarded', '{"by": "its workflow"}');
            PERFORM finish_job(j, clock_timestamp());
        END IF;
    END IF;
END $$;

-- A step has failed whose failure ends its workflow: the dispatcher's next poll cancels waiting steps.
CREATE OR REPLACE FUNCTION fail_workflow(s workflow_steps, p_state text, p_error jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE workflows SET state = 'stopping', stop_as = 'failed', error = step_failure(s.name, s.id, p_state, p_error)
    WHERE id = s.workflow_id AND state = 'running';
$$;

-- Notify steps of ended predecessors: p_told has one entry per ended predecessor, p_failed the same for
-- failed ones (p_cause: the failed job, p_error: the workflow's error); p_sinks: ended steps without successors,
-- which notify the workflow only. Level by level: a gate that opens notifies in turn. In an ended workflow nothing is notified:
-- `revive_workflow` recounts.
CREATE OR REPLACE FUNCTION notify_steps(
    p_workflow uuid, p_told uuid[], p_sinks integer, p_failed uuid[] DEFAULT '{}', p_cause uuid DEFAULT NULL,
    p_error jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_unblocked uuid[] := p_told;
    v_failed uuid[] := p_failed;
    v_causes uuid[] := array_fill(p_cause, ARRAY[cardinality(p_failed)]);
    v_ready uuid[];
    v_broken uuid[];
    v_sinks integer := p_sinks;
    v_more integer;
BEGIN
    PERFORM 1 FROM workflows WHERE id = p_workflow AND ended_at IS NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WHILE cardinality(v_unblocked) + cardinality(v_failed) > 0 LOOP
        IF cardinality(v_unblocked) + cardinality(v_failed) > 1 THEN
            PERFORM 1 FROM workflow_steps WHERE id = ANY (v_unblocked || v_failed) ORDER BY id FOR UPDATE;
        END IF;
        -- of two concurrent last predecessors the second waits here for the row, and continues the count
        WITH unblocked AS (
            UPDATE workflow_steps s SET
                pending = pending - over.times, failed_parents = failed_parents + over.failed,
                failed_by = coalesce(failed_by, over.cause)
            FROM (SELECT id, count(*)::integer AS times, sum(failed)::integer AS failed,
                         (array_agg(cause) FILTER (WHERE failed = 1))[1] AS cause
                  FROM (SELECT unnest(v_unblocked) AS id, 0 AS failed, NULL::uuid AS cause
                        UNION ALL SELECT f.id, 1, f.cause FROM unnest(v_failed, v_causes) AS f (id, cause)) AS each
                  GROUP BY id) AS over
            WHERE s.id = over.id RETURNING s.id, s.pending, s.failed_parents > 0 OR s.state = 'failed' AS broken)
        SELECT array_agg(id) FILTER (WHERE NOT broken), array_agg(id) FILTER (WHERE broken)
        INTO v_ready, v_broken FROM unblocked WHERE pending = 0;
        v_unblocked := '{}';
        v_failed := '{}';
        v_causes := '{}';
        IF v_ready IS NOT NULL THEN
            SELECT unblocked, sinks INTO v_unblocked, v_more FROM unblock_steps(p_workflow, v_ready);
            v_sinks := v_sinks + v_more;
        END IF;
        IF v_broken IS NOT NULL THEN
            SELECT failed, causes, sinks INTO v_failed, v_causes, v_more FROM skip_steps(p_workflow, v_broken);
            v_sinks := v_sinks + v_more;
        END IF;
    END LOOP;
    IF v_sinks > 0 OR p_error IS NOT NULL THEN
        PERFORM end_sinks(p_workflow, v_sinks, p_error);
    END IF;
END $$;

-- A number of steps without successors have ended; p_error: one has failed with a failure that counts at the end. With the
-- last of them the workflow ends: failed, if there is such a step.
CREATE OR REPLACE FUNCTION end_sinks(p_workflow uuid, p_sinks integer, p_error jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    w workflows;
BEGIN
    UPDATE workflows SET
        pending = pending - p_sinks,
        error = CASE WHEN state = 'running' THEN coalesce(error, p_error) ELSE error END,
        state = CASE WHEN state = 'running' AND pending = p_sinks AND coalesce(error, p_error) IS NULL
                     THEN 'succeeded' ELSE state END,
        ended_at = CASE WHEN state = 'running' AND pending = p_sinks AND coalesce(error, p_error) IS NULL
                        THEN clock_timestamp() ELSE ended_at END
    WHERE id = p_workflow RETURNING * INTO w;
    IF w.state = 'running' AND w.pending = 0 THEN
        IF EXISTS (SELECT 1 FROM workflow_steps WHERE workflow_id = p_workflow AND state = 'failed') THEN
            UPDATE workflows SET state = 'failed', stop_as = 'failed', ended_at = clock_timestamp() WHERE id = w.id;
        ELSE  -- the failed step was replayed meanwhile
            UPDATE workflows SET state = 'succeeded', error = NULL, ended_at = clock_timestamp() WHERE id = w.id;
        END IF;
    END IF;
END $$;

-- Steps without open predecessors: jobs become available (or scheduled), maps are unfolded, gates end at once.
-- Returns the steps to notify of the gates, and the number of gates without successors. Other steps of a stopping workflow stay.
--
-- The queues that got jobs are stored in a setting of the transaction, for the notification that the caller sends when it is
-- committed.
CREATE OR REPLACE FUNCTION unblock_steps(p_workflow uuid, p_steps uuid[], OUT unblocked uuid[], OUT sinks integer)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    s workflow_steps;
    v_now timestamptz := clock_timestamp();
    v_woken text;
BEGIN
    unblocked := '{}';
    sinks := 0;
    PERFORM 1 FROM workflows WHERE id = p_workflow AND state = 'running';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH opened AS (
        UPDATE workflow_steps SET state = 'open'
        WHERE id = ANY (p_steps) AND type = 'job' AND workflow_steps.state = 'waiting' RETURNING id, template
    ), made AS (
        UPDATE jobs SET
            state = CASE WHEN run_at > v_now OR (template ->> 'delay_seconds')::float8 > 0
                         THEN 'scheduled' ELSE 'available' END,
            state_at = v_now,
            run_at = coalesce(v_now + make_interval(secs => (template ->> 'delay_seconds')::float8), run_at),
            start_by = coalesce(v_now + make_interval(secs => (template ->> 'start_within_seconds')::float8), start_by)
        FROM opened WHERE jobs.id = opened.id AND jobs.state = 'blocked' RETURNING jobs.*
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no)
        SELECT id, tenant_id, 'unblocked', state, run_no FROM made
    )
    SELECT string_agg(DISTINCT queue || ' ' || priority, ',') INTO v_woken FROM made WHERE state = 'available';
    IF v_woken IS NOT NULL THEN
        PERFORM set_config('jobplatform.woken', concat_ws(
            ',', nullif(current_setting('jobplatform.woken', true), ''), v_woken), true);
    END IF;
    FOR s IN
        SELECT * FROM workflow_steps
        WHERE id = ANY (p_steps) AND (state IN ('joining', 'skipped') OR state = 'waiting' AND type <> 'job')
        ORDER BY id
    LOOP
        IF s.type = 'map' AND s.state = 'waiting' THEN
            CONTINUE WHEN expand_map(s) <> 0;
        END IF;
        UPDATE workflow_steps SET state = 'done' WHERE id = s.id;
        unblocked := unblocked || s.children;
        sinks := sinks + (cardinality(s.children) = 0)::integer;
    END LOOP;
END $$;

-- Write steps and their jobs. p_steps: a JSON array of what domain/planning.py plans; without p_open all of them wait.
CREATE OR REPLACE FUNCTION insert_steps(
    p_tenant uuid, p_workflow uuid, p_steps json, p_base integer DEFAULT 0, p_open boolean DEFAULT true)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_ready uuid[];
    v_unblocked uuid[];
    v_sinks integer;
BEGIN
    INSERT INTO workflow_steps (
        id, workflow_id, name, position, type, state, pending, children, on_failure, item, template, errbacks,
        skip_calls_errbacks)
    SELECT id, p_workflow, name, p_base + position, type, CASE WHEN type = 'job' AND pending = 0 AND p_open THEN 'open' ELSE 'waiting' END,
           pending, children, on_failure, item, template, errbacks, coalesce(skip_calls_errbacks, false)
    FROM json_to_recordset(p_steps) AS o (
        id uuid, name text, position integer, type text, pending integer, children uuid[], on_failure text, item jsonb,
        template jsonb, errbacks jsonb, skip_calls_errbacks boolean);
    PERFORM insert_following_jobs(json_agg(json_build_object(
        'id', id, 'tenant_id', p_tenant, 'queue', queue, 'kind', kind, 'state',
        CASE WHEN pending > 0 OR NOT p_open THEN 'blocked' WHEN run_at > v_now THEN 'scheduled' ELSE 'available' END,
        'priority', priority, 'payload', payload, 'tags', tags, 'max_attempts', max_attempts,
        'crash_limit', crash_limit, 'lost_limit', lost_limit, 'run_at', run_at, 'start_by', start_by,
        'workflow_id', p_workflow, 'limit_keys', limit_keys, 'limit_units', limit_units)))
    FROM json_to_recordset(p_steps) AS o (
        id uuid, type text, pending integer, queue text, kind text, priority integer, payload json, tags json,
        max_attempts integer, crash_limit integer, lost_limit integer, run_at timestamptz, start_by timestamptz,
        limit_keys json, limit_units json)
    WHERE type = 'job'
    HAVING count(*) > 0;
    -- maps over empty lists, and empty groups
    SELECT array_agg(id) INTO v_ready FROM json_to_recordset(p_steps) AS o (id uuid, type text, pending integer)
    WHERE type <> 'job' AND pending = 0 AND p_open;
    IF v_ready IS NOT NULL THEN
        SELECT unblocked, sinks INTO v_unblocked, v_sinks FROM unblock_steps(p_workflow, v_ready);
        PERFORM notify_steps(p_workflow, v_unblocked, v_sinks);
    END IF;
END $$;

-- A running job adds steps, in the transaction that settles it; its successors wait for them too. A job in
-- no workflow becomes the first step of one. Steps of a workflow that stops or has failed wait for its replay. Returns
-- its workflow.
CREATE OR REPLACE FUNCTION add_steps(j jobs, p_added json) RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_workflow uuid := j.workflow_id;
    v_base integer := 1;
    v_state text := 'running';
BEGIN
    IF v_workflow IS NULL THEN
        v_workflow := (p_added ->> 'workflow_id')::uuid;
        INSERT INTO workflows (id, tenant_id, name, state, pending) VALUES (v_workflow, j.tenant_id, j.kind, 'running', 1);
        INSERT INTO workflow_steps (id, workflow_id, name, position, type, state, pending, children, on_failure)
        VALUES (j.id, v_workflow, p_added ->> 'step', 0, 'job', 'open', 0, '{}', coalesce(p_added ->> 'on_failure', 'fail'));
    ELSE
        -- a concurrent stop waits for this, or this for it; with a shared lock both could not update the count
        IF p_added ->> 'result_of' IS NULL THEN
            SELECT state INTO v_state FROM workflows WHERE id = v_workflow FOR SHARE;
        ELSE
            SELECT state INTO v_state FROM workflows WHERE id = v_workflow FOR NO KEY UPDATE;
        END IF;
        IF v_state = 'succeeded' THEN  -- a replayed dead letter that the workflow continued without: nothing waits for these steps
            PERFORM note_event(j, 'log', '{"message": "its steps were not added: its workflow has succeeded"}');
            RETURN v_workflow;
        END IF;
        SELECT max(position) + 1 INTO v_base FROM workflow_steps WHERE workflow_id = v_workflow;
    END IF;
    UPDATE workflow_steps SET
        pending = pending + (p_added ->> 'pending')::integer, result_of = (p_added ->> 'result_of')::uuid
    WHERE id = j.id;
    -- steps that nothing waits for, this step included
    UPDATE workflows SET pending = pending + (
        SELECT count(*) FROM json_array_elements(p_added -> 'steps') AS step WHERE json_array_length(step -> 'children') = 0)
    WHERE id = v_workflow AND p_added ->> 'result_of' IS NOT NULL;
    PERFORM insert_steps(j.tenant_id, v_workflow, p_added -> 'steps', v_base, v_state = 'running');
    RETURN v_workflow;
END $$;

-- Unfold a map: one job for each element of the list it is over. Returns how many; −1 when there is no such list.
CREATE OR REPLACE FUNCTION expand_map(s workflow_steps) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_list jsonb;
    v_count integer;
    v_tenant uuid;
    v_steps jsonb;
    v_source text := s.template ->> 'shown';
    v_most bigint := 64 * 1024 * 1024;
BEGIN
    SELECT tenant_id INTO v_tenant FROM workflows WHERE id = s.workflow_id;
    v_list := step_value(s.workflow_id, s.template #>> '{over,step}', s.template #>> '{over,of}',
                         ARRAY(SELECT jsonb_array_elements_text(s.template #> '{over,path}')));
    IF jsonb_typeof(v_list) IS DISTINCT FROM 'array' OR jsonb_array_length(v_list) > (s.template ->> 'limit')::integer THEN
        UPDATE workflow_steps SET state = 'failed' WHERE id = s.id;
        PERFORM fail_workflow(s, 'failed', jsonb_build_object('code', 'map_source', 'message', CASE
            WHEN jsonb_typeof(v_list) = 'array' THEN format(
                '%s has %s elements, a map takes %s', v_source, jsonb_array_length(v_list), s.template ->> 'limit')
            ELSE format('expected a list at %s, got %s', v_source, coalesce(jsonb_typeof(v_list), 'nothing')) END));
        RETURN -1;
    END IF;
    v_count := jsonb_array_length(v_list);
    IF v_count = 0 THEN
        RETURN 0;
    END IF;
    IF v_count * octet_length((s.template -> 'job')::text)::bigint + octet_length(v_list::text) > v_most THEN
        RAISE program_limit_exceeded USING MESSAGE = format('%s jobs would have more than %s bytes', v_count, v_most);
    END IF;
    SELECT jsonb_agg(s.template -> 'job' || jsonb_build_object(
        'id', gen_step_id(), 'name', format('%s[%s]', s.name, n - 1), 'position', n, 'type', 'job', 'pending', 0,
        'children', jsonb_build_array(s.id), 'item', item)) INTO v_steps
    FROM jsonb_array_elements(v_list) WITH ORDINALITY AS list (item, n);
    UPDATE workflow_steps SET state = 'joining', pending = v_count WHERE id = s.id;
    PERFORM insert_steps(v_tenant, s.workflow_id, v_steps::json,
                         (SELECT max(position) FROM workflow_steps WHERE workflow_id = s.workflow_id));
    RETURN v_count;
EXCEPTION WHEN program_limit_exceeded OR data_exception OR integrity_constraint_violation THEN
    -- a map that can't be unfolded fails its own workflow, not the caller (settlement, clock or rescue)
    UPDATE workflow_steps SET state = 'failed' WHERE id = s.id;
    PERFORM fail_workflow(s, 'failed', jsonb_build_object('code', 'map_failed', 'message', SQLERRM));
    RETURN -1;
END $$;

-- A UUIDv7 (RFC 9562) by the database's clock; Postgres has its own from 18 on.
CREATE OR REPLACE FUNCTION gen_step_id() RETURNS uuid
LANGUAGE sql VOLATILE AS $$
    SELECT encode(
        set_byte(set_byte(
            overlay(uuid_send(gen_random_uuid()) PLACING substring(
                int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
            6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112),
            8, (get_byte(uuid_send(gen_random_uuid()), 8) & 63) | 128), 'hex')::uuid;
$$;

-- The value of a reference: the result of a step; its results (of added or unfolded steps, or of a group's parts; failed
-- ones are null, or left out if their failure policy is "continue"); or a part of these. NULL if there is none.
CREATE OR REPLACE FUNCTION step_value(p_workflow uuid, p_step text, p_of text, p_path text[]) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    s workflow_steps;
    v_since timestamptz;
    v_found json;
BEGIN
    SELECT * INTO s FROM workflow_steps WHERE workflow_id = p_workflow AND name = p_step;
    SELECT created_at - interval '1 day' INTO v_since FROM workflows WHERE id = p_workflow;
    WHILE p_of = 'result' AND s.result_of IS NOT NULL LOOP  -- it was replaced by a step that it has added
        SELECT * INTO s FROM workflow_steps WHERE id = s.result_of;
    END LOOP;
    IF p_of = 'result' AND s.type = 'job' THEN
        SELECT result INTO v_found FROM job_history WHERE id = s.id AND finished_at >= v_since;
    ELSE
        SELECT coalesce(json_agg(value ORDER BY position), '[]') INTO v_found FROM (
            SELECT m.position, CASE WHEN m.result_of IS NOT NULL THEN step_value(p_workflow, m.name, 'result', '{}')
                                 WHEN m.type = 'job' THEN h.result
                                 ELSE step_value(p_workflow, m.name, 'results', '{}') END AS value
            FROM workflow_steps m LEFT JOIN job_history h ON h.id = m.id AND h.finished_at >= v_since
            WHERE m.workflow_id = p_workflow AND s.id = ANY (m.children)
                AND m.position > s.position  -- not its own predecessors
                AND NOT (m.type = 'job' AND m.on_failure = 'continue' AND h.state IS DISTINCT FROM 'succeeded')
        ) AS members;
    END IF;
    RETURN v_found #> p_path;
END $$;

-- The values of a job's references, in order: [{"step": …, "of": "result" | "results" | "item", "path": […]}, …].
-- NULL for a job outside any workflow: there, nothing is a reference.
CREATE OR REPLACE FUNCTION resolve_references(p_job uuid, p_references jsonb) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    s workflow_steps;
BEGIN
    SELECT * INTO s FROM workflow_steps WHERE id = p_job;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN (
        WITH asked AS MATERIALIZED (
            SELECT n, reference ->> 'step' AS step, reference ->> 'of' AS what,
                   ARRAY(SELECT jsonb_array_elements_text(reference -> 'path')) AS path
            FROM jsonb_array_elements(p_references) WITH ORDINALITY AS list (reference, n)
        ), named AS MATERIALIZED (  -- each step's results are assembled once
            SELECT step, what, step_value(s.workflow_id, step, what, '{}') AS value
            FROM (SELECT DISTINCT step, what FROM asked WHERE what <> 'item') AS names
        )
        SELECT coalesce(json_agg(
            CASE WHEN what = 'item' THEN s.item::json ELSE named.value END #> path ORDER BY n), '[]')
        FROM asked LEFT JOIN named USING (step, what));
END $$;
