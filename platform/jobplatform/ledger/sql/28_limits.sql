-- Limits on keys (docs/concepts/limits.md).

-- The keys of a job: "tenant" becomes its tenant's own key.
CREATE OR REPLACE FUNCTION keys_of(p_keys text[], p_tenant uuid) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN 'tenant' = ANY (p_keys) THEN array_replace(
            p_keys, 'tenant', (SELECT limit_key FROM tenants WHERE id = p_tenant))
        ELSE coalesce(p_keys, '{}') END;
$$;

-- The limit of each key. A definition names a key ("provider:openai"), or all keys with a prefix ("domain:*"); the former
-- takes precedence.
CREATE OR REPLACE FUNCTION limits_of(p_keys text[])
RETURNS TABLE (
    key text, ordinality integer, max_concurrent integer, rate_units double precision, rate_seconds double precision,
    burst_units double precision, sliding boolean
)
LANGUAGE sql STABLE AS $$
    SELECT k.key, k.ordinality::integer, l.max_concurrent, l.rate_units, l.rate_seconds, l.burst_units, l.sliding
    FROM unnest(p_keys) WITH ORDINALITY AS k (key, ordinality)
    LEFT JOIN LATERAL (
        SELECT * FROM limits WHERE name IN (k.key, split_part(k.key, ':', 1) || ':*') ORDER BY name = k.key DESC LIMIT 1
    ) AS l ON true;
$$;

-- How many units a key has left, and in how many seconds it has p_units (0: now; NULL: never, they are more than there
-- can be). A bucket fills steadily up to its burst. A sliding window is divided into 20 slices: units taken in a slice
-- count until the whole slice is older than the window. So there are never more than rate_units in any window, and
-- sometimes fewer by a slice. `slices` are the slices at p_now, the newest last.
CREATE OR REPLACE FUNCTION units_left(
    p_rate double precision, p_seconds double precision, p_burst double precision, p_sliding boolean,
    s limit_states, p_units double precision, p_now timestamptz,
    OUT units double precision, OUT seconds double precision, OUT slices double precision[]
)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_most double precision := greatest(1, coalesce(p_burst, p_rate));  -- "one in two minutes" is a rate, too
    v_width double precision := p_seconds / 20;
    v_now double precision := extract(epoch FROM p_now);
    v_moved integer;
    v_need double precision;
BEGIN
    IF p_sliding THEN
        v_moved := least(21, greatest(0, coalesce(floor(v_now / v_width) - floor(extract(epoch FROM s.slices_at) / v_width), 21)));
        slices := coalesce(s.slices, array_fill(0::double precision, ARRAY[21]));
        slices := slices[v_moved + 1:] || array_fill(0::double precision, ARRAY[v_moved]);
        units := p_rate - (SELECT sum(u) FROM unnest(slices) AS u);
        seconds := CASE WHEN p_units <= p_rate THEN 0 END;
        v_need := p_units - units;
        IF v_need > 0 AND p_units <= p_rate THEN
            FOR n IN 1 .. 21 LOOP
                v_need := v_need - slices[n];
                IF v_need <= 0 THEN  -- when this part has gone
                    seconds := (floor(v_now / v_width) + n) * v_width - v_now;
                    EXIT;
                END IF;
            END LOOP;
        END IF;
    ELSE
        units := least(v_most, coalesce(s.level, v_most)
            + greatest(0, coalesce(v_now - extract(epoch FROM s.level_at), 0)) * p_rate / p_seconds);
        seconds := CASE
            WHEN p_units > v_most THEN NULL
            WHEN units >= p_units THEN 0
            ELSE (p_units - units) * p_seconds / p_rate END;
    END IF;
END $$;

-- Units of a key that are reserved against this job: for a refused job with precedence, being of a
-- higher priority or older. A reservation ends with its time, and when its job no longer waits. p_job NULL: against any job.
CREATE OR REPLACE FUNCTION units_reserved(s limit_states, p_job uuid, p_priority integer) RETURNS double precision
LANGUAGE sql STABLE AS $$
    SELECT s.reserved_units FROM jobs j
    WHERE j.id = s.reserved_for AND s.reserved_until > clock_timestamp()
        AND j.state IN ('scheduled', 'available', 'dispatched', 'running')
        AND (p_job IS NULL OR (-j.priority, j.id) < (-p_priority, p_job));
$$;

