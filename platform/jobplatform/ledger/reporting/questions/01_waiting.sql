-- How much waits in each queue, and who works on it?
SELECT queue, live, dispatched, running, workers, paused_at IS NOT NULL AS paused FROM queues ORDER BY live DESC;
