-- The ledger: every table with its indexes and constraints. Functions and views are created after every upgrade
-- (platform/jobplatform/ledger/schema.py); what each table is for stands in platform/jobplatform/ledger/tables/.

CREATE TABLE artifact_removals (
    location text NOT NULL,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_artifact_removals PRIMARY KEY (location)
);
CREATE INDEX ix_artifact_removals_at ON artifact_removals (at);
COMMENT ON COLUMN artifact_removals.location IS 'key below JOBPLATFORM_ARTIFACT_URL';

CREATE TABLE artifacts (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    job_id uuid,
    run_no integer,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    location text NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_artifacts PRIMARY KEY (id),
    CONSTRAINT artifacts_size_is_not_negative CHECK (size >= 0),
    CONSTRAINT artifacts_of_a_job_name_its_run CHECK ((job_id IS NULL) = (run_no IS NULL))
);
CREATE INDEX ix_artifacts_job_id ON artifacts (job_id);
COMMENT ON COLUMN artifacts.job_id IS 'NULL: an upload';
COMMENT ON COLUMN artifacts.location IS 'key below JOBPLATFORM_ARTIFACT_URL';

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    tenant_id uuid NOT NULL,
    key_id uuid NOT NULL,
    key_name text NOT NULL,
    action text NOT NULL,
    path text NOT NULL,
    address text,
    status smallint,
    code text,
    CONSTRAINT pk_audit_log PRIMARY KEY (id)
);
CREATE INDEX ix_audit_log_at ON audit_log (at);
CREATE INDEX ix_audit_log_tenant ON audit_log (tenant_id, id);
COMMENT ON COLUMN audit_log.action IS 'the operation of /openapi.json';
COMMENT ON COLUMN audit_log.address IS 'address of the caller, as seen by the server';
COMMENT ON COLUMN audit_log.status IS 'HTTP status; NULL: the request did not finish';
COMMENT ON COLUMN audit_log.code IS 'code of the problem';

CREATE TABLE broker_epochs (
    epoch uuid NOT NULL,
    current boolean NOT NULL,
    declared_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_broker_epochs PRIMARY KEY (epoch)
);
CREATE UNIQUE INDEX uq_broker_epochs_current ON broker_epochs (current) WHERE current;

CREATE TABLE dead_messages (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    queue text,
    reason text NOT NULL,
    detail text NOT NULL,
    job_id uuid,
    dispatch_no integer,
    kind text,
    message jsonb NOT NULL,
    body bytea NOT NULL,
    body_bytes bigint NOT NULL,
    CONSTRAINT pk_dead_messages PRIMARY KEY (id),
    CONSTRAINT dead_messages_reason_is_known CHECK (reason IN ('malformed', 'no_job', 'refused', 'stale'))
);
CREATE INDEX ix_dead_messages_at ON dead_messages (at);
CREATE INDEX ix_dead_messages_job_id ON dead_messages (job_id) WHERE job_id IS NOT NULL;
COMMENT ON COLUMN dead_messages.queue IS 'its queue, according to RabbitMQ';
COMMENT ON COLUMN dead_messages.message IS 'headers, properties and x-death, truncated';
COMMENT ON COLUMN dead_messages.body IS 'first bytes of the body';

CREATE TABLE dispatchers (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    broker_error text,
    broker_error_at timestamptz,
    CONSTRAINT pk_dispatchers PRIMARY KEY (id)
);
COMMENT ON COLUMN dispatchers.id IS 'one per process';
COMMENT ON COLUMN dispatchers.broker_error IS 'error of RabbitMQ; NULL: none';
COMMENT ON COLUMN dispatchers.broker_error_at IS 'start of the error';

CREATE TABLE effects (
    job_id uuid NOT NULL,
    key text NOT NULL,
    tenant_id uuid NOT NULL,
    state text NOT NULL,
    run_no integer NOT NULL,
    token uuid NOT NULL,
    receipt jsonb,
    intended_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    done_at timestamptz,
    CONSTRAINT pk_effects PRIMARY KEY (job_id, key),
    CONSTRAINT effects_state_is_known CHECK (state IN ('intended', 'done', 'skipped')),
    CONSTRAINT effects_done_has_its_time CHECK ((state = 'intended') = (done_at IS NULL))
);
CREATE INDEX ix_effects_intended_at ON effects (intended_at);
COMMENT ON COLUMN effects.run_no IS 'last run that recorded the intent';
COMMENT ON COLUMN effects.token IS 'token of the intent: a retried write is recognised by it';
COMMENT ON COLUMN effects.receipt IS 'response of the other system';

CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    job_id uuid NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamptz NOT NULL,
    answer jsonb,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (tenant_id, key)
);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);
COMMENT ON COLUMN idempotency_keys.job_id IS 'id of the job, workflow or batch';
COMMENT ON COLUMN idempotency_keys.answer IS 'of a batch: outcome of each submission';

CREATE TABLE installation (
    singleton boolean DEFAULT true NOT NULL,
    cluster text,
    feed_offset bigint DEFAULT 0 NOT NULL,
    max_body_bytes integer DEFAULT 1048576 NOT NULL,
    idempotency_seconds integer DEFAULT 86400 NOT NULL,
    CONSTRAINT pk_installation PRIMARY KEY (singleton),
    CONSTRAINT installation_is_one_row CHECK (singleton)
);
COMMENT ON COLUMN installation.cluster IS 'system identifier of Postgres, whose transaction ids order the feeds';

CREATE TABLE job_events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    job_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    event text NOT NULL,
    state text NOT NULL,
    run_no integer NOT NULL,
    data jsonb,
    tx bigint DEFAULT (pg_current_xact_id())::text::bigint,
    CONSTRAINT pk_job_events PRIMARY KEY (job_id, id, at)
)
 PARTITION BY RANGE (at);
CREATE INDEX ix_job_events_feed ON job_events (tenant_id, tx, id);
COMMENT ON COLUMN job_events.state IS 'the state after it';
COMMENT ON COLUMN job_events.tx IS 'transaction id, the order of feeds (read_feed)';

CREATE TABLE job_history (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    state text NOT NULL,
    priority smallint NOT NULL,
    payload json NOT NULL,
    tags text[] DEFAULT '{}' NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    run_no integer DEFAULT 0 NOT NULL,
    dispatch_no integer DEFAULT 0 NOT NULL,
    crash_count integer DEFAULT 0 NOT NULL,
    crash_limit integer NOT NULL,
    lost_count integer DEFAULT 0 NOT NULL,
    lost_limit integer NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    state_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    run_at timestamptz NOT NULL,
    start_by timestamptz,
    dispatched_at timestamptz,
    started_at timestamptz,
    run_started_at timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason text,
    epoch uuid,
    worker_id uuid,
    lease_id uuid,
    progress jsonb,
    result json,
    error jsonb,
    workflow_id uuid,
    limit_keys text[] DEFAULT '{}' NOT NULL,
    limit_units integer[] DEFAULT '{}' NOT NULL,
    finished_at timestamptz NOT NULL,
    CONSTRAINT pk_job_history PRIMARY KEY (id, finished_at),
    CONSTRAINT job_history_state_is_final CHECK (state IN ('cancelled', 'discarded', 'expired', 'succeeded')),
    CONSTRAINT job_history_has_no_lease CHECK (lease_id IS NULL AND worker_id IS NULL),
    CONSTRAINT job_history_result_is_success CHECK (state = 'succeeded' OR result IS NULL)
)
 PARTITION BY RANGE (finished_at);
CREATE INDEX ix_job_history_tags ON job_history USING gin (tags) WHERE tags <> '{}';
CREATE INDEX ix_job_history_tenant ON job_history (tenant_id, id);
COMMENT ON COLUMN job_history.payload IS 'the text as sent; jsonb would sort its keys';
COMMENT ON COLUMN job_history.limit_keys IS 'sorted';
COMMENT ON COLUMN job_history.limit_units IS 'units per limit key; missing ones are 1';

CREATE TABLE job_runs (
    job_id uuid NOT NULL,
    run_no integer NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    attempt integer NOT NULL,
    outcome text NOT NULL,
    lease_id uuid NOT NULL,
    worker_id uuid NOT NULL,
    dispatched_at timestamptz,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    error jsonb,
    usage jsonb,
    CONSTRAINT pk_job_runs PRIMARY KEY (job_id, run_no, finished_at),
    CONSTRAINT job_runs_outcome_is_known
        CHECK (outcome IN ('cancelled', 'crashed', 'failed', 'held', 'lost', 'released', 'snoozed', 'succeeded',
            'timed_out')),
    CONSTRAINT job_runs_end_after_start CHECK (finished_at >= started_at)
)
 PARTITION BY RANGE (finished_at);
CREATE INDEX ix_job_runs_finished_at ON job_runs
    USING brin (finished_at) WITH (autosummarize = on, pages_per_range = 32);
