-- Whether an API key's patterns of kinds allow one: `email.send`, or `email.*`; NULL allows all.
CREATE OR REPLACE FUNCTION key_allows(p_kinds text[], p_kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT p_kinds IS NULL OR p_kind = ANY (p_kinds) OR EXISTS (
        SELECT 1 FROM unnest(p_kinds) AS pattern WHERE right(pattern, 2) = '.*' AND starts_with(p_kind, left(pattern, -1)));
$$;

-- Whether this database is writable: a standby is not, and still serves reads.
CREATE OR REPLACE FUNCTION is_writable() RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT current_setting('transaction_read_only') = 'off';
$$;

-- Record that a key is used, at most once a minute, and without waiting for concurrent writers of the same row.
CREATE OR REPLACE FUNCTION touch_key(p_id uuid, p_used_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF (p_used_at IS NULL OR p_used_at < clock_timestamp() - interval '1 min') AND is_writable() THEN
        UPDATE api_keys SET last_used_at = clock_timestamp()
        WHERE id = (SELECT id FROM api_keys WHERE id = p_id FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
END $$;

-- The owner and grants of an API key; called for every request, so that revoking takes effect with the next one.
--
-- A key with a rate takes one request from its bucket: `rate_left` are left, `rate_seconds` is how long until the bucket
-- is full, or for a refused one (rate_left < 0) until it may have another. No row: not known, revoked or expired.
CREATE OR REPLACE FUNCTION admit_key(p_key_hash bytea)
RETURNS TABLE (
    key_id text, tenant_id text, name text, max_priority integer, is_operator boolean, scopes text[], kinds text[],
    rate integer, rate_left double precision, rate_seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    k api_keys;
    v_level double precision;
    v_now timestamptz := clock_timestamp();
BEGIN
    SELECT * INTO k FROM api_keys a
    WHERE a.key_hash = p_key_hash AND a.revoked_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > v_now);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM touch_key(k.id, k.last_used_at);
    IF k.requests_per_minute IS NOT NULL AND is_writable() THEN
        -- UNLOGGED: a crash loses a minute's worth of requests
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO key_rates AS r (key_id, level, level_at) VALUES (k.id, k.requests_per_minute - 1, v_now)
        ON CONFLICT (key_id) DO UPDATE SET
            level = greatest(-1, least(k.requests_per_minute, r.level + (r.level < 0)::integer  -- a refused request has taken nothing
                + extract(epoch FROM greatest(v_now - r.level_at, '0 s')) * k.requests_per_minute / 60) - 1),
            level_at = v_now
        RETURNING level INTO v_level;
    END IF;
    RETURN QUERY SELECT
        k.id::text, k.tenant_id::text, k.name, k.max_priority::integer, k.is_operator, k.scopes, k.kinds,
        CASE WHEN v_level IS NOT NULL THEN k.requests_per_minute END, v_level,
        CASE WHEN v_level < 0 THEN -v_level * 60 / k.requests_per_minute
             ELSE (k.requests_per_minute - v_level) * 60 / k.requests_per_minute END::double precision;
END $$;

-- An entry of the audit log: written before a change, completed after it. An incomplete entry has an unknown outcome.
CREATE OR REPLACE FUNCTION begin_action(
    p_tenant uuid, p_key uuid, p_key_name text, p_action text, p_path text, p_address text
) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    INSERT INTO audit_log (tenant_id, key_id, key_name, action, path, address)
    VALUES (p_tenant, p_key, p_key_name, p_action, p_path, p_address) RETURNING id;
$$;

CREATE OR REPLACE FUNCTION end_action(p_id bigint, p_status integer, p_code text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE audit_log SET status = p_status, code = p_code WHERE id = p_id;
$$;
