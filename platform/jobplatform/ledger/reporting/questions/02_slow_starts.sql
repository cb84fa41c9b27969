-- How long did jobs of the last day wait before they started, by queue and hour?
SELECT hour, queue, kind, jobs, round(wait_p50_seconds::numeric, 3) AS p50, round(wait_p95_seconds::numeric, 3) AS p95,
       round(wait_p99_seconds::numeric, 3) AS p99
FROM latency_percentiles WHERE hour >= date_trunc('hour', now()) - interval '1 day' ORDER BY hour DESC, p99 DESC;
