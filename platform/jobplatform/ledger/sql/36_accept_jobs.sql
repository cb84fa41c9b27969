-- Accept many jobs at once: one round trip, one commit and one statement for all of them (I1 holds: no request is answered
-- before the commit). p_submissions is a JSON array of objects; `key` is the hex of the API key's SHA-256.
--
-- Returns the accepted submissions. A submission that is missing was not written: its key is invalid, has a rate, or may not
-- submit this; its time has passed; or the batch exceeds its tenant's quota. `accept_job` then returns the reason.
-- Submissions with an Idempotency-Key are not for this function, as they may have to wait.
CREATE OR REPLACE FUNCTION accept_jobs(p_submissions json, p_tolerance_seconds double precision)
RETURNS TABLE (id text, state text, created_at timestamptz, run_at timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_oldest timestamptz := v_now - make_interval(secs => p_tolerance_seconds);
BEGIN
    RETURN QUERY
        WITH asked AS MATERIALIZED (
            SELECT k.tenant_id, k.name AS by, k.id AS key_id, k.last_used_at AS used_at, o.* FROM json_to_recordset(p_submissions) AS o (
                key text, id uuid, queue text, kind text, priority integer, payload json, tags text[],
                max_attempts integer, crash_limit integer, lost_limit integer, run_at timestamptz, start_by timestamptz,
                limit_keys text[], limit_units integer[])
            JOIN api_keys k ON k.key_hash = decode(o.key, 'hex') AND k.revoked_at IS NULL
                AND (k.expires_at IS NULL OR k.expires_at > v_now) AND o.priority <= k.max_priority
                AND k.requests_per_minute IS NULL AND 'jobs:submit' = ANY (k.scopes) AND key_allows(k.kinds, o.kind)
        ), crowded AS (
            SELECT tenant_id, queue FROM (
                SELECT tenant_id, queue, count(*) AS jobs, sum(count(*)) OVER (PARTITION BY tenant_id) AS of_tenant
                FROM asked GROUP BY 1, 2) AS each
            WHERE quota_left(tenant_id, queue) < jobs OR of_tenant > jobs AND live_left(tenant_id) < of_tenant
        ), job AS (
            INSERT INTO jobs (
                id, tenant_id, queue, kind, state, priority, payload, tags, max_attempts, crash_limit, lost_limit,
                created_at, state_at, run_at, start_by, limit_keys, limit_units)
            SELECT o.id, o.tenant_id, o.queue, o.kind, CASE WHEN o.run_at > v_now THEN 'scheduled' ELSE 'available' END,
                   o.priority, o.payload, o.tags, o.max_attempts, o.crash_limit, o.lost_limit,
                   v_now, v_now, coalesce(o.run_at, v_now), o.start_by, keys_of(o.limit_keys, o.tenant_id),
                   coalesce(o.limit_units, '{}')
            FROM asked AS o
            WHERE NOT EXISTS (SELECT 1 FROM crowded c WHERE c.tenant_id = o.tenant_id AND c.queue = o.queue)
                AND coalesce(o.run_at, v_now) >= v_oldest AND coalesce(o.start_by, v_now) >= v_oldest
            RETURNING id, tenant_id, queue, state, created_at, run_at
        ), noted AS (
            INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
            SELECT job.id, job.tenant_id, 'submitted', job.state, 0, jsonb_build_object('by', asked.by)
            FROM job JOIN asked ON asked.id = job.id
        ), touched AS (  -- as touch_key
            UPDATE api_keys SET last_used_at = v_now WHERE id IN (
                SELECT k.id FROM api_keys k WHERE k.id IN (
                    SELECT key_id FROM asked WHERE used_at IS NULL OR used_at < v_now - interval '1 min')
                FOR NO KEY UPDATE SKIP LOCKED)
        ), counted AS (
            INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted)
            -- in the same order for all callers: two that share a slot must not deadlock
            SELECT tenant_id, queue, pg_backend_pid() % 64, count(*) FROM job GROUP BY tenant_id, queue
            ORDER BY tenant_id, queue
            ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET accepted = c.accepted + excluded.accepted
        )
        SELECT job.id::text, job.state, job.created_at, job.run_at FROM job;
END $$;
