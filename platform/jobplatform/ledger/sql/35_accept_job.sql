-- Accept a job in one round trip: API key, Idempotency-Key, job, event and counter (I1).
--
-- p_key_hash identifies the caller (SHA-256 of the API key); p_tenant does without a key.
-- A unique lock makes it the only job of its key, while it is live (p_unique_seconds NULL) or for a period.
-- verdicts: accepted (without ids) · unauthorized · repeated (job_id is the earlier one) · conflict (the key was used for another
--           request, job_id) · duplicate (job_id holds the unique lock) · past (run_at or start_by is over; `created_at` is the
--           ledger's time now) · priority (above the key's `max_priority`) · admit (the key has a rate, or may not do this: call
--           admit_key, then again with p_tenant) · quota (`quota_seconds`: when to retry; NULL when that is not known)
-- p_unchecked: its payload is not validated yet: the job is blocked until a dispatcher has validated it
-- (`release_validated_jobs`). p_key_id is the API key that it is submitted with then.
-- A second request with the same Idempotency-Key waits at the INSERT until the first has committed.
CREATE OR REPLACE FUNCTION accept_job(
    p_key_hash bytea, p_tenant uuid,
    p_idempotency_key text, p_request_hash bytea, p_idempotency_seconds integer, p_tolerance_seconds double precision,
    p_id uuid, p_queue text, p_kind text, p_priority integer, p_payload json, p_tags text[],
    p_max_attempts integer, p_crash_limit integer, p_lost_limit integer,
    p_run_at timestamptz, p_start_by timestamptz,
    p_unique_key text DEFAULT NULL, p_unique_seconds double precision DEFAULT NULL,
    p_unique_refuse boolean DEFAULT false, p_limit_keys text[] DEFAULT '{}', p_limit_units integer[] DEFAULT '{}',
    p_by text DEFAULT NULL, p_unchecked boolean DEFAULT false, p_key_id uuid DEFAULT NULL,
    OUT verdict text, OUT tenant_id uuid, OUT job_id uuid, OUT state text, OUT created_at timestamptz,
    OUT run_at timestamptz, OUT max_priority integer, OUT quota_seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_tenant uuid := p_tenant;
    v_job uuid;
    v_state text;
    v_hash bytea;
    v_now timestamptz := clock_timestamp();
    v_oldest timestamptz := v_now - make_interval(secs => p_tolerance_seconds);
    v_left bigint;
    v_key api_keys;
    v_by text := p_by;
BEGIN
    IF p_key_hash IS NOT NULL THEN
        SELECT * INTO v_key FROM api_keys k WHERE k.key_hash = p_key_hash AND k.revoked_at IS NULL
            AND (k.expires_at IS NULL OR k.expires_at > v_now);
        IF NOT FOUND THEN
            verdict := 'unauthorized';
            RETURN;
        END IF;
        IF p_priority > v_key.max_priority AND v_key.requests_per_minute IS NULL AND 'jobs:submit' = ANY (v_key.scopes) THEN
            verdict := 'priority';
            max_priority := v_key.max_priority;
            RETURN;
        END IF;
        -- cases that need `admit_key`; the caller then calls again with p_tenant
        IF v_key.requests_per_minute IS NOT NULL
            OR 'jobs:submit' <> ALL (v_key.scopes) OR NOT key_allows(v_key.kinds, p_kind)
        THEN
            verdict := 'admit';
            RETURN;
        END IF;
        PERFORM touch_key(v_key.id, v_key.last_used_at);
        v_tenant := v_key.tenant_id;
        v_by := v_key.name;
    END IF;
    tenant_id := v_tenant;
    LOOP
        IF p_idempotency_key IS NOT NULL THEN
            SELECT k.job_id, k.request_hash INTO v_job, v_hash FROM idempotency_keys k
            WHERE k.tenant_id = v_tenant AND k.key = p_idempotency_key AND k.expires_at >= clock_timestamp();
            IF FOUND THEN
                verdict := CASE WHEN v_hash = p_request_hash THEN 'repeated' ELSE 'conflict' END;
                job_id := v_job;
                RETURN;
            END IF;
        END IF;
        -- not checked for a repetition: its time was in the future when the job was accepted
        IF p_run_at < v_oldest OR p_start_by < v_oldest THEN
            verdict := 'past';
            created_at := v_now;
            RETURN;
        END IF;
        -- neither is the quota: an existing job is not refused
        v_left := quota_left(v_tenant, p_queue);
        IF v_left <= 0 THEN
            verdict := 'quota';
            -- its samples would make other callers wait for a foreign transaction
            quota_seconds := CASE WHEN NOT p_unchecked THEN quota_seconds(v_tenant, p_queue, 1 - v_left) END;
            RETURN;
        END IF;
        EXIT WHEN p_idempotency_key IS NULL;
        INSERT INTO idempotency_keys AS k (tenant_id, key, request_hash, job_id, expires_at)
        VALUES (v_tenant, p_idempotency_key, p_request_hash, p_id, v_now + make_interval(secs => p_idempotency_seconds))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET request_hash = excluded.request_hash, job_id = excluded.job_id, created_at = clock_timestamp(),
                expires_at = excluded.expires_at
            WHERE k.expires_at < clock_timestamp();
        EXIT WHEN FOUND;
    END LOOP;

    WHILE p_unique_key IS NOT NULL LOOP
        -- a second submission with the key waits here until the first has committed
        INSERT INTO unique_locks AS u (tenant_id, key, job_id, expires_at)
        VALUES (v_tenant, p_unique_key, p_id, v_now + make_interval(secs => p_unique_seconds))
        ON CONFLICT (tenant_id, key) DO UPDATE SET job_id = excluded.job_id, expires_at = excluded.expires_at
            WHERE u.expires_at < clock_timestamp();
        EXIT WHEN FOUND;
        SELECT u.job_id INTO v_job FROM unique_locks u WHERE u.tenant_id = v_tenant AND u.key = p_unique_key;
        IF FOUND THEN  -- else it was released meanwhile
            IF p_unique_refuse THEN  -- a refusal binds no key: a repetition is a new submission
                DELETE FROM idempotency_keys k
                WHERE k.tenant_id = v_tenant AND k.key = p_idempotency_key AND k.job_id = p_id;
            ELSE
                UPDATE idempotency_keys k SET job_id = v_job WHERE k.tenant_id = v_tenant AND k.key = p_idempotency_key;
            END IF;
            verdict := 'duplicate';
            job_id := v_job;
            RETURN;
        END IF;
    END LOOP;

    v_state := CASE WHEN p_unchecked THEN 'blocked' WHEN p_run_at > v_now THEN 'scheduled' ELSE 'available' END;
    -- it became available when it is written, not when this request began to wait for another
    v_now := clock_timestamp();
    INSERT INTO jobs (
        id, tenant_id, queue, kind, state, priority, payload, tags, max_attempts, crash_limit, lost_limit, created_at,
        state_at, run_at, start_by, limit_keys, limit_units)
    VALUES (
        p_id, v_tenant, p_queue, p_kind, v_state, p_priority, p_payload, p_tags, p_max_attempts, p_crash_limit,
        p_lost_limit, v_now, v_now, coalesce(p_run_at, v_now), p_start_by, keys_of(p_limit_keys, v_tenant),
        p_limit_units);
    INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
    VALUES (
        p_id, v_tenant, 'submitted', v_state, 0,
        CASE WHEN p_key_id IS NOT NULL THEN jsonb_build_object('by', v_by, 'key_id', p_key_id)
             WHEN v_by IS NOT NULL THEN jsonb_build_object('by', v_by) END);
    INSERT INTO queue_counters AS c (tenant_id, queue, slot, accepted)
    -- a foreign transaction may be long: it gets its own counter row, so that no other waits for it (`fold_counters`)
    VALUES (v_tenant, p_queue, CASE WHEN p_unchecked THEN -pg_backend_pid() ELSE pg_backend_pid() % 64 END, 1)
    ON CONFLICT (tenant_id, queue, slot) DO UPDATE SET accepted = c.accepted + 1;
    verdict := 'accepted';
    tenant_id := NULL;  -- ids that the caller already knows are not returned, to save decoding
    state := v_state;
    created_at := v_now;
    run_at := coalesce(p_run_at, v_now);
END $$;
