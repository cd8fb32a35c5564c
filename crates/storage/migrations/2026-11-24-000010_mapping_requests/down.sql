DROP TABLE mapping_requests;
ALTER TABLE repository_mappings DROP COLUMN account, DROP COLUMN qos;
