-- Locks by name, held until the transaction ends. They are rows, not advisory locks: any login of the database can take an
-- advisory lock, and one of a report that did would stop the platform. The table is unlogged: a lock outlives nothing.

-- Make locks that are not there yet. In a transaction of its own: who makes one inside a longer one makes others wait.
CREATE OR REPLACE FUNCTION make_locks(p_names text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO locks (name) SELECT DISTINCT unnest(p_names) AS name ORDER BY name ON CONFLICT DO NOTHING;
$$;

-- Take a lock; waits for it.
CREATE OR REPLACE FUNCTION take_lock(p_name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    LOOP
        PERFORM 1 FROM locks WHERE name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO locks (name) VALUES (p_name) ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Take those of these locks that are free, and return their names; waits for none that another transaction has.
CREATE OR REPLACE FUNCTION try_locks(p_names text[]) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM unnest(p_names) AS wanted WHERE NOT EXISTS (SELECT 1 FROM locks WHERE name = wanted)) THEN
        PERFORM make_locks(p_names);  -- deleted, or gone with a crash of Postgres
    END IF;
    RETURN QUERY SELECT name FROM locks WHERE name = ANY (p_names) FOR UPDATE SKIP LOCKED;
END $$;
