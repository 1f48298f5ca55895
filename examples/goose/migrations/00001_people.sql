-- +goose Up
CREATE TABLE people (
	id   TEXT PRIMARY KEY,
	name TEXT NOT NULL
);

-- +goose Down
DROP TABLE people;
