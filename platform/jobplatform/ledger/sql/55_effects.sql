-- The effect journal: intent → receipt, by job and key, fenced by the lease (I4; docs/concepts/delivery.md, "Effects").

-- Record the intent of an irreversible effect. p_token identifies the intent: a call that is repeated because
-- its response was lost is the same intent. p_unknown: policy if an earlier run ended between intent and receipt.
-- verdicts: do · done (receipt) · skipped (by policy) · unknown (an operator must decide) · lost (the lease)
CREATE OR REPLACE FUNCTION begin_effect(
    p_job uuid, p_lease uuid, p_key text, p_token uuid, p_unknown text, OUT verdict text, OUT receipt jsonb
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j record;
    e effects;
BEGIN
    SELECT tenant_id, run_no INTO j FROM jobs WHERE id = p_job AND lease_id = p_lease FOR SHARE;
    IF NOT FOUND THEN
        verdict := 'lost';
        RETURN;
    END IF;
    INSERT INTO effects (job_id, key, tenant_id, state, run_no, token)
    VALUES (p_job, p_key, j.tenant_id, 'intended', j.run_no, p_token)
    ON CONFLICT (job_id, key) DO NOTHING;
    IF FOUND THEN
        verdict := 'do';
        RETURN;
    END IF;
    SELECT * INTO e FROM effects WHERE job_id = p_job AND key = p_key FOR UPDATE;
    IF e.state <> 'intended' THEN
        verdict := e.state;
        receipt := e.receipt;
    ELSIF e.token = p_token THEN
        verdict := 'do';
    ELSIF p_unknown = 'repeat' THEN
        UPDATE effects SET run_no = j.run_no, token = p_token, intended_at = clock_timestamp()
        WHERE job_id = p_job AND key = p_key;
        verdict := 'do';
    ELSIF p_unknown = 'skip' THEN
        UPDATE effects SET state = 'skipped', done_at = clock_timestamp() WHERE job_id = p_job AND key = p_key;
        verdict := 'skipped';
    ELSE
        verdict := 'unknown';
    END IF;
END $$;

-- Record whether the effect that holds its job took place. The job runs again, and skips or repeats the effect.
-- verdicts: resolved · no effect (none of that key is unknown) · live (the job is not held: state) · ended · gone
CREATE OR REPLACE FUNCTION resolve_effect(
    p_tenant uuid, p_job uuid, p_since timestamptz, p_key text, p_happened boolean, p_receipt jsonb, p_data jsonb
) RETURNS TABLE (verdict text, state text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
BEGIN
    SELECT * INTO j FROM jobs WHERE id = p_job AND tenant_id = p_tenant FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM ended_job(p_tenant, p_job, p_since);
        RETURN;
    END IF;
    IF j.state <> 'held' THEN
        RETURN QUERY SELECT 'live'::text, j.state;
        RETURN;
    END IF;
    IF p_happened THEN
        UPDATE effects SET state = 'done', receipt = p_receipt, done_at = clock_timestamp()
        WHERE job_id = p_job AND key = p_key AND effects.state = 'intended';
    ELSE
        DELETE FROM effects WHERE job_id = p_job AND key = p_key AND effects.state = 'intended';
    END IF;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'no effect'::text, j.state;
        RETURN;
    END IF;
    UPDATE jobs SET state = 'available', state_at = clock_timestamp(), error = NULL WHERE id = p_job RETURNING * INTO j;
    PERFORM note_event(j, 'resolved', p_data || jsonb_build_object('effect', p_key, 'happened', p_happened));
    RETURN QUERY SELECT 'resolved'::text, j.state;
END $$;