COMMENT ON COLUMN job_runs.usage IS 'resource usage reported by the kind: tokens, bytes, peak memory';

CREATE TABLE jobs (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    state text NOT NULL,
    priority smallint NOT NULL,
    payload json NOT NULL,
    tags text[] DEFAULT '{}' NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    run_no integer DEFAULT 0 NOT NULL,
    dispatch_no integer DEFAULT 0 NOT NULL,
    crash_count integer DEFAULT 0 NOT NULL,
    crash_limit integer NOT NULL,
    lost_count integer DEFAULT 0 NOT NULL,
    lost_limit integer NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    state_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    run_at timestamptz NOT NULL,
    start_by timestamptz,
    dispatched_at timestamptz,
    started_at timestamptz,
    run_started_at timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason text,
    epoch uuid,
    worker_id uuid,
    lease_id uuid,
    progress jsonb,
    result json,
    error jsonb,
    workflow_id uuid,
    limit_keys text[] DEFAULT '{}' NOT NULL,
    limit_units integer[] DEFAULT '{}' NOT NULL,
    reserved_at timestamptz,
    cancel_signal text,
    CONSTRAINT pk_jobs PRIMARY KEY (id),
    CONSTRAINT jobs_state_is_live
        CHECK (state IN ('available', 'blocked', 'dead', 'dispatched', 'held', 'running', 'scheduled')),
    CONSTRAINT jobs_priority_in_range CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT jobs_attempt_in_range CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT jobs_run_no_covers_attempts CHECK (run_no >= attempt),
    CONSTRAINT jobs_lease_iff_running CHECK ((state = 'running') = (lease_id IS NOT NULL)),
    CONSTRAINT jobs_lease_names_its_worker CHECK ((lease_id IS NULL) = (worker_id IS NULL)),
    CONSTRAINT jobs_running_has_started CHECK (state <> 'running' OR run_started_at IS NOT NULL),
    CONSTRAINT jobs_dispatched_has_epoch
        CHECK (state <> 'dispatched' OR (dispatch_no > 0 AND epoch IS NOT NULL AND dispatched_at IS NOT NULL)),
    CONSTRAINT jobs_dead_has_reason CHECK (state <> 'dead' OR error IS NOT NULL),
    CONSTRAINT jobs_cancel_request_is_running CHECK (cancel_requested_at IS NULL OR state = 'running'),
    CONSTRAINT jobs_live_has_no_result CHECK (result IS NULL),
    CONSTRAINT jobs_limit_units_are_positive CHECK (0 < ALL (limit_units))
);
CREATE INDEX ix_jobs_arrived ON jobs (queue, state_at) WHERE state = 'available' AND attempt >= 0;
CREATE INDEX ix_jobs_by_deadline ON jobs (queue, priority, start_by)
    WHERE state = 'available' AND start_by IS NOT NULL;
CREATE INDEX ix_jobs_in_flight ON jobs (queue, dispatched_at) WHERE state IN ('dispatched', 'running');
CREATE INDEX ix_jobs_limited ON jobs (dispatched_at) WHERE state IN ('dispatched', 'running') AND limit_keys <> '{}';
CREATE INDEX ix_jobs_lines ON jobs (queue, priority, tenant_id, limit_keys, state_at) WHERE state = 'available';
CREATE INDEX ix_jobs_needs_person ON jobs (tenant_id, id) WHERE state IN ('dead', 'held');
CREATE INDEX ix_jobs_reserved ON jobs (queue) WHERE state = 'available' AND reserved_at IS NOT NULL;
CREATE INDEX ix_jobs_running_worker ON jobs (worker_id) WHERE state = 'running';
CREATE INDEX ix_jobs_scheduled ON jobs (run_at) WHERE state = 'scheduled';
CREATE INDEX ix_jobs_set_aside ON jobs (tenant_id, queue, state)
    WHERE state IN ('blocked', 'scheduled', 'held', 'dead');
CREATE INDEX ix_jobs_start_by ON jobs (start_by)
    WHERE start_by IS NOT NULL AND state IN ('blocked', 'scheduled', 'available', 'dispatched');
CREATE INDEX ix_jobs_tenant ON jobs (tenant_id, id);
CREATE INDEX ix_jobs_unchecked ON jobs (id) WHERE state = 'blocked' AND workflow_id IS NULL;
COMMENT ON COLUMN jobs.payload IS 'the text as sent; jsonb would sort its keys';
COMMENT ON COLUMN jobs.limit_keys IS 'sorted';
COMMENT ON COLUMN jobs.limit_units IS 'units per limit key; missing ones are 1';
COMMENT ON COLUMN jobs.reserved_at IS 'position in its flow, kept while its limit keys refuse it';
COMMENT ON COLUMN jobs.cancel_signal IS 'signal sent to the run''s process at once, instead of the grace period';

