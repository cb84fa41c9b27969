-- Take the lease of a dispatched job, in one round trip (docs/concepts/delivery.md, "Claim").
--
-- A job that the first UPDATE does not find is locked by primary key alone and only then checked: a condition on the
-- target of an UPDATE returns nothing at once while the dispatcher's transaction is open, the message would be
-- acknowledged, and the job would wait forever. VOLATILE gives every statement below its own snapshot, so the pause
-- is read under the row's lock, as it is then.
--
-- verdicts: claimed · mine (the response of an earlier commit was lost) · gone · stale (another dispatch, state or kind)
--           · paused (back to available) · expired · limited (scheduled, until its limit keys have units for it) · dead (it
--           wants more units than a key has at all)
-- is_plain: without workflow and limit keys, so that `settle_runs` can settle it with others
-- Plain columns and not the whole row: taking a composite apart cost as much as the claim itself.
CREATE OR REPLACE FUNCTION claim_run(
    p_job uuid, p_dispatch_no integer, p_kind text, p_lease uuid, p_worker uuid, p_node text,
    OUT verdict text, OUT tenant_id uuid, OUT payload json, OUT run_no integer, OUT attempt integer,
    OUT max_attempts integer, OUT is_plain boolean
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    j jobs;
    v_now timestamptz;
    v_units record;
BEGIN
    LOOP
        -- the usual case without a prior SELECT FOR UPDATE, which would write the row once more
        v_now := clock_timestamp();
        UPDATE jobs SET
            state = 'running', state_at = v_now, run_no = jobs.run_no + 1, attempt = jobs.attempt + 1,
            lease_id = p_lease, worker_id = p_worker, run_started_at = v_now, started_at = coalesce(started_at, v_now),
            progress = NULL
        WHERE id = p_job AND state = 'dispatched' AND dispatch_no = p_dispatch_no AND kind = p_kind
            AND (start_by IS NULL OR start_by >= v_now OR jobs.run_no > 0)
        RETURNING * INTO j;
        EXIT WHEN FOUND;
        SELECT * INTO j FROM jobs WHERE id = p_job FOR UPDATE;
        IF NOT FOUND THEN
            verdict := 'gone';
            RETURN;
        END IF;
        IF j.lease_id = p_lease THEN
            verdict := 'mine';
            EXIT;
        END IF;
        IF j.state <> 'dispatched' OR j.dispatch_no <> p_dispatch_no OR j.kind <> p_kind THEN
            verdict := 'stale';
            RETURN;
        END IF;
        IF j.start_by < clock_timestamp() AND j.run_no = 0 THEN
            j.state := 'expired';
            j.error := jsonb_build_object(
                'code', 'expired', 'message', 'start_by passed before a run began', 'retryable', false);
            PERFORM note_event(j, 'expired');
            PERFORM finish_job(j, clock_timestamp());
            PERFORM count_deadline(j.tenant_id, j.queue, false);
            verdict := 'expired';
            RETURN;
        END IF;
        -- the dispatcher has committed meanwhile: under the lock the UPDATE finds it
    END LOOP;

    IF verdict IS NULL THEN
        IF EXISTS (SELECT 1 FROM queues WHERE name = j.queue AND paused_at IS NOT NULL) THEN
            UPDATE jobs SET
                state = 'available', run_no = jobs.run_no - 1, attempt = jobs.attempt - 1, lease_id = NULL,
                worker_id = NULL, started_at = CASE WHEN started_at < v_now THEN started_at END
            WHERE id = p_job RETURNING * INTO j;
            PERFORM note_event(j, 'returned', '{"reason": "queue paused"}');
            verdict := 'paused';
            RETURN;
        END IF;
        IF cardinality(j.limit_keys) > 0 THEN
            SELECT * INTO v_units FROM take_units(p_job, j.priority, j.limit_keys, j.limit_units);
            IF v_units.seconds IS NULL OR v_units.seconds > 0 THEN
                verdict := refuse_run(j, v_now, v_units.seconds, v_units.key);
                RETURN;
            END IF;
            IF j.reserved_at IS NOT NULL THEN
                UPDATE jobs SET reserved_at = NULL WHERE id = p_job;
            END IF;
        END IF;
        IF j.start_by IS NOT NULL AND j.run_no = 1 THEN
            PERFORM count_deadline(j.tenant_id, j.queue, true);
        END IF;
        INSERT INTO job_events (job_id, tenant_id, event, state, run_no, data)
        VALUES (p_job, j.tenant_id, 'started', 'running', j.run_no,
                jsonb_build_object('worker', p_node, 'attempt', j.attempt));
        verdict := 'claimed';
    END IF;
    tenant_id := j.tenant_id;
    payload := j.payload;
    run_no := j.run_no;
    attempt := j.attempt;
    max_attempts := j.max_attempts;
    is_plain := j.workflow_id IS NULL AND cardinality(j.limit_keys) = 0;
END $$;

-- Undo the claim of a job without units: scheduled until it may have them, or dead if it never can. The times are spread a
-- little; the dispatcher publishes no more than there are units for. It keeps its position in its flow: behind later jobs it would
-- lose its reservation.
CREATE OR REPLACE FUNCTION refuse_run(j jobs, p_claimed_at timestamptz, p_seconds double precision, p_key text)
RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    UPDATE jobs SET
        state = CASE WHEN p_seconds IS NULL THEN 'dead' ELSE 'scheduled' END, state_at = v_now,
        run_at = CASE WHEN p_seconds IS NULL THEN run_at
                 ELSE v_now + make_interval(secs => least(366 * 86400, p_seconds * (1 + 0.1 * random()))) END,
        error = CASE WHEN p_seconds IS NULL THEN jsonb_build_object(
            'code', 'units_above_limit', 'retryable', false, 'message', format(
                'it takes %s units of %s, which never has so many: raise that limit, or split the job',
                coalesce(j.limit_units[array_position(j.limit_keys, p_key)], 1), p_key)) ELSE error END,
        run_no = run_no - 1, attempt = attempt - 1, lease_id = NULL, worker_id = NULL,
        started_at = CASE WHEN started_at < p_claimed_at THEN started_at END,
        reserved_at = CASE WHEN p_seconds IS NOT NULL THEN coalesce(reserved_at, (
            SELECT max(e.at) FROM job_events e WHERE e.job_id = j.id AND e.state = 'available')) END
    WHERE id = j.id RETURNING * INTO j;
    PERFORM note_event(j, CASE WHEN p_seconds IS NULL THEN 'refused' ELSE 'limited' END,
        jsonb_strip_nulls(jsonb_build_object('delay_seconds', p_seconds, 'limit_keys', j.limit_keys, 'error', j.error)));
    IF p_seconds IS NULL AND j.workflow_id IS NOT NULL THEN
        PERFORM step_ended(j);
    END IF;
    RETURN CASE WHEN p_seconds IS NULL THEN 'dead' ELSE 'limited' END;
END $$;
