-- The verdict on a job that is not live: ended (with its state), or gone (the tenant has no such job).
CREATE OR REPLACE FUNCTION ended_job(p_tenant uuid, p_job uuid, p_since timestamptz)
RETURNS TABLE (verdict text, state text)
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN h.state IS NULL THEN 'gone' ELSE 'ended' END, h.state
    FROM (SELECT 1) AS always LEFT JOIN job_history h
        ON h.id = p_job AND h.finished_at >= p_since AND h.tenant_id = p_tenant;
$$;
