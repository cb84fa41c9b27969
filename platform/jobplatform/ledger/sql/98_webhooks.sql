-- Webhooks (docs/howto/webhooks.md). A message is one event for one endpoint; a job delivers it.

-- Write messages and the jobs that deliver them. An existing message gets another job under the same id.
--
-- p_messages: [{"tenant", "endpoint", "message", "event_id", "type", "about", "job_id", "body"}]
-- p_job: {"queue", "kind", "max_attempts", "crash_limit", "lost_limit"}. Returns how many.
CREATE OR REPLACE FUNCTION send_webhooks(p_messages jsonb, p_job jsonb) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_count integer;
    v_jobs json;
BEGIN
    WITH asked AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_messages) AS a (
            tenant uuid, endpoint uuid, message uuid, event_id bigint, type text, about uuid, job_id uuid, body jsonb)
    ), written AS (
        INSERT INTO webhook_messages AS m (id, endpoint_id, event_id, type, about, job_id)
        SELECT message, endpoint, event_id, type, about, job_id FROM asked ORDER BY endpoint, message
        ON CONFLICT (endpoint_id, id) DO UPDATE SET job_id = excluded.job_id, replays = m.replays + 1
    )
    SELECT count(*), json_agg(json_build_object(
        'id', job_id, 'tenant_id', tenant, 'queue', p_job -> 'queue', 'kind', p_job -> 'kind', 'state', 'available',
        'priority', 4, 'payload', json_build_object('endpoint', endpoint, 'message', message, 'body', body),
        'max_attempts', p_job -> 'max_attempts', 'crash_limit', p_job -> 'crash_limit',
        'lost_limit', p_job -> 'lost_limit',
        -- a test message is sent even if the endpoint is paused
        'limit_keys', CASE WHEN type = 'webhook.test' THEN '{}' ELSE ARRAY['webhook:' || endpoint] END,
        'data', jsonb_build_object('by', 'webhook ' || endpoint)))
    INTO v_count, v_jobs FROM asked;
    PERFORM insert_jobs(v_jobs);
    RETURN v_count;
END $$;

-- Advance endpoints in the feed and write the messages of the passed events: both or neither, so that an event
-- is delivered once, whichever process dies when. An endpoint whose cursor has moved meanwhile is skipped.
--
-- p_moved: [{"endpoint", "from_tx", "from_id", "tx", "id", "at"}]; p_messages: as send_webhooks, without the tenant.
-- During a replay (up to replay_tx, replay_event_id) delivered events are skipped, unless all are requested, and pending ones
-- in any case.
CREATE OR REPLACE FUNCTION enqueue_webhooks(p_moved jsonb, p_messages jsonb, p_job jsonb) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_messages jsonb;
BEGIN
    WITH mine AS MATERIALIZED (
        SELECT w.id, w.tenant_id, w.replay_everything, m.tx, m.id AS event_id, m.at
        FROM jsonb_to_recordset(p_moved) AS m (
            endpoint uuid, from_tx bigint, from_id bigint, tx bigint, id bigint, at timestamptz)
        JOIN webhook_endpoints w ON w.id = m.endpoint
        WHERE w.disabled_at IS NULL AND (w.cursor_tx, w.cursor_id) = (m.from_tx, m.from_id)
        FOR UPDATE OF w SKIP LOCKED
    ), moved AS (
        UPDATE webhook_endpoints w SET cursor_tx = mine.tx, cursor_id = mine.event_id, cursor_at = mine.at
        FROM mine WHERE w.id = mine.id
    )
    SELECT jsonb_agg(jsonb_build_object(
        'tenant', mine.tenant_id, 'endpoint', a.endpoint, 'message', coalesce(known.id, a.message), 'event_id', a.event_id,
        'type', a.type, 'about', a.about, 'job_id', a.job_id, 'body', a.body))
    INTO v_messages
    FROM jsonb_to_recordset(p_messages) AS a (
        endpoint uuid, message uuid, event_id bigint, type text, about uuid, job_id uuid, body jsonb)
    JOIN mine ON mine.id = a.endpoint
    LEFT JOIN webhook_messages known ON known.endpoint_id = a.endpoint AND known.event_id = a.event_id
    WHERE known.id IS NULL
        OR NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = known.job_id AND j.state <> 'dead') AND (mine.replay_everything OR NOT EXISTS (
            SELECT 1 FROM job_history h WHERE h.id = known.job_id AND h.state = 'succeeded' AND h.result ->> 'skipped' IS NULL
                AND h.finished_at >= known.created_at - interval '1 hour'));
    RETURN CASE WHEN v_messages IS NULL THEN 0 ELSE send_webhooks(v_messages, p_job) END;
END $$;

-- Record the response of an endpoint. One that fails for longer than p_patience seconds, or responds that it is
-- gone, is disabled; returns the reason if that happened now.
CREATE OR REPLACE FUNCTION record_webhook_response(p_endpoint uuid, p_error text, p_gone boolean, p_patience double precision)
RETURNS TABLE (reason text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    IF p_error IS NULL THEN  -- at most once a minute, and without waiting for a concurrent update
        UPDATE webhook_endpoints SET delivered_at = v_now, failing_since = NULL WHERE id = (
            SELECT w.id FROM webhook_endpoints w WHERE w.id = p_endpoint
                AND (w.failing_since IS NOT NULL OR w.delivered_at IS NULL OR w.delivered_at < v_now - interval '1 min')
            FOR NO KEY UPDATE SKIP LOCKED);
        RETURN;
    END IF;
    UPDATE webhook_endpoints SET failing_since = coalesce(failing_since, v_now), last_error = left(p_error, 500)
    WHERE id = (
        SELECT w.id FROM webhook_endpoints w WHERE w.id = p_endpoint
            AND (w.failing_since IS NULL OR w.last_error IS DISTINCT FROM left(p_error, 500))
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN QUERY
        UPDATE webhook_endpoints w SET disabled_at = v_now,
            disabled_reason = CASE WHEN p_gone THEN 'it answered 410: gone'
                ELSE 'nothing was delivered since ' || to_char(w.failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') END
        WHERE w.id = p_endpoint AND w.disabled_at IS NULL
            AND (p_gone OR w.failing_since < v_now - make_interval(secs => p_patience))
        RETURNING w.disabled_reason;
END $$;
