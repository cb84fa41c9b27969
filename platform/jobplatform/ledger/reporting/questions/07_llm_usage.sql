-- Who used how many tokens this month?
SELECT tenant, kind, sum(runs) AS runs, sum(prompt_tokens) AS prompt, sum(completion_tokens) AS completion,
       sum(total_tokens) AS total
FROM llm_usage WHERE day >= date_trunc('month', now()) GROUP BY tenant, kind ORDER BY total DESC;