CREATE UNLOGGED TABLE key_rates (
    key_id uuid NOT NULL,
    level double precision NOT NULL,
    level_at timestamptz NOT NULL,
    CONSTRAINT pk_key_rates PRIMARY KEY (key_id)
);
COMMENT ON COLUMN key_rates.level IS 'requests left at level_at; below 0: the last request was refused';

CREATE TABLE kinds (
    name text NOT NULL,
    queue text NOT NULL,
    max_attempts integer NOT NULL,
    crash_limit integer NOT NULL,
    lost_limit integer NOT NULL,
    seen_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_kinds PRIMARY KEY (name)
);

CREATE TABLE limit_states (
    key text NOT NULL,
    level double precision,
    level_at timestamptz,
    slices double precision[],
    slices_at timestamptz,
    paused_until timestamptz,
    paused_reason text,
    reserved_for uuid,
    reserved_units double precision,
    reserved_until timestamptz,
    CONSTRAINT pk_limit_states PRIMARY KEY (key)
);
CREATE INDEX ix_limit_states_paused_until ON limit_states (paused_until) WHERE paused_until IS NOT NULL;
COMMENT ON COLUMN limit_states.level IS 'units in the bucket at level_at';
COMMENT ON COLUMN limit_states.slices IS 'units taken in each part of the sliding window that ends at slices_at';
COMMENT ON COLUMN limit_states.paused_until IS 'no run with this key starts before this time';
COMMENT ON COLUMN limit_states.reserved_for IS 'the refused job that has precedence';

CREATE TABLE limits (
    name text NOT NULL,
    max_concurrent integer,
    rate_units double precision,
    rate_seconds double precision,
    burst_units double precision,
    sliding boolean DEFAULT false NOT NULL,
    updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT pk_limits PRIMARY KEY (name),
    CONSTRAINT limits_concurrent_is_not_negative CHECK (max_concurrent >= 0),
    CONSTRAINT limits_rate_has_a_period CHECK ((rate_units IS NULL) = (rate_seconds IS NULL)),
    CONSTRAINT limits_rate_is_positive CHECK (rate_units > 0 AND rate_seconds > 0 AND burst_units > 0),
    CONSTRAINT limits_burst_has_a_rate CHECK (rate_units IS NOT NULL OR (burst_units IS NULL AND NOT sliding)),
    CONSTRAINT limits_window_has_no_burst CHECK (NOT (sliding AND burst_units IS NOT NULL))
);
COMMENT ON COLUMN limits.name IS 'a key (''provider:openai''), or a prefix (''domain:*'')';
COMMENT ON COLUMN limits.max_concurrent IS 'jobs dispatched or running at once';
COMMENT ON COLUMN limits.rate_units IS 'units per rate_seconds; a job takes limit_units of them at its claim';
COMMENT ON COLUMN limits.burst_units IS 'capacity of the token bucket; NULL: rate_units';
COMMENT ON COLUMN limits.sliding IS 'sliding window instead of a token bucket';

CREATE UNLOGGED TABLE locks (
    name text NOT NULL,
    CONSTRAINT pk_locks PRIMARY KEY (name)
);
COMMENT ON TABLE locks IS 'locks by name, held by transactions (take_lock, try_locks)';

CREATE TABLE queue_counters (
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    slot integer NOT NULL,
    accepted bigint DEFAULT 0 NOT NULL,
    finished bigint DEFAULT 0 NOT NULL,
    deadlines_met bigint DEFAULT 0 NOT NULL,
    deadlines_missed bigint DEFAULT 0 NOT NULL,
    CONSTRAINT pk_queue_counters PRIMARY KEY (tenant_id, queue, slot)
);
COMMENT ON COLUMN queue_counters.slot IS
    'backend pid modulo 64, as one row would serialise submissions; negative: of one transaction';
COMMENT ON COLUMN queue_counters.deadlines_met IS 'jobs that began before their start_by';
COMMENT ON COLUMN queue_counters.deadlines_missed IS 'jobs that expired';

