-- Submit a job in the caller's own transaction: it is accepted if and only if that commits (docs/howto/own-transaction.md).
--
-- Runs with the privileges of the ledger's owner, so that callers need the privilege to call it and none on tables. What
-- it can't check, as only Python can, is the payload's schema and its limit keys: the job is
-- blocked until a dispatcher has validated it (`release_validated_jobs`).
--
-- It locks its keys (p_idempotency_key, p_unique_key) and nothing else, so that no other caller waits for it.
-- p_key_hash is the SHA-256 of the API key in hex: the key itself would appear in logs and in pg_stat_activity.
-- `code` is that of the API's problem, with `detail`; NULL on success; `created`: whether this call created the job.
CREATE OR REPLACE FUNCTION submit_job(
    p_key_hash text, p_kind text, p_payload json, p_priority integer DEFAULT 4, p_run_at timestamptz DEFAULT NULL,
    p_start_by timestamptz DEFAULT NULL, p_max_attempts integer DEFAULT NULL, p_tags text[] DEFAULT '{}',
    p_idempotency_key text DEFAULT NULL, p_unique_key text DEFAULT NULL,
    p_unique_seconds double precision DEFAULT NULL, p_unique_refuse boolean DEFAULT false,
    OUT job_id uuid, OUT created boolean, OUT code text, OUT detail text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE
    k api_keys;
    i installation;
    v_kind kinds;
    v_id uuid := gen_step_id();
    v_hash bytea;
    a record;
BEGIN
    SELECT * INTO i FROM installation;
    SELECT * INTO k FROM api_keys
    WHERE key_hash = CASE WHEN p_key_hash ~ '^[0-9a-f]{64}$' THEN decode(p_key_hash, 'hex') END AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > clock_timestamp());
    IF NOT FOUND THEN
        code := 'unauthorized';
        detail := 'this API key is not known, has expired, or was revoked';
    ELSIF 'jobs:submit' <> ALL (k.scopes) THEN
        code := 'not_allowed';
        detail := format('expected a key with the scope jobs:submit; this key has %s', array_to_string(k.scopes, ', '));
    ELSIF k.requests_per_minute IS NOT NULL THEN
        code := 'not_allowed';
        detail := 'a key with a rate limit cannot submit within a transaction, as its other requests would wait for the commit: use one without';
    ELSIF NOT key_allows(k.kinds, p_kind) THEN
        code := 'kind_not_allowed';
        detail := format('expected one of the kinds that this API key may submit (%s); got %s',
            array_to_string(k.kinds, ', '), p_kind);
    ELSIF p_priority > k.max_priority THEN
        code := 'priority_too_high';
        detail := format('expected a priority of at most %s, which this API key may ask for; got %s',
            k.max_priority, p_priority);
    ELSIF p_priority IS NULL OR p_payload IS NULL OR p_tags IS NULL OR p_unique_refuse IS NULL
        OR p_priority NOT BETWEEN 0 AND 9 OR p_max_attempts NOT BETWEEN 1 AND 100 OR cardinality(p_tags) > 20
        OR json_typeof(p_payload) <> 'object' OR octet_length(p_payload::text) > i.max_body_bytes OR p_start_by <= p_run_at
        OR EXISTS (SELECT 1 FROM unnest(p_tags) AS tag WHERE length(tag) NOT BETWEEN 1 AND 100 OR tag IS NULL)
        OR length(p_idempotency_key) NOT BETWEEN 1 AND 255 OR length(p_unique_key) NOT BETWEEN 1 AND 255
        OR p_unique_seconds <= 0 OR p_unique_seconds > 366 * 86400 OR array_ndims(p_tags) > 1
        -- as in the API: a time that clients can't read would break whole lists
        OR p_run_at NOT BETWEEN '1901-01-01' AND '2998-12-31' OR p_start_by NOT BETWEEN '1901-01-01' AND '2998-12-31'
    THEN
        code := 'invalid_request';
        detail := format('expected a payload that is an object of at most %s bytes, ', i.max_body_bytes) ||
            'a priority from 0 to 9, max_attempts from 1 to 100, a list of at most 20 tags of 1 to 100 characters, keys '
            'of 1 to 255, unique.seconds above 0 and of at most a year, times between the years 1901 and 2998, and start_by after run_at';
    ELSE
        SELECT * INTO v_kind FROM kinds WHERE name = p_kind;
        IF NOT FOUND THEN
            code := 'unknown_kind';
            detail := format('unknown kind %L: known kinds: %s', p_kind,
                coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM kinds), 'none; does a dispatcher run?'));
        END IF;
    END IF;
    IF code IS NOT NULL THEN
        RETURN;
    END IF;
    -- differs from the API's hash: a key used there is a conflict here
    v_hash := sha256(convert_to(jsonb_build_array(
        'transaction', p_kind, p_payload, p_priority, extract(epoch FROM p_run_at), extract(epoch FROM p_start_by),
        p_max_attempts, p_tags, p_unique_key, p_unique_seconds, p_unique_refuse)::text, 'UTF8'));
    SELECT * INTO a FROM accept_job(
        NULL, k.tenant_id, p_idempotency_key, v_hash, i.idempotency_seconds, 5, v_id, v_kind.queue, p_kind, p_priority, p_payload,
        p_tags, coalesce(p_max_attempts, v_kind.max_attempts), v_kind.crash_limit, v_kind.lost_limit, p_run_at,
        p_start_by, p_unique_key, p_unique_seconds, p_unique_refuse, '{}', '{}', k.name, true, k.id);
    created := a.verdict = 'accepted';
    job_id := CASE a.verdict WHEN 'accepted' THEN v_id WHEN 'repeated' THEN a.job_id WHEN 'duplicate' THEN a.job_id END;
    IF a.verdict = 'conflict' THEN
        code := 'idempotency_key_reused';
        detail := format('the Idempotency-Key %L was used for another request, job %s', p_idempotency_key, a.job_id);
    ELSIF a.verdict = 'duplicate' AND p_unique_refuse THEN
        code := 'duplicate_job';
        detail := format('job %s holds the unique key %L', a.job_id, p_unique_key);
    ELSIF a.verdict = 'past' THEN
        code := 'invalid_request';
        detail := format('expected run_at and start_by in the future (it is %s)', a.created_at);
    ELSIF a.verdict = 'quota' THEN
        code := 'quota_exceeded';
        detail := format('as many jobs of this tenant wait in queue %s, or live in all queues, as its quotas allow', v_kind.queue);
    ELSIF job_id IS NULL THEN
        code := 'internal_error';
        detail := a.verdict;
    END IF;