-- Take units of all these keys (default 1) for a job, or of none. `seconds`: 0 if they were taken, else
-- how long to wait; NULL: never, as `key` can't have so many. Concurrent callers of a key wait for each
-- other's commit.
--
-- A job that is short of units reserves them; otherwise many small jobs would starve a large one. The job with precedence
-- (units_reserved) has the reservation; no job waits for one behind it, so there are no deadlocks.
CREATE OR REPLACE FUNCTION take_units(
    p_job uuid, p_priority integer, p_keys text[], p_units integer[], OUT seconds double precision, OUT key text
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    k record;
    s limit_states;
    v_states limit_states[] := '{}';  -- as they are when all is taken
    v_left record;
    v_now timestamptz;
    v_units double precision;
    v_lack double precision;  -- in addition to reserved units
BEGIN
    SELECT extract(epoch FROM max(paused_until) - clock_timestamp()) INTO seconds FROM limit_states s
    WHERE s.key = ANY (p_keys) AND paused_until > clock_timestamp();
    IF seconds > 0 THEN
        RETURN;
    END IF;
    seconds := 0;
    -- in the order of the keys, which all take
    FOR k IN SELECT * FROM limits_of(p_keys) l WHERE l.rate_units IS NOT NULL ORDER BY l.key LOOP
        LOOP
            SELECT * INTO s FROM limit_states t WHERE t.key = k.key FOR UPDATE;
            EXIT WHEN FOUND;
            INSERT INTO limit_states (key) VALUES (k.key) ON CONFLICT DO NOTHING;
        END LOOP;
        v_now := clock_timestamp();
        v_units := coalesce(p_units[k.ordinality], 1);
        v_left := units_left(k.rate_units, k.rate_seconds, k.burst_units, k.sliding, s, v_units, v_now);
        IF v_left.seconds IS NULL THEN
            seconds := NULL;
            key := k.key;
            RETURN;
        END IF;
        v_lack := v_units + units_reserved(s, p_job, p_priority) - v_left.units;  -- NULL: it goes first
        IF v_lack > 0 THEN
            v_left.seconds := greatest(v_left.seconds, v_lack * k.rate_seconds / k.rate_units);
        END IF;
        IF v_left.seconds > 0 AND v_lack IS NULL THEN
            -- for as long as it may take to come through its queue again; then it claims again
            UPDATE limit_states t SET
                reserved_for = p_job, reserved_units = v_units,
                reserved_until = v_now + make_interval(secs => least(366 * 86400, 15 + 1.5 * v_left.seconds))
            WHERE t.key = k.key;
        ELSIF s.reserved_for = p_job THEN
            s.reserved_for := NULL;
            s.reserved_units := NULL;
            s.reserved_until := NULL;
        END IF;
        seconds := greatest(seconds, v_left.seconds);
        IF k.sliding THEN
            v_left.slices[21] := v_left.slices[21] + v_units;
            s.slices := v_left.slices;
            s.slices_at := v_now;
        ELSE
            s.level := v_left.units - v_units;
            s.level_at := v_now;
        END IF;
        v_states := v_states || s;
    END LOOP;
    IF seconds = 0 THEN
        UPDATE limit_states t SET
            level = n.level, level_at = n.level_at, slices = n.slices, slices_at = n.slices_at,
            reserved_for = n.reserved_for, reserved_units = n.reserved_units, reserved_until = n.reserved_until
        FROM unnest(v_states) AS n WHERE t.key = n.key;
    END IF;
END $$;

-- Pause a limit key for a number of seconds; a longer earlier pause stays, unless p_set.
-- 0 seconds with p_set resume it. Returns until when.
CREATE OR REPLACE FUNCTION pause_key(p_key text, p_seconds double precision, p_reason text, p_set boolean DEFAULT false)
RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$
    INSERT INTO limit_states AS s (key, paused_until, paused_reason)
    VALUES (p_key, clock_timestamp() + make_interval(secs => least(greatest(p_seconds, 0), 366 * 86400)), p_reason)
    ON CONFLICT (key) DO UPDATE SET
        paused_reason = CASE WHEN p_set OR s.paused_until IS NULL OR s.paused_until < excluded.paused_until
                      THEN excluded.paused_reason ELSE s.paused_reason END,
        paused_until = CASE WHEN p_set THEN excluded.paused_until ELSE greatest(s.paused_until, excluded.paused_until) END
    RETURNING paused_until;
$$;

-- Pause a limit key on behalf of a run, for at most a day: a misread header must not stop a
-- provider for all tenants and for long. False: the lease is lost.
CREATE OR REPLACE FUNCTION pause_key_by_run(p_job uuid, p_lease uuid, p_key text, p_seconds double precision, p_reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_tenant uuid;
    v_keys text[];
BEGIN
    SELECT tenant_id INTO v_tenant FROM jobs WHERE id = p_job AND lease_id = p_lease;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    v_keys := keys_of(ARRAY[p_key], v_tenant);
    PERFORM pause_key(v_keys[1], least(coalesce(nullif(p_seconds, 'NaN'), 0), 86400), p_reason);
    RETURN true;
END $$;

-- Units for a call inside a run, fenced by its lease. `verdict`: taken · wait (`seconds`) · never · lost (the lease).
CREATE OR REPLACE FUNCTION acquire_units(
    p_job uuid, p_lease uuid, p_key text, p_units integer, OUT verdict text, OUT seconds double precision
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_tenant uuid;
    v_priority integer;
BEGIN
    SELECT tenant_id, priority INTO v_tenant, v_priority FROM jobs WHERE id = p_job AND lease_id = p_lease;
    IF NOT FOUND THEN
        verdict := 'lost';
        RETURN;
    END IF;
    SELECT t.seconds INTO acquire_units.seconds
    FROM take_units(p_job, v_priority, keys_of(ARRAY[p_key], v_tenant), ARRAY[p_units]) t;
    verdict := CASE WHEN seconds IS NULL THEN 'never' WHEN seconds > 0 THEN 'wait' ELSE 'taken' END;
END $$;

-- How many jobs of each key may be dispatched now, and in how many seconds to check again (NULL: when one of
-- its jobs ends). Locks the keys until the transaction ends; a key that another dispatcher has locked has no capacity now.
--
-- Slots are counted from the jobs in flight, of all queues, and from nothing else: whatever a crash, a
-- rescue or an operator does to a job returns its slot, exactly once. Units per period are taken at the claim
-- (take_units); here they only limit how many jobs are worth publishing.
CREATE OR REPLACE FUNCTION capacity_of_keys(p_keys text[], p_mark timestamptz)
RETURNS TABLE (ordinality integer, free integer, seconds double precision, oldest timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_mine text[];
    v_now timestamptz := clock_timestamp();
    v_oldest timestamptz;
    v_used jsonb;
BEGIN
    SELECT array_agg(substr(name, 7)) INTO v_mine
    FROM try_locks(ARRAY(SELECT 'limit/' || k FROM unnest(p_keys) AS k)) AS name;
    -- a separate statement: it sees what the previous owner of the locks has committed
    SELECT jsonb_object_agg(k, jsonb_build_array(jobs, used, units)), min(first) INTO v_used, v_oldest FROM (
        SELECT k, count(*) AS jobs, sum(coalesce(u, 1)) AS used,
               sum(coalesce(u, 1)) FILTER (WHERE state = 'dispatched') AS units, min(dispatched_at) AS first
        FROM jobs, unnest(limit_keys, limit_units) AS key (k, u)
        WHERE state IN ('dispatched', 'running') AND limit_keys <> '{}'
            AND dispatched_at >= coalesce(p_mark, '-infinity')
        GROUP BY k) AS used;
    RETURN QUERY
        SELECT known.ordinality,
               CASE WHEN NOT known.mine OR known.held > 0 THEN 0
                    ELSE greatest(0, least(
                        2147483647, coalesce(known.max_concurrent - known.jobs, 2147483647),
                        -- assuming that each needs as many units as those in flight
                        coalesce(floor((known.units - known.sent_units) / greatest(1, known.mean)), 2147483647)))::integer
                    END,
               CASE WHEN NOT known.mine THEN 0.01
                    WHEN known.held > 0 THEN known.held
                    WHEN known.units - known.sent_units < greatest(1, known.mean) 
                        THEN greatest(0.01, (greatest(1, known.mean) - known.units + known.sent_units) * known.unit_seconds)
                    END,
               v_oldest
        FROM (
            SELECT l.ordinality, l.max_concurrent, coalesce(l.key = ANY (v_mine), false) AS mine,
                   extract(epoch FROM s.paused_until - v_now)::double precision AS held,
                   -- units reserved for a job that may be published are for its message
                   u.units - coalesce((SELECT s.reserved_units FROM jobs r
                                       WHERE r.id = s.reserved_for AND r.state IN ('scheduled', 'running')
                                           AND s.reserved_until > v_now), 0) AS units,
                   coalesce((v_used -> l.key ->> 0)::integer, 0) AS jobs,
                   coalesce((v_used -> l.key ->> 2)::double precision, 0) AS sent_units,
                   coalesce((v_used -> l.key ->> 1)::double precision / (v_used -> l.key ->> 0)::integer, 1) AS mean,
                   l.rate_seconds / l.rate_units AS unit_seconds
            FROM limits_of(p_keys) AS l LEFT JOIN limit_states s ON s.key = l.key
            LEFT JOIN LATERAL units_left(
                l.rate_units, l.rate_seconds, l.burst_units, l.sliding, s, 1, v_now) AS u ON l.rate_units IS NOT NULL
        ) AS known;
END $$;
