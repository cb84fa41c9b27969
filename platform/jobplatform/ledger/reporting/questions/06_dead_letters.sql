-- Which dead letters need an operator, and since when?
SELECT kind, error_code, count(*) AS dead, min(died_at) AS oldest, max(died_at) AS newest,
       (array_agg(id ORDER BY died_at DESC))[1] AS newest_job
FROM dead_letters GROUP BY kind, error_code ORDER BY dead DESC;
