DROP TABLE sessions;
DROP TABLE people;
