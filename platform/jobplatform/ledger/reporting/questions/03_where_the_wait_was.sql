-- Was the wait in the ledger (the window was full) or in RabbitMQ (all workers were busy)?
SELECT queue, count(*) AS jobs, round(avg(ledger_seconds)::numeric, 3) AS in_ledger,
       round(avg(broker_seconds)::numeric, 3) AS in_rabbitmq
FROM waits WHERE finished_at >= now() - interval '1 day' GROUP BY queue ORDER BY jobs DESC;
