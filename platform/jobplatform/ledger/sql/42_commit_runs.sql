-- One commit of a worker's committer: settle successful runs and claim the next ones, in one round trip.
CREATE OR REPLACE FUNCTION commit_runs(p_runs json, p_claims json, p_worker uuid, p_node text)
RETURNS TABLE (
    is_claim boolean, lease uuid, tenant_id uuid, payload json, run_no integer, attempt integer, max_attempts integer)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_runs IS NOT NULL THEN
        RETURN QUERY SELECT false, settled, NULL::uuid, NULL::json, NULL::integer, NULL::integer, NULL::integer
        FROM settle_runs(p_runs) AS settled;
    END IF;
    IF p_claims IS NOT NULL THEN
        RETURN QUERY SELECT true, claimed.* FROM claim_runs(p_claims, p_worker, p_node) AS claimed;
    END IF;
END $$;
