CREATE OR REPLACE VIEW reporting.jobs AS
SELECT j.id, t.name AS tenant, j.queue, j.kind, j.state, j.priority, j.tags, j.attempt, j.max_attempts, j.run_no AS runs,
       j.crash_count AS crashes, j.lost_count AS losses, j.created_at, j.run_at, j.start_by, j.started_at,
       CAST(NULL AS timestamptz) AS finished_at, j.error ->> 'code' AS error_code, j.error ->> 'message' AS error_message
FROM public.jobs j JOIN public.tenants t ON t.id = j.tenant_id
UNION ALL
SELECT h.id, t.name, h.queue, h.kind, h.state, h.priority, h.tags, h.attempt, h.max_attempts, h.run_no, h.crash_count,
       h.lost_count, h.created_at, h.run_at, h.start_by, h.started_at, h.finished_at, h.error ->> 'code',
       h.error ->> 'message'
FROM public.job_history h JOIN public.tenants t ON t.id = h.tenant_id;
COMMENT ON VIEW reporting.jobs IS
    'Every job, live (finished_at is NULL) and finished. Bound finished_at or created_at: history is partitioned by week';

CREATE OR REPLACE VIEW reporting.runs AS
SELECT r.job_id, r.run_no, t.name AS tenant, r.queue, r.kind, r.attempt, r.outcome, r.dispatched_at, r.started_at,
       r.finished_at, extract(epoch FROM r.finished_at - r.started_at)::double precision AS seconds,
       (r.usage ->> 'peak_memory_bytes')::bigint AS peak_memory_bytes, r.error ->> 'code' AS error_code,
       r.error ->> 'message' AS error_message, r.worker_id, w.node AS worker
FROM public.job_runs r
JOIN public.tenants t ON t.id = r.tenant_id
LEFT JOIN public.workers w ON w.id = r.worker_id;
COMMENT ON VIEW reporting.runs IS 'Every run that has ended: one execution of a job. Bound finished_at';

CREATE OR REPLACE VIEW reporting.waits AS
SELECT r.job_id, t.name AS tenant, r.queue, r.kind, h.priority, h.created_at, r.dispatched_at, r.started_at,
       extract(epoch FROM r.dispatched_at - greatest(h.created_at, h.run_at))::double precision AS ledger_seconds,
       extract(epoch FROM r.started_at - r.dispatched_at)::double precision AS broker_seconds,
       extract(epoch FROM r.started_at - greatest(h.created_at, h.run_at))::double precision AS wait_seconds,
       r.finished_at
FROM public.job_runs r
JOIN public.job_history h ON h.id = r.job_id AND h.finished_at >= r.finished_at
JOIN public.tenants t ON t.id = r.tenant_id
WHERE r.run_no = 1 AND h.run_no = 1;
COMMENT ON VIEW reporting.waits IS
    'How long finished jobs with one run waited: in the ledger for a place in the window, then in RabbitMQ for a worker';

CREATE OR REPLACE VIEW reporting.dead_letters AS
SELECT j.id, t.name AS tenant, j.queue, j.kind, j.state_at AS died_at, j.attempt AS attempts, j.crash_count AS crashes,
       j.error ->> 'code' AS error_code, j.error ->> 'message' AS error_message, j.payload, j.tags
FROM public.jobs j JOIN public.tenants t ON t.id = j.tenant_id WHERE j.state IN ('dead', 'held');
COMMENT ON VIEW reporting.dead_letters IS 'Jobs that need an operator, with the reason';

-- The hours and days of the views below, from the oldest partition that retention has left, in the session's time zone.
-- Each is read separately through the BRIN index on finished_at, so that a bound on `hour` or `day` reads only the named
-- hours or days: a date_trunc() of the column would be a filter after a scan of all partitions.
CREATE OR REPLACE VIEW reporting.periods AS
SELECT p.unit, p.starts, p.starts + p.step AS ends
FROM (
    SELECT u.unit, u.step, generate_series(date_trunc(u.unit, oldest.at), now(), u.step) AS starts
    FROM (VALUES ('hour', interval '1 hour'), ('day', interval '1 day')) AS u (unit, step), (
        SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM $$FROM \('([^']+)'\)$$)::timestamptz) AS at
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'public.job_runs'::regclass) AS oldest) AS p;
COMMENT ON VIEW reporting.periods IS 'Every hour and day that history goes back to: unit, start and end (exclusive)';

CREATE OR REPLACE VIEW reporting.throughput_by_hour AS
SELECT p.starts AS hour, r.queue, r.kind, r.runs, r.succeeded, r.failed
FROM reporting.periods p CROSS JOIN LATERAL (
    SELECT queue, kind, count(*) AS runs, count(*) FILTER (WHERE outcome = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE outcome NOT IN ('succeeded', 'snoozed', 'released', 'cancelled')) AS failed
    FROM public.job_runs WHERE finished_at >= p.starts AND finished_at < p.ends GROUP BY queue, kind) AS r