CREATE TABLE queue_markers (
    id uuid NOT NULL,
    queue text NOT NULL,
    priority smallint NOT NULL,
    sent_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    seen_at timestamptz,
    used boolean DEFAULT false NOT NULL,
    CONSTRAINT pk_queue_markers PRIMARY KEY (id)
);
CREATE INDEX ix_queue_markers_queue ON queue_markers (queue, priority, sent_at);
COMMENT ON COLUMN queue_markers.seen_at IS 'time at which a worker received it';
COMMENT ON COLUMN queue_markers.used IS 'its evidence was used';

CREATE TABLE queues (
    name text NOT NULL,
    window_min integer NOT NULL,
    window_factor double precision NOT NULL,
    paused_at timestamptz,
    paused_until timestamptz,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_queues PRIMARY KEY (name),
    CONSTRAINT queues_paused_until_is_a_pause CHECK (paused_until IS NULL OR paused_at IS NOT NULL),
    CONSTRAINT queues_window_is_positive CHECK (window_min > 0 AND window_factor > 0)
);
COMMENT ON COLUMN queues.paused_until IS 'NULL: until it is resumed';

CREATE TABLE quota_samples (
    tenant_id uuid NOT NULL,
    queue text NOT NULL,
    old_at timestamptz NOT NULL,
    old_finished bigint NOT NULL,
    at timestamptz NOT NULL,
    finished bigint NOT NULL,
    CONSTRAINT pk_quota_samples PRIMARY KEY (tenant_id, queue)
);
COMMENT ON COLUMN quota_samples.old_finished IS 'number of ended jobs at that time';

CREATE TABLE quotas (
    tenant text NOT NULL,
    queue text NOT NULL,
    max_waiting integer NOT NULL,
    updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    updated_by text NOT NULL,
    CONSTRAINT pk_quotas PRIMARY KEY (tenant, queue),
    CONSTRAINT quotas_waiting_is_not_negative CHECK (max_waiting >= 0)
);
COMMENT ON COLUMN quotas.tenant IS 'a tenant, or ''*'': every tenant without its own quota';
COMMENT ON COLUMN quotas.queue IS 'a queue, or ''*'': every queue without its own quota';

CREATE TABLE replay_jobs (
    replay_id uuid NOT NULL,
    job_id uuid NOT NULL,
    run_no integer NOT NULL,
    CONSTRAINT pk_replay_jobs PRIMARY KEY (replay_id, job_id)
);
COMMENT ON COLUMN replay_jobs.run_no IS 'the previous run';

CREATE TABLE replays (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    created_by text NOT NULL,
    state text NOT NULL,
    filter jsonb NOT NULL,
    chosen integer NOT NULL,
    rate_per_second double precision,
    stop_after integer,
    died_again integer DEFAULT 0 NOT NULL,
    stopped integer DEFAULT 0 NOT NULL,
    ended_at timestamptz,
    CONSTRAINT pk_replays PRIMARY KEY (id),
    CONSTRAINT replays_state_is_known CHECK (state IN ('running', 'done', 'stopped')),
    CONSTRAINT replays_ended_has_its_time CHECK ((state = 'running') = (ended_at IS NULL))
);
CREATE INDEX ix_replays_running ON replays (created_at) WHERE state = 'running';
CREATE INDEX ix_replays_tenant ON replays (tenant_id, created_at);
COMMENT ON COLUMN replays.chosen IS 'number of replayed dead letters';
COMMENT ON COLUMN replays.rate_per_second IS 'NULL: all at once';
COMMENT ON COLUMN replays.stop_after IS 'stops after this many repeated failures; NULL: never';
COMMENT ON COLUMN replays.stopped IS 'returned without a run';

CREATE TABLE schedule_fires (
    schedule_id uuid NOT NULL,
    planned_at timestamptz NOT NULL,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    outcome text NOT NULL,
    by text,
    job_id uuid,
    payload json,
    missed_until timestamptz,
    CONSTRAINT pk_schedule_fires PRIMARY KEY (schedule_id, planned_at),
    CONSTRAINT schedule_fires_outcome_is_known CHECK (outcome IN ('fired', 'missed', 'queued', 'skipped')),
    CONSTRAINT schedule_fires_fired_has_its_job CHECK ((outcome = 'fired') = (job_id IS NOT NULL))
);
CREATE INDEX ix_schedule_fires_at ON schedule_fires (at);
CREATE INDEX ix_schedule_fires_queued ON schedule_fires (schedule_id, planned_at) WHERE outcome = 'queued';
COMMENT ON COLUMN schedule_fires.by IS 'who requested it; NULL: the schedule';
COMMENT ON COLUMN schedule_fires.payload IS 'of a pending fire';

