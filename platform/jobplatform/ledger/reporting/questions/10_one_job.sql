-- What became of the newest jobs, run by run?
SELECT j.id, j.kind, j.state, r.run_no, r.outcome, r.worker, r.started_at, round(r.seconds::numeric, 3) AS seconds,
       r.error_code
FROM (SELECT * FROM jobs WHERE created_at >= now() - interval '1 day' ORDER BY created_at DESC LIMIT 50) AS j
LEFT JOIN runs r ON r.job_id = j.id AND r.finished_at >= now() - interval '2 days' ORDER BY j.created_at DESC, r.run_no;
