-- Schedules (docs/concepts/schedules.md). Any number of dispatchers fire them: a schedule is locked while its next
-- times are computed, and a fire is a row of (schedule, planned time): each fires once.

-- The due schedules, locked for this transaction, with the database's time; the next one
-- determines how long nothing will be due (seconds_until_due; NULL: nothing is planned).
CREATE OR REPLACE FUNCTION due_schedules(p_limit integer)
RETURNS TABLE (due schedules, now timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
        SELECT s, v_now FROM schedules s WHERE s.next_due_at <= v_now AND s.paused_at IS NULL
        ORDER BY s.next_due_at LIMIT p_limit FOR UPDATE SKIP LOCKED;
END $$;

-- Write fires and their jobs. p_fires: [{"schedule_id", "planned_at", "job_id", "payload", "by"}], of schedules that this
-- transaction has locked. A fire whose time is already recorded is skipped. Returns "queue priority,…" that got jobs.
CREATE OR REPLACE FUNCTION fire_schedules(p_fires json) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    overlapped record;
    v_fired json;
BEGIN
    -- recorded fires are skipped: a clock that jumped back must not cancel the job of its own fire
    SELECT json_agg(f) INTO p_fires FROM json_array_elements(p_fires) AS f
    WHERE NOT EXISTS (
        SELECT 1 FROM schedule_fires s
        WHERE s.schedule_id = (f ->> 'schedule_id')::uuid AND s.planned_at = (f ->> 'planned_at')::timestamptz);
    IF p_fires IS NULL THEN
        RETURN NULL;
    END IF;
    FOR overlapped IN  -- overlap policy "cancel": the old job is cancelled, or cancellation is requested. Counters in one lock order
        SELECT DISTINCT s.tenant_id, s.name, s.last_job_id, j.queue
        FROM json_to_recordset(p_fires) AS f (schedule_id uuid, by text)
        JOIN schedules s ON s.id = f.schedule_id JOIN jobs j ON j.id = s.last_job_id
        WHERE s.overlap = 'cancel' AND f.by IS NULL AND j.state NOT IN ('dead', 'held')
        ORDER BY s.tenant_id, j.queue, s.last_job_id
    LOOP
        PERFORM cancel_job(overlapped.tenant_id, overlapped.last_job_id, '-infinity', 'its schedule fires again', 'schedule ' || overlapped.name);
    END LOOP;
    WITH asked AS (
        SELECT f.*, row_number() OVER (PARTITION BY f.schedule_id, f.by ORDER BY f.planned_at) AS nth,
               row_number() OVER (PARTITION BY f.schedule_id, f.by ORDER BY f.planned_at DESC) AS nth_last
        FROM json_to_recordset(p_fires) AS f (
            schedule_id uuid, planned_at timestamptz, job_id uuid, payload json, by text)
    ), judged AS (
        SELECT a.*, CASE
            WHEN a.by IS NOT NULL OR s.overlap = 'allow' THEN 'fired'
            WHEN s.overlap = 'cancel' THEN CASE WHEN a.nth_last = 1 THEN 'fired' ELSE 'skipped' END
            WHEN s.overlap = 'skip' THEN CASE WHEN a.nth_last = 1 AND live.id IS NULL THEN 'fired' ELSE 'skipped' END
            WHEN a.nth = 1 AND s.queued = 0 AND live.id IS NULL THEN 'fired'
            WHEN s.overlap = 'queue' AND s.queued + a.nth <= 1000 THEN 'queued'
            ELSE 'skipped' END AS outcome
        FROM asked a JOIN schedules s ON s.id = a.schedule_id
        LEFT JOIN jobs live ON live.id = s.last_job_id AND live.state NOT IN ('dead', 'held')
    ), fires AS (
        INSERT INTO schedule_fires (schedule_id, planned_at, outcome, by, job_id, payload)
        SELECT schedule_id, planned_at, outcome, by, CASE WHEN outcome = 'fired' THEN job_id END,
               CASE WHEN outcome = 'queued' THEN payload END
        FROM judged ORDER BY schedule_id, planned_at
        ON CONFLICT (schedule_id, planned_at) DO NOTHING
        RETURNING schedule_id, planned_at, outcome
    ), counted AS (
        SELECT schedule_id, max(planned_at) AS last, count(*) FILTER (WHERE outcome = 'queued')::integer AS queued
        FROM fires GROUP BY schedule_id
    ), noted AS (
        UPDATE schedules s SET
            queued = s.queued + counted.queued, last_planned_at = greatest(s.last_planned_at, counted.last)
        FROM counted WHERE s.id = counted.schedule_id
    )
    SELECT json_agg(json_build_object(
        'schedule_id', j.schedule_id, 'planned_at', j.planned_at, 'job_id', j.job_id, 'payload', j.payload,
        'by', j.by))
    INTO v_fired FROM fires JOIN judged j USING (schedule_id, planned_at) WHERE fires.outcome = 'fired';
    RETURN CASE WHEN v_fired IS NOT NULL THEN insert_fired(v_fired) END;
END $$;

-- The jobs of fires, as their schedules have them. p_fired: [{"schedule_id", "planned_at", "job_id", "payload"}].
CREATE OR REPLACE FUNCTION insert_fired(p_fired json) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_woken text;
BEGIN
    SELECT insert_jobs(json_agg(json_build_object(
        'id', f.job_id, 'tenant_id', s.tenant_id, 'queue', s.queue, 'kind', s.kind, 'state', 'available',
        'priority', s.priority, 'payload', f.payload, 'tags', s.tags, 'max_attempts', s.max_attempts,
        'crash_limit', s.crash_limit, 'lost_limit', s.lost_limit,
        'start_by', f.planned_at + make_interval(secs => s.start_within_seconds),
        'limit_keys', s.limit_keys, 'limit_units', s.limit_units,
        'data', jsonb_build_object('schedule', s.name, 'planned_at', f.planned_at)))) INTO v_woken
    FROM json_to_recordset(p_fired) AS f (schedule_id uuid, planned_at timestamptz, job_id uuid, payload json)
    JOIN schedules s ON s.id = f.schedule_id
    HAVING count(*) > 0;
    -- the next fire's overlap is checked against the newest job; a separate statement, after fires and counters
    UPDATE schedules s SET last_job_id = last.job_id
    FROM (
        SELECT DISTINCT ON (schedule_id) schedule_id, job_id
        FROM json_to_recordset(p_fired) AS f (schedule_id uuid, planned_at timestamptz, job_id uuid, by text)
        WHERE by IS NULL  -- a manual run does not delay fires
        ORDER BY schedule_id, planned_at DESC) AS last
    WHERE s.id = last.schedule_id;
    RETURN v_woken;
END $$;

-- Fires that wait for the previous fire's job: the oldest of each schedule whose last job has ended. Returns "queue
-- priority,…" that got jobs.
CREATE OR REPLACE FUNCTION release_fires(p_limit integer) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_ids uuid[];
    v_fired json;
BEGIN
    SELECT array_agg(id) INTO v_ids FROM (
        SELECT s.id FROM schedules s WHERE s.queued > 0 AND s.paused_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM jobs j WHERE j.id = s.last_job_id AND j.state NOT IN ('dead', 'held'))
        LIMIT p_limit FOR UPDATE OF s SKIP LOCKED) AS free;
    IF v_ids IS NULL THEN
        RETURN NULL;
    END IF;
    -- checked again under the lock: another dispatcher may have released one just before
    WITH oldest AS (
        SELECT f.schedule_id, f.planned_at, f.payload FROM schedules s CROSS JOIN LATERAL (
            SELECT * FROM schedule_fires q WHERE q.schedule_id = s.id AND q.outcome = 'queued'
            ORDER BY q.planned_at LIMIT 1) AS f
        WHERE s.id = ANY (v_ids) AND NOT EXISTS (
            SELECT 1 FROM jobs j WHERE j.id = s.last_job_id AND j.state NOT IN ('dead', 'held'))
    ), fired AS (
        UPDATE schedule_fires f SET outcome = 'fired', job_id = gen_step_id(), payload = NULL
        FROM oldest o WHERE f.schedule_id = o.schedule_id AND f.planned_at = o.planned_at AND f.outcome = 'queued'
        RETURNING f.schedule_id, f.planned_at, f.job_id, o.payload
    ), counted AS (
        UPDATE schedules s SET queued = s.queued - 1 FROM fired WHERE s.id = fired.schedule_id
    )
    SELECT json_agg(json_build_object(
        'schedule_id', schedule_id, 'planned_at', planned_at, 'job_id', job_id, 'payload', payload)) INTO v_fired
    FROM fired;
    RETURN CASE WHEN v_fired IS NOT NULL THEN insert_fired(v_fired) END;
END $$;