CREATE TABLE schedules (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    spec jsonb NOT NULL,
    kind text NOT NULL,
    queue text NOT NULL,
    payload json NOT NULL,
    priority smallint NOT NULL,
    tags text[] NOT NULL,
    max_attempts integer NOT NULL,
    crash_limit integer NOT NULL,
    lost_limit integer NOT NULL,
    limit_keys text[] DEFAULT '{}' NOT NULL,
    limit_units integer[] DEFAULT '{}' NOT NULL,
    start_within_seconds double precision,
    jitter_seconds double precision NOT NULL,
    overlap text NOT NULL,
    missed text NOT NULL,
    catch_up integer NOT NULL,
    start_at timestamptz,
    end_at timestamptz,
    anchor_at timestamptz NOT NULL,
    paused_at timestamptz,
    next_planned_at timestamptz,
    next_due_at timestamptz,
    last_planned_at timestamptz,
    last_job_id uuid,
    queued integer DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    updated_by text NOT NULL,
    origin text NOT NULL,
    CONSTRAINT pk_schedules PRIMARY KEY (id),
    CONSTRAINT uq_schedules_tenant_id_name UNIQUE (tenant_id, name),
    CONSTRAINT schedules_overlap_is_known CHECK (overlap IN ('allow', 'cancel', 'queue', 'skip')),
    CONSTRAINT schedules_priority_in_range CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT schedules_origin_is_known CHECK (origin IN ('beat', 'person', 'platform')),
    CONSTRAINT schedules_missed_is_known CHECK (missed IN ('catch_up', 'once', 'skip')),
    CONSTRAINT schedules_next_is_planned_and_due CHECK ((next_planned_at IS NULL) = (next_due_at IS NULL))
);
CREATE INDEX ix_schedules_due ON schedules (next_due_at) WHERE paused_at IS NULL;
CREATE INDEX ix_schedules_queued ON schedules (id) WHERE queued > 0;
COMMENT ON COLUMN schedules.spec IS 'cron, every_seconds or times, and the time zone';
COMMENT ON COLUMN schedules.anchor_at IS 'origin of intervals';
COMMENT ON COLUMN schedules.next_planned_at IS 'NULL: it does not fire again';
COMMENT ON COLUMN schedules.next_due_at IS 'planned time plus jitter';
COMMENT ON COLUMN schedules.queued IS 'pending fires';

CREATE TABLE tenants (
    id uuid NOT NULL,
    name text NOT NULL,
    limit_key text NOT NULL,
    weight double precision DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (id),
    CONSTRAINT uq_tenants_name UNIQUE (name),
    CONSTRAINT tenants_weight_is_positive CHECK (weight > 0)
);
COMMENT ON COLUMN tenants.limit_key IS 'value of the placeholder `tenant` in limit keys';
COMMENT ON COLUMN tenants.weight IS 'share of every queue relative to other tenants';

CREATE TABLE unique_locks (
    tenant_id uuid NOT NULL,
    key text NOT NULL,
    job_id uuid NOT NULL,
    expires_at timestamptz,
    CONSTRAINT pk_unique_locks PRIMARY KEY (tenant_id, key)
);
CREATE INDEX ix_unique_locks_job_id ON unique_locks (job_id);
COMMENT ON COLUMN unique_locks.expires_at IS 'NULL: while the job is live';

CREATE TABLE webhook_messages (
    id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    event_id bigint,
    type text NOT NULL,
    about uuid,
    job_id uuid NOT NULL,
    replays integer DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_webhook_messages PRIMARY KEY (endpoint_id, id)
);
CREATE INDEX ix_webhook_messages_at ON webhook_messages (created_at);
CREATE UNIQUE INDEX uq_webhook_messages_event ON webhook_messages (endpoint_id, event_id) WHERE event_id IS NOT NULL;
COMMENT ON COLUMN webhook_messages.id IS 'webhook-id';
COMMENT ON COLUMN webhook_messages.event_id IS 'id in job_events; NULL: a test message';
COMMENT ON COLUMN webhook_messages.about IS 'the job of the event';
COMMENT ON COLUMN webhook_messages.job_id IS 'its last delivery job';

