-- Locks by name, held until the transaction ends. They are rows, not advisory locks: any login of the database can take an
-- advisory lock, and one of a report that did would stop the platform. The table is unlogged: a lock outlives nothing.

-- Create missing locks. Call it in a transaction of its own: created inside a longer one, they would block other callers.
CREATE OR REPLACE FUNCTION make_locks(p_names text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO locks (name) SELECT DISTINCT unnest(p_names) AS name ORDER BY name ON CONFLICT DO NOTHING;
$$;

-- Take a lock, waiting for it.
CREATE OR REPLACE FUNCTION take_lock(p_name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    LOOP
        PERFORM 1 FROM locks WHERE name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO locks (name) VALUES (p_name) ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Take the free ones of these locks, and return their names; does not wait for locks of other transactions.
CREATE OR REPLACE FUNCTION try_locks(p_names text[]) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM unnest(p_names) AS wanted WHERE NOT EXISTS (SELECT 1 FROM locks WHERE name = wanted)) THEN
        PERFORM make_locks(p_names);  -- deleted, or lost in a crash of Postgres
    END IF;
    RETURN QUERY SELECT name FROM locks WHERE name = ANY (p_names) FOR UPDATE SKIP LOCKED;
END $$;
