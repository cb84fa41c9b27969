-- What did each tenant run in the last day, and how long did it take in all?
SELECT tenant, kind, count(*) AS runs, round(sum(seconds)::numeric, 1) AS seconds
FROM runs WHERE finished_at >= now() - interval '1 day' GROUP BY tenant, kind ORDER BY seconds DESC;
