-- Replay of many dead letters at a rate; it stops when too many have failed again.

-- Choose dead letters of a tenant, oldest first, and replay them: the n-th is due after n / p_rate seconds (NULL: all at
-- once). NULL in a filter is "any". Returns how many.
CREATE OR REPLACE FUNCTION replay_many(
    p_replay uuid, p_tenant uuid, p_kind text, p_queue text, p_code text, p_tag text, p_after timestamptz,
    p_before timestamptz, p_limit integer, p_rate double precision, p_stop_after integer, p_by text, p_filter jsonb
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job record;
    v_count integer := 0;
    v_verdict text;
BEGIN
    FOR job IN
        SELECT id, run_no FROM jobs
        WHERE tenant_id = p_tenant AND state = 'dead' AND state IN ('dead', 'held')
            AND (p_kind IS NULL OR kind = p_kind) AND (p_queue IS NULL OR queue = p_queue)
            AND (p_code IS NULL OR error ->> 'code' = p_code) AND (p_tag IS NULL OR p_tag = ANY (tags))
            AND (p_after IS NULL OR state_at >= p_after) AND (p_before IS NULL OR state_at < p_before)
        ORDER BY id LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        SELECT verdict INTO v_verdict FROM replay_job(
            p_tenant, job.id, '-infinity', coalesce(v_count / p_rate, 0),
            jsonb_build_object('by', p_by, 'replay', p_replay));
        IF v_verdict = 'replayed' THEN
            INSERT INTO replay_jobs (replay_id, job_id, run_no) VALUES (p_replay, job.id, job.run_no);
            v_count := v_count + 1;
        END IF;
    END LOOP;
    INSERT INTO replays (id, tenant_id, created_by, state, filter, chosen, rate_per_second, stop_after, ended_at)
    VALUES (p_replay, p_tenant, p_by, CASE WHEN v_count > 0 THEN 'running' ELSE 'done' END, p_filter, v_count, p_rate,
            p_stop_after, CASE WHEN v_count = 0 THEN clock_timestamp() END);
    RETURN v_count;
END $$;

-- Supervise running replays: count jobs that failed again; above the limit, jobs that have not run yet return
-- to the dead letters. One transaction for all; concurrent dispatchers skip each other's rows.
CREATE OR REPLACE FUNCTION watch_replays() RETURNS TABLE (id uuid, state text, died_again integer, stopped integer)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    r replays;
    j jobs;
    v_died integer;
    v_open integer;
    v_stopped integer;
BEGIN
    FOR r IN SELECT * FROM replays WHERE state = 'running' ORDER BY created_at FOR UPDATE SKIP LOCKED LOOP
        SELECT count(*) FILTER (WHERE live.state = 'dead' AND live.run_no > chosen.run_no),
               count(*) FILTER (WHERE live.state NOT IN ('dead', 'held'))
        INTO v_died, v_open
        FROM replay_jobs chosen JOIN jobs live ON live.id = chosen.job_id WHERE chosen.replay_id = r.id;
        v_stopped := 0;
        IF v_died >= r.stop_after THEN
            FOR j IN
                UPDATE jobs SET state = 'dead', state_at = clock_timestamp(),
                    error = coalesce(error, '{"code": "replay_stopped", "message": "its replay was stopped", "retryable": false}')
                WHERE jobs.id IN (
                    SELECT waiting.id FROM replay_jobs chosen JOIN jobs waiting ON waiting.id = chosen.job_id
                    WHERE chosen.replay_id = r.id AND waiting.state IN ('scheduled', 'available')
                        AND waiting.run_no = chosen.run_no
                    FOR UPDATE OF waiting SKIP LOCKED)
                RETURNING *
            LOOP
                v_stopped := v_stopped + 1;
                PERFORM note_event(j, 'replay_stopped', jsonb_build_object('replay', r.id, 'died_again', v_died));
                IF j.workflow_id IS NOT NULL THEN
                    PERFORM step_ended(j);
                END IF;
            END LOOP;
            UPDATE replays SET state = 'stopped', ended_at = clock_timestamp(), died_again = v_died, stopped = v_stopped
            WHERE replays.id = r.id;
            RETURN QUERY SELECT r.id, 'stopped'::text, v_died, v_stopped;
        ELSIF v_open = 0 THEN
            UPDATE replays SET state = 'done', ended_at = clock_timestamp(), died_again = v_died WHERE replays.id = r.id;
            RETURN QUERY SELECT r.id, 'done'::text, v_died, 0;
        ELSIF v_died <> r.died_again THEN
            UPDATE replays SET died_again = v_died WHERE replays.id = r.id;
        END IF;
    END LOOP;
END $$;
