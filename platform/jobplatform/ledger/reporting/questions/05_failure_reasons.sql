-- Why did runs fail this week?
SELECT kind, outcome, error_code, sum(runs) AS runs, sum(jobs) AS jobs, max(last_at) AS last_at,
       (array_agg(last_message ORDER BY last_at DESC))[1] AS last_message
FROM failure_reasons WHERE day >= now() - interval '7 days' GROUP BY kind, outcome, error_code ORDER BY runs DESC;
