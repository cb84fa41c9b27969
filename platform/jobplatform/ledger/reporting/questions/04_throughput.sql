-- How many runs ended per hour, and how many of them failed?
SELECT hour, queue, sum(runs) AS runs, sum(failed) AS failed,
       round(100 * sum(failed) / nullif(sum(runs), 0), 2) AS failed_percent
FROM throughput_by_hour WHERE hour >= now() - interval '2 days' GROUP BY hour, queue ORDER BY hour DESC, queue;
