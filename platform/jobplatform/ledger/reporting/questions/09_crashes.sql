-- Which runs took their process down or lost their worker, and how much memory did they use?
SELECT finished_at, kind, outcome, job_id, run_no, worker, pg_size_pretty(peak_memory_bytes) AS peak_memory, error_message
FROM runs WHERE outcome IN ('crashed', 'lost', 'timed_out') AND finished_at >= now() - interval '7 days'
ORDER BY finished_at DESC LIMIT 100;
