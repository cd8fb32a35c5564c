-- A launch changes its state five times within seconds. As long as no index holds what changes, and its page has room, Postgres
-- changes the row alone (HOT) and none of its indexes.
ALTER TABLE launches
    -- When it may be submitted, while it waits for that.
    ADD COLUMN due_at TIMESTAMPTZ GENERATED ALWAYS AS (CASE WHEN state = 'planned' THEN not_before END) STORED;
DROP INDEX launches_due;
DROP INDEX launches_supply;
CREATE INDEX launches_due ON launches (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX launches_supply ON launches (class_id, planned_at DESC, id DESC) WHERE in_supply;
ALTER TABLE launches SET (fillfactor = 70);
ALTER TABLE runners SET (fillfactor = 70);

-- Takes the lock of the scope of a launch. A function, because its plan is kept for the session.
CREATE FUNCTION lock_scope_of(launch UUID) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(repository_id) FROM launches WHERE id = launch;
END
$$;

-- Counted as rows change, as demand and supply are.
ALTER TABLE runner_classes
    -- Those of the supply that were given a runner token.
    ADD COLUMN redeemed INTEGER NOT NULL DEFAULT 0;
UPDATE runner_classes SET redeemed = (
    SELECT count(*) FROM launches
    WHERE class_id = runner_classes.id AND in_supply AND state NOT IN ('planned', 'submitted'));

ALTER TABLE runners
    -- Why the planner does not want it any more, while GitHub is asked to deregister it.
    ADD COLUMN not_wanted JSONB,
    -- When its node reported that it sets the runner up.
    ADD COLUMN set_up_at TIMESTAMPTZ;