CREATE TABLE workers (
    id uuid NOT NULL,
    node text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    pool text NOT NULL,
    slots integer NOT NULL,
    queues text[] NOT NULL,
    kinds text[] NOT NULL,
    started_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    leases uuid[] DEFAULT '{}' NOT NULL,
    waiting uuid[] DEFAULT '{}' NOT NULL,
    previous_heartbeat_at timestamptz,
    previous_leases uuid[] DEFAULT '{}' NOT NULL,
    stopped_at timestamptz,
    session_pid integer,
    draining_at timestamptz,
    CONSTRAINT pk_workers PRIMARY KEY (id)
);
CREATE INDEX ix_workers_heartbeat_at ON workers (heartbeat_at);
COMMENT ON COLUMN workers.id IS 'one per process; not the node name';
COMMENT ON COLUMN workers.waiting IS 'jobs whose message it has received and whose run has not begun';
COMMENT ON COLUMN workers.session_pid IS 'pid of the Postgres session that wrote the last heartbeat';
COMMENT ON COLUMN workers.draining_at IS
    'start of its shutdown: it takes no more jobs, and finishes its runs';

CREATE TABLE workflow_steps (
    id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    type text NOT NULL,
    state text NOT NULL,
    pending integer NOT NULL,
    children uuid[] NOT NULL,
    on_failure text NOT NULL,
    item jsonb,
    template jsonb,
    failed_parents integer DEFAULT 0 NOT NULL,
    failed_by uuid,
    failure_propagated boolean DEFAULT false NOT NULL,
    result_of uuid,
    errbacks jsonb,
    skip_calls_errbacks boolean DEFAULT false NOT NULL,
    CONSTRAINT pk_workflow_steps PRIMARY KEY (id),
    CONSTRAINT uq_workflow_steps_workflow_id_name UNIQUE (workflow_id, name),
    CONSTRAINT workflow_steps_type_is_known CHECK (type IN ('gate', 'job', 'map')),
    CONSTRAINT workflow_steps_state_is_known
        CHECK (state IN ('cancelled', 'done', 'failed', 'joining', 'open', 'skipped', 'waiting')),
    CONSTRAINT workflow_steps_on_failure_is_known CHECK (on_failure IN ('continue', 'fail', 'ignore', 'skip')),
    CONSTRAINT workflow_steps_pending_is_not_negative CHECK (pending >= 0)
);
COMMENT ON COLUMN workflow_steps.id IS 'id of its job, if any';
COMMENT ON COLUMN workflow_steps.position IS 'order of the results of a group';
COMMENT ON COLUMN workflow_steps.pending IS 'number of predecessors that have not ended';
COMMENT ON COLUMN workflow_steps.children IS 'ids of its successors';
COMMENT ON COLUMN workflow_steps.item IS 'element of a map''s list';
COMMENT ON COLUMN workflow_steps.template IS 'template of a map''s steps; of a job: delays that count from its release';
COMMENT ON COLUMN workflow_steps.failed_parents IS 'number of failed predecessors';
COMMENT ON COLUMN workflow_steps.failed_by IS 'the job of the first failure that reached it';
COMMENT ON COLUMN workflow_steps.failure_propagated IS 'its failure was counted by its children';
COMMENT ON COLUMN workflow_steps.result_of IS 'the step that replaced it and provides its result';
COMMENT ON COLUMN workflow_steps.errbacks IS 'submissions of the jobs that its failure creates';
COMMENT ON COLUMN workflow_steps.skip_calls_errbacks IS 'runs even if a predecessor has failed';

CREATE TABLE workflows (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    pending integer NOT NULL,
    time_limit_seconds double precision,
    deadline_at timestamptz,
    stop_as text,
    kill_running boolean DEFAULT false NOT NULL,
    error jsonb,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamptz,
    CONSTRAINT pk_workflows PRIMARY KEY (id),
    CONSTRAINT workflows_state_is_known CHECK (state IN ('cancelled', 'failed', 'running', 'stopping', 'succeeded')),
    CONSTRAINT workflows_ended_has_its_time CHECK ((state IN ('running', 'stopping')) = (ended_at IS NULL)),
    CONSTRAINT workflows_stopped_says_how CHECK ((state = 'running') = (stop_as IS NULL) OR state = 'succeeded')
);
CREATE INDEX ix_workflows_deadline ON workflows (deadline_at) WHERE state = 'running';
CREATE INDEX ix_workflows_ended_at ON workflows (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX ix_workflows_stopping ON workflows (id) WHERE state = 'stopping';
CREATE INDEX ix_workflows_tenant_id_id ON workflows (tenant_id, id);
COMMENT ON COLUMN workflows.pending IS 'number of final steps that have not ended';
COMMENT ON COLUMN workflows.stop_as IS 'final state after stopping';

CREATE TABLE api_keys (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    key_hash bytea NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    revoked_at timestamptz,
    max_priority smallint DEFAULT 9 NOT NULL,
    is_operator boolean DEFAULT false NOT NULL,
    scopes text[] DEFAULT '{jobs:submit,jobs:read,jobs:control}' NOT NULL,
    kinds text[],
    requests_per_minute integer,
    expires_at timestamptz,
    last_used_at timestamptz,
    created_by text DEFAULT '' NOT NULL,
    replaces uuid,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash),
    CONSTRAINT api_keys_max_priority_in_range CHECK (max_priority BETWEEN 0 AND 9),
    CONSTRAINT api_keys_rate_is_positive CHECK (requests_per_minute > 0),
    CONSTRAINT fk_api_keys_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant_id, id);