END $$;

DO $$
BEGIN
    PERFORM harden_definer('submit_job');
    BEGIN  -- functions created there could be run by its owner; the doctor checks for it
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;
    END;
    IF ensure_group_role('jobplatform_submit', 'docs/howto/own-transaction.md') THEN
        PERFORM grant_execute('submit_job', 'jobplatform_submit');
    END IF;
END $$;

-- Jobs that were submitted in other transactions and are not validated yet, of kinds that the caller
-- knows. They are not locked: `release_validated_jobs` checks again.
CREATE OR REPLACE FUNCTION unvalidated_jobs(p_kinds text[], p_limit integer)
RETURNS TABLE (job_id text, kind text, payload text, key_id text)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        WITH mine AS MATERIALIZED (
            SELECT j.id, j.kind, j.payload FROM jobs j
            WHERE j.state = 'blocked' AND j.workflow_id IS NULL AND j.kind = ANY (p_kinds)
            ORDER BY j.id LIMIT p_limit)
        SELECT mine.id::text, mine.kind, mine.payload::text,
               (SELECT e.data ->> 'key_id' FROM job_events e WHERE e.job_id = mine.id AND e.event = 'submitted' LIMIT 1)
        FROM mine;
END $$;

-- Release validated jobs, and dead-letter invalid ones.
-- p_checked: [{"id", "limit_keys", "limit_units", "error"}]; p_keys: the API keys that have submitted them.
-- Returns "queue priority,…" that got jobs.
CREATE OR REPLACE FUNCTION release_validated_jobs(p_checked jsonb, p_keys uuid[]) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_woken text;
BEGIN
    PERFORM touch_key(k.id, k.last_used_at) FROM api_keys k WHERE k.id = ANY (p_keys);
    WITH checked AS (
        SELECT c.* FROM jsonb_to_recordset(p_checked) AS c (id uuid, limit_keys text[], limit_units integer[], error jsonb)
        JOIN jobs j ON j.id = c.id AND j.state = 'blocked' ORDER BY c.id FOR UPDATE OF j
    ), made AS (
        UPDATE jobs j SET
            state = CASE WHEN c.error IS NOT NULL THEN 'dead' WHEN j.run_at > v_now THEN 'scheduled' ELSE 'available' END,
            state_at = v_now, error = c.error, limit_keys = keys_of(coalesce(c.limit_keys, '{}'), j.tenant_id),
            limit_units = coalesce(c.limit_units, '{}')
        FROM checked c WHERE j.id = c.id AND j.state = 'blocked'
        RETURNING j.id, j.tenant_id, j.queue, j.priority, j.state, j.run_no, j.error
    ), noted AS (
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        SELECT id, tenant_id, CASE WHEN state = 'dead' THEN 'refused' ELSE 'unblocked' END, state, run_no,
               CASE WHEN state = 'dead' THEN jsonb_build_object('error', error) END
        FROM made
    )
    SELECT string_agg(DISTINCT queue || ' ' || priority, ',') FILTER (WHERE state = 'available') INTO v_woken FROM made;
    RETURN v_woken;
END $$;

-- Fold the counter rows of other transactions into the shared ones.
CREATE OR REPLACE FUNCTION fold_counters() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count integer;
BEGIN
    WITH gone AS (
        DELETE FROM queue_counters WHERE (tenant_id, queue, slot) IN (
            SELECT tenant_id, queue, slot FROM queue_counters WHERE slot < 0 LIMIT 1000 FOR UPDATE SKIP LOCKED)
        RETURNING *
    ), added AS (
        INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted, finished, deadlines_met, deadlines_missed)
        SELECT tenant_id, queue, pg_backend_pid() % 64, sum(accepted), sum(finished), sum(deadlines_met), sum(deadlines_missed)
        FROM gone GROUP BY tenant_id, queue ORDER BY tenant_id, queue
        ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET
            accepted = c.accepted + excluded.accepted, finished = c.finished + excluded.finished,
            deadlines_met = c.deadlines_met + excluded.deadlines_met,
            deadlines_missed = c.deadlines_missed + excluded.deadlines_missed
    )
    SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END $$;
