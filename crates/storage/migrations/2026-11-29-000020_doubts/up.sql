-- When GitHub is to be asked about an installation or a repository: an event reported something that it may have said long ago, or never.
ALTER TABLE installations ADD COLUMN ask_at TIMESTAMPTZ;
ALTER TABLE repositories ADD COLUMN ask_at TIMESTAMPTZ;
CREATE INDEX installations_ask ON installations (ask_at) WHERE ask_at IS NOT NULL;
CREATE INDEX repositories_ask ON repositories (ask_at) WHERE ask_at IS NOT NULL;
