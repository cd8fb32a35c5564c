DROP TABLE stops;
