-- Accept up to some thousands of jobs of one tenant in one transaction: all of them or none (p_all), or each that can be. One Idempotency-Key
-- for all of them; the response is stored with it, and a repeated request gets the same response.
--
-- p_submissions: an array of objects as in accept_jobs, with position (0, 1, …), unique_key, unique_seconds, unique_refuse.
-- verdicts: accepted · repeated · conflict (the key was used for another request) · refused (nothing was written)
-- answer: an array with an element per submission, [position, verdict, job id, state, quota seconds]. verdicts: accepted · existing (another job, job id, holds its
--         unique key, and that will do) · duplicate (… and that will not) · past (run_at or start_by is over) · quota (seconds as in accept_job)
CREATE OR REPLACE FUNCTION accept_batch(
    p_tenant uuid, p_by text, p_idempotency_key text, p_request_hash bytea, p_idempotency_seconds integer, p_id uuid,
    p_submissions json, p_tolerance_seconds double precision, p_all boolean, OUT verdict text, OUT batch_id uuid, OUT answer text
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_oldest timestamptz := clock_timestamp() - make_interval(secs => p_tolerance_seconds);
    v_hash bytea;
    v_answer jsonb;
    v_held jsonb;  -- position → the job that holds its unique key
    v_waiting text[] := '{}';
    v_holding text[] := '{}';
    v_positions integer[];
    v_refused uuid[];
    submission record;
    v_job uuid;
BEGIN
    WHILE p_idempotency_key IS NOT NULL LOOP
        -- a second request with the key waits here until the first has committed
        INSERT INTO idempotency_keys AS k (tenant_id, key, request_hash, job_id, expires_at)
        VALUES (p_tenant, p_idempotency_key, p_request_hash, p_id,
                clock_timestamp() + make_interval(secs => p_idempotency_seconds))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET request_hash = excluded.request_hash, job_id = excluded.job_id, created_at = clock_timestamp(),
                expires_at = excluded.expires_at, answer = NULL
            WHERE k.expires_at < clock_timestamp();
        EXIT WHEN FOUND;
        SELECT k.request_hash, k.answer, k.job_id INTO v_hash, v_answer, batch_id FROM idempotency_keys k
        WHERE k.tenant_id = p_tenant AND k.key = p_idempotency_key AND k.expires_at >= clock_timestamp();
        IF FOUND THEN
            verdict := CASE WHEN v_hash = p_request_hash AND v_answer IS NOT NULL THEN 'repeated' ELSE 'conflict' END;
            answer := v_answer::text;
            RETURN;
        END IF;
    END LOOP;

    FOR submission IN
        SELECT o.* FROM json_to_recordset(p_submissions) AS o (
            id uuid, unique_key text, unique_seconds double precision, run_at timestamptz, start_by timestamptz)
        WHERE unique_key IS NOT NULL AND coalesce(run_at, v_oldest) >= v_oldest AND coalesce(start_by, v_oldest) >= v_oldest
        ORDER BY unique_key, id  -- in the same order for all callers that take several
    LOOP
        LOOP
            -- a second submission with the key waits here until the first has committed
            INSERT INTO unique_locks AS u (tenant_id, key, job_id, expires_at)
            VALUES (p_tenant, submission.unique_key, submission.id, clock_timestamp() + make_interval(secs => submission.unique_seconds))
            ON CONFLICT (tenant_id, key) DO UPDATE SET job_id = excluded.job_id, expires_at = excluded.expires_at
                WHERE u.expires_at < clock_timestamp();
            EXIT WHEN FOUND;
            SELECT u.job_id INTO v_job FROM unique_locks u WHERE u.tenant_id = p_tenant AND u.key = submission.unique_key;
            IF FOUND THEN
                v_waiting := v_waiting || submission.id::text;
                v_holding := v_holding || v_job::text;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
    v_held := jsonb_object(v_waiting, v_holding);

    -- they become available when they are written, not when this request began to wait for another
    v_now := clock_timestamp();
    WITH asked AS MATERIALIZED (
        SELECT o.*,
               CASE WHEN coalesce(o.run_at, v_oldest) < v_oldest OR coalesce(o.start_by, v_oldest) < v_oldest THEN 'past'
                    WHEN v_held ? o.id::text THEN CASE WHEN o.unique_refuse THEN 'duplicate' ELSE 'existing' END
                    END AS fault
        FROM json_to_recordset(p_submissions) AS o (
            position integer, id uuid, queue text, run_at timestamptz, start_by timestamptz, unique_refuse boolean)
    ), room AS MATERIALIZED (
        SELECT queue, waiting_left(p_tenant, queue) AS jobs FROM (SELECT DISTINCT queue FROM asked) AS named
    ), ranked AS (
        SELECT asked.*, room.jobs AS room,
               count(*) FILTER (WHERE fault IS NULL) OVER (PARTITION BY asked.queue ORDER BY position) AS rank,
               alive.room AS room_of_all
        FROM asked JOIN room ON room.queue = asked.queue CROSS JOIN (SELECT live_left(p_tenant) AS room) AS alive
    ), counted AS (  -- a submission above the quota of its queue takes nothing of the quota of all queues
        SELECT *, count(*) FILTER (WHERE fault IS NULL AND rank <= coalesce(room, rank)) OVER (ORDER BY position) AS rank_of_all
        FROM ranked
    ), first AS MATERIALIZED (
        SELECT position, id, queue, run_at,
               coalesce(fault, CASE WHEN rank > room OR rank_of_all > room_of_all THEN 'quota' ELSE 'accepted' END) AS verdict
        FROM counted
    ), judged AS MATERIALIZED (
        SELECT f.position, f.id, f.queue, f.run_at,
               -- the submission of the batch with the same unique key is above the quota
               CASE WHEN f.verdict IN ('existing', 'duplicate') AND EXISTS (
                   SELECT 1 FROM first o WHERE o.id::text = v_held ->> f.id::text AND o.verdict = 'quota')
               THEN 'quota' ELSE f.verdict END AS verdict
        FROM first f
    ), crowded AS MATERIALIZED (
        SELECT queue, quota_seconds(p_tenant, queue, count(*)) AS seconds FROM judged WHERE verdict = 'quota' GROUP BY queue
    )
    SELECT jsonb_agg(jsonb_build_array(
               j.position, j.verdict, coalesce(v_held ->> j.id::text, j.id::text),
               CASE WHEN j.verdict = 'accepted' THEN CASE WHEN j.run_at > v_now THEN 'scheduled' ELSE 'available' END END,
               c.seconds
           ) ORDER BY j.position),
           array_agg(j.position) FILTER (WHERE j.verdict = 'accepted'),
           array_agg(j.id) FILTER (WHERE j.verdict NOT IN ('accepted', 'existing'))
    INTO v_answer, v_positions, v_refused
    FROM judged j LEFT JOIN crowded c ON c.queue = j.queue AND j.verdict = 'quota';
    answer := v_answer::text;

    IF p_all AND v_refused IS NOT NULL THEN  -- a refusal binds no keys: a repetition is a new submission
        DELETE FROM idempotency_keys k WHERE k.tenant_id = p_tenant AND k.key = p_idempotency_key AND k.job_id = p_id;
        DELETE FROM unique_locks WHERE job_id IN (
            SELECT o.id FROM json_to_recordset(p_submissions) AS o (id uuid, unique_key text) WHERE unique_key IS NOT NULL);
        verdict := 'refused';
        RETURN;
    END IF;
    DELETE FROM unique_locks WHERE job_id = ANY (v_refused);

    WITH chosen AS MATERIALIZED (
        SELECT o.*, CASE WHEN o.run_at > v_now THEN 'scheduled' ELSE 'available' END AS state
        FROM json_to_recordset(p_submissions) AS o (
            position integer, id uuid, queue text, kind text, priority integer, payload json, tags text[], max_attempts integer,
            crash_limit integer, lost_limit integer, run_at timestamptz, start_by timestamptz, limit_keys text[],
            limit_units integer[])
        WHERE v_refused IS NULL OR o.position = ANY (v_positions)
    ), job AS (
        INSERT INTO jobs (
            id, tenant_id, queue, kind, state, priority, payload, tags, max_attempts, crash_limit, lost_limit,
            created_at, state_at, run_at, start_by, limit_keys, limit_units)
        SELECT o.id, p_tenant, o.queue, o.kind, o.state, o.priority, o.payload, o.tags, o.max_attempts, o.crash_limit,
               o.lost_limit, v_now, v_now, coalesce(o.run_at, v_now), o.start_by, keys_of(o.limit_keys, p_tenant),
               coalesce(o.limit_units, '{}')
        FROM chosen o WHERE NOT v_held ? o.id::text
        RETURNING id, queue, state
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, p_tenant, 'submitted', state, 0, jsonb_build_object('by', p_by, 'batch', p_id) FROM job
    )
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted)
    SELECT p_tenant, queue, pg_backend_pid() % 64, count(*) FROM job GROUP BY queue ORDER BY queue
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET accepted = c.accepted + excluded.accepted;
    UPDATE idempotency_keys k SET answer = coalesce(v_answer, '[]')
    WHERE k.tenant_id = p_tenant AND k.key = p_idempotency_key AND k.job_id = p_id;
    verdict := 'accepted';
    batch_id := p_id;
END $$;