COMMENT ON COLUMN api_keys.prefix IS 'first characters, to recognise a key';
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the key; keys are 256 random bits';
COMMENT ON COLUMN api_keys.max_priority IS 'highest priority it may submit with';
COMMENT ON COLUMN api_keys.is_operator IS 'operator: may change limits, weights and quotas';
COMMENT ON COLUMN api_keys.kinds IS 'kinds that it may submit, or patterns of them; NULL: all';
COMMENT ON COLUMN api_keys.requests_per_minute IS 'NULL: no limit';
COMMENT ON COLUMN api_keys.last_used_at IS 'accurate to a minute';
COMMENT ON COLUMN api_keys.replaces IS 'the key that it replaces';

CREATE TABLE webhook_endpoints (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    url text NOT NULL,
    description text DEFAULT '' NOT NULL,
    events text[] NOT NULL,
    kinds text[],
    contact text,
    secret text NOT NULL,
    old_secret text,
    old_secret_until timestamptz,
    cursor_tx bigint NOT NULL,
    cursor_id bigint NOT NULL,
    cursor_at timestamptz NOT NULL,
    replay_tx bigint DEFAULT 0 NOT NULL,
    replay_event_id bigint DEFAULT 0 NOT NULL,
    replay_from_at timestamptz,
    replay_everything boolean DEFAULT false NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    created_by text NOT NULL,
    delivered_at timestamptz,
    failing_since timestamptz,
    last_error text,
    disabled_at timestamptz,
    disabled_reason text,
    CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id),
    CONSTRAINT webhook_endpoints_old_secret_ends CHECK ((old_secret IS NULL) = (old_secret_until IS NULL)),
    CONSTRAINT webhook_endpoints_disabled_has_its_reason CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    CONSTRAINT fk_webhook_endpoints_tenant_id FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);
CREATE INDEX ix_webhook_endpoints_tenant ON webhook_endpoints (tenant_id, id);
COMMENT ON COLUMN webhook_endpoints.events IS 'types of messages';
COMMENT ON COLUMN webhook_endpoints.kinds IS 'kinds of jobs, or patterns of them; NULL: all';
COMMENT ON COLUMN webhook_endpoints.contact IS 'e-mail address to notify when it is disabled';
COMMENT ON COLUMN webhook_endpoints.secret IS 'secret that signs messages';
COMMENT ON COLUMN webhook_endpoints.old_secret IS 'also signs, until old_secret_until';
COMMENT ON COLUMN webhook_endpoints.cursor_tx IS 'position in the feed: earlier events have their messages';
COMMENT ON COLUMN webhook_endpoints.cursor_at IS 'lower bound of the partitions to read';
COMMENT ON COLUMN webhook_endpoints.replay_tx IS 'end of the replay';
COMMENT ON COLUMN webhook_endpoints.replay_from_at IS 'lower bound of a replay';
COMMENT ON COLUMN webhook_endpoints.replay_everything IS 'replay delivered events, too';
COMMENT ON COLUMN webhook_endpoints.delivered_at IS 'last success, to a minute';
COMMENT ON COLUMN webhook_endpoints.failing_since IS 'first failure since the last success';
COMMENT ON COLUMN webhook_endpoints.last_error IS 'message of the last failure';

-- what no partition was made for
CREATE TABLE job_history_default PARTITION OF job_history DEFAULT;
CREATE TABLE job_runs_default PARTITION OF job_runs DEFAULT;
CREATE TABLE job_events_default PARTITION OF job_events DEFAULT;

-- every job passes through this small table with a handful of updates: vacuum it early and without pauses
ALTER TABLE jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE queue_counters SET (fillfactor = 20, autovacuum_vacuum_threshold = 500);
ALTER TABLE workers SET (fillfactor = 50);

INSERT INTO installation DEFAULT VALUES;
