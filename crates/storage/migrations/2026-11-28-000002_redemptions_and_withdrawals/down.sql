ALTER TABLE runners DROP COLUMN set_up_at, DROP COLUMN not_wanted;

ALTER TABLE runner_classes DROP COLUMN redeemed;

DROP FUNCTION lock_scope_of;

ALTER TABLE runners RESET (fillfactor);
ALTER TABLE launches RESET (fillfactor);
DROP INDEX launches_supply;
DROP INDEX launches_due;
ALTER TABLE launches DROP COLUMN due_at;
CREATE INDEX launches_supply ON launches (class_id, state, planned_at DESC, id DESC) WHERE in_supply;
CREATE INDEX launches_due ON launches (state, not_before) WHERE in_supply;
