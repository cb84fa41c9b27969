-- Old forms of functions that have more parameters now: both beside each other would fit a call with fewer arguments.
-- In the transaction that creates the new ones, so that no process meets a ledger without either.
DROP FUNCTION IF EXISTS accept_job(
    bytea, uuid, text, bytea, integer, double precision, uuid, text, text, integer, jsonb, text[], integer, integer,
    integer, timestamptz, timestamptz);
DROP FUNCTION IF EXISTS beat_worker(uuid, uuid[]);
DROP FUNCTION IF EXISTS cancel_job(uuid, uuid, timestamptz, text);
DROP FUNCTION IF EXISTS settle_run(uuid, uuid, text, text, double precision, jsonb, jsonb, jsonb);
DROP FUNCTION IF EXISTS rescue_runs(double precision, integer);
DROP FUNCTION IF EXISTS rescue_runs(double precision, integer, double precision);
DROP FUNCTION IF EXISTS settle_run(
    uuid, uuid, text, text, double precision, jsonb, jsonb, jsonb, double precision);
DROP FUNCTION IF EXISTS settle_run(
    uuid, uuid, text, text, double precision, jsonb, jsonb, jsonb, double precision, jsonb);
DROP FUNCTION IF EXISTS tell_steps(uuid, uuid[], integer);
DROP FUNCTION IF EXISTS cancel_job(uuid, uuid, timestamptz, text, text);
DROP FUNCTION IF EXISTS waiting_queues(text[], integer[], timestamptz[]);
DROP FUNCTION IF EXISTS dispatch_jobs(text, integer, integer, timestamptz[], timestamptz);
DROP FUNCTION IF EXISTS accept_job(
    bytea, uuid, text, bytea, integer, double precision, uuid, text, text, integer, jsonb, text[], integer, integer,
    integer, timestamptz, timestamptz, text, double precision, boolean);
DROP FUNCTION IF EXISTS accept_job(
    bytea, uuid, text, bytea, integer, double precision, uuid, text, text, integer, jsonb, text[], integer, integer,
    integer, timestamptz, timestamptz, text, double precision, boolean, text[], integer[], text);
DROP FUNCTION IF EXISTS take_units(text[], integer[]);
DROP FUNCTION IF EXISTS accept_job(
    bytea, uuid, text, bytea, integer, double precision, uuid, text, text, integer, jsonb, text[], integer, integer,
    integer, timestamptz, timestamptz, text, double precision, boolean, text[], integer[]);