WHERE p.unit = 'hour';
COMMENT ON VIEW reporting.throughput_by_hour IS 'Runs that ended, by hour (UTC when the session is), queue and kind. Bound hour';

CREATE OR REPLACE VIEW reporting.latency_percentiles AS
SELECT p.starts AS hour, w.*
FROM reporting.periods p CROSS JOIN LATERAL (
    SELECT queue, kind, count(*) AS jobs,
           percentile_cont(0.50) WITHIN GROUP (ORDER BY wait_seconds) AS wait_p50_seconds,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY wait_seconds) AS wait_p95_seconds,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY wait_seconds) AS wait_p99_seconds,
           percentile_cont(0.50) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)) AS run_p50_seconds,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)) AS run_p99_seconds
    FROM reporting.waits WHERE finished_at >= p.starts AND finished_at < p.ends GROUP BY queue, kind) AS w
WHERE p.unit = 'hour';
COMMENT ON VIEW reporting.latency_percentiles IS
    'Percentiles of waiting and running, by the hour in which jobs finished, queue and kind. Bound hour';

CREATE OR REPLACE VIEW reporting.failure_reasons AS
SELECT p.starts AS day, r.*
FROM reporting.periods p CROSS JOIN LATERAL (
    SELECT queue, kind, outcome, coalesce(error ->> 'code', outcome) AS error_code, count(*) AS runs,
           count(DISTINCT job_id) AS jobs, max(finished_at) AS last_at,
           (array_agg(error ->> 'message' ORDER BY finished_at DESC))[1] AS last_message
    FROM public.job_runs
    WHERE finished_at >= p.starts AND finished_at < p.ends
        AND outcome NOT IN ('succeeded', 'snoozed', 'released', 'cancelled')
    GROUP BY 1, 2, 3, 4) AS r
WHERE p.unit = 'day';
COMMENT ON VIEW reporting.failure_reasons IS 'Why runs failed, by day, queue, kind and code, with the newest message. Bound day';

CREATE OR REPLACE VIEW reporting.llm_usage AS
SELECT p.starts AS day, t.name AS tenant, r.kind, r.runs, r.prompt_tokens, r.completion_tokens, r.total_tokens, r.seconds
FROM reporting.periods p CROSS JOIN LATERAL (
    SELECT tenant_id, kind, count(*) AS runs,
           sum((usage ->> 'prompt_tokens')::numeric)::bigint AS prompt_tokens,
           sum((usage ->> 'completion_tokens')::numeric)::bigint AS completion_tokens,
           sum((usage ->> 'total_tokens')::numeric)::bigint AS total_tokens,
           sum(extract(epoch FROM finished_at - started_at))::double precision AS seconds
    FROM public.job_runs
    WHERE finished_at >= p.starts AND finished_at < p.ends AND usage ? 'total_tokens' GROUP BY tenant_id, kind) AS r
JOIN public.tenants t ON t.id = r.tenant_id
WHERE p.unit = 'day';
COMMENT ON VIEW reporting.llm_usage IS 'Tokens by day, tenant and kind. Failed runs that used some count too. Bound day';

CREATE OR REPLACE VIEW reporting.queues AS
SELECT q.name AS queue, q.paused_at, c.accepted, c.finished, c.accepted - c.finished AS live,
       coalesce(busy.dispatched, 0) AS dispatched, coalesce(busy.running, 0) AS running,
       (SELECT count(*) FROM public.workers w WHERE q.name = ANY (w.queues) AND w.stopped_at IS NULL
            AND w.heartbeat_at > now() - interval '1 minute') AS workers,
       c.deadlines_met, c.deadlines_missed
FROM public.queues q
LEFT JOIN LATERAL (
    SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(finished), 0)::bigint AS finished,
           coalesce(sum(deadlines_met), 0)::bigint AS deadlines_met,
           coalesce(sum(deadlines_missed), 0)::bigint AS deadlines_missed
    FROM public.queue_counters WHERE queue = q.name) AS c ON true
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'dispatched') AS dispatched, count(*) FILTER (WHERE state = 'running') AS running
    FROM public.jobs WHERE queue = q.name AND state IN ('dispatched', 'running')) AS busy ON true;
COMMENT ON VIEW reporting.queues IS 'Every queue now: exact totals from counters, cheap at any size';

CREATE OR REPLACE VIEW reporting.workers AS
SELECT w.id, w.node, w.host, w.pid, w.pool, w.slots, w.queues, w.started_at, w.heartbeat_at, w.stopped_at,
       cardinality(w.leases) AS running,
       CASE WHEN w.stopped_at IS NOT NULL THEN 'stopped' WHEN w.heartbeat_at < now() - interval '1 minute' THEN 'silent'
            ELSE 'alive' END AS state
FROM public.workers w;
COMMENT ON VIEW reporting.workers IS 'Worker processes of the last week, with their last heartbeat';
