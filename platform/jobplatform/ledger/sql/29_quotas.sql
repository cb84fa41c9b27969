-- Quotas of waiting jobs, per tenant and queue, and of live jobs, per tenant: the queue '+' (docs/concepts/limits.md). Jobs that the platform creates (steps that a run
-- adds, fires of schedules, replays) are never refused.

-- How many more live jobs a tenant may have, over all queues; NULL: no quota.
CREATE OR REPLACE FUNCTION live_left(p_tenant uuid) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_most integer;
BEGIN
    SELECT q.max_waiting INTO v_most FROM quotas q
    WHERE q.queue = '+' AND (q.tenant = '*' OR q.tenant = (SELECT name FROM tenants WHERE id = p_tenant))
    ORDER BY q.tenant = '*' LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN v_most - (SELECT coalesce(sum(accepted - finished), 0) FROM queue_counters WHERE tenant_id = p_tenant);
END $$;

-- How many more jobs of a tenant may wait in a queue; NULL: no quota. Live jobs are known by the counters, and
-- those that do not wait are few: in flight (bounded by the windows), dead or held.
CREATE OR REPLACE FUNCTION waiting_left(p_tenant uuid, p_queue text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_most integer;
    v_live bigint;
BEGIN
    SELECT q.max_waiting INTO v_most FROM quotas q
    WHERE q.queue IN (p_queue, '*') AND (q.tenant = '*' OR q.tenant = (SELECT name FROM tenants WHERE id = p_tenant))
    ORDER BY q.tenant = '*', q.queue = '*' LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(sum(accepted - finished), 0) INTO v_live FROM queue_counters
    WHERE tenant_id = p_tenant AND queue = p_queue;
    IF v_live < v_most THEN  -- regardless of their state
        RETURN v_most - v_live;
    END IF;
    RETURN v_most - v_live
        + (SELECT count(*) FROM jobs WHERE queue = p_queue AND tenant_id = p_tenant
           AND state IN ('dispatched', 'running'))
        + (SELECT count(*) FROM jobs WHERE tenant_id = p_tenant AND queue = p_queue AND state IN ('dead', 'held'));
END $$;

-- How many more jobs of a tenant a queue accepts, by both quotas; NULL: no quota.
CREATE OR REPLACE FUNCTION quota_left(p_tenant uuid, p_queue text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN least(waiting_left(p_tenant, p_queue), live_left(p_tenant));
END $$;

-- Retry-After for p_over jobs above the quota, in seconds, by the rate at which the
-- tenant's jobs have ended in this queue since the previous refusals; NULL if unknown.
CREATE OR REPLACE FUNCTION quota_seconds(p_tenant uuid, p_queue text, p_over bigint) RETURNS double precision
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_finished bigint;
    v_since double precision;
    s quota_samples;
BEGIN
    SELECT coalesce(sum(finished), 0) INTO v_finished FROM queue_counters
    WHERE tenant_id = p_tenant AND queue = p_queue;
    -- two samples, the older one at least a quarter of a minute before the newer: refusals may come close together
    INSERT INTO quota_samples AS q (tenant_id, queue, old_at, old_finished, at, finished)
    VALUES (p_tenant, p_queue, v_now, v_finished, v_now, v_finished)
    ON CONFLICT (tenant_id, queue) DO UPDATE SET
        old_at = q.at, old_finished = q.finished, at = v_now, finished = v_finished
        WHERE q.at < v_now - interval '15 s';
    SELECT * INTO s FROM quota_samples WHERE tenant_id = p_tenant AND queue = p_queue;
    v_since := extract(epoch FROM v_now - s.old_at);
    IF v_since < 1 OR v_since > 600 OR v_finished <= s.old_finished THEN
        RETURN NULL;
    END IF;
    RETURN p_over * v_since / (v_finished - s.old_finished);
END $$;
