ALTER TABLE repositories DROP COLUMN ask_at;
ALTER TABLE installations DROP COLUMN ask_at;
