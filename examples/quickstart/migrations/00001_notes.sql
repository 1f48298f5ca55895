-- +goose Up
CREATE TABLE notes (
	id     TEXT PRIMARY KEY,
	author TEXT NOT NULL,
	body   TEXT NOT NULL
);
CREATE INDEX notes_by_author ON notes (author);

-- +goose Down
DROP TABLE notes;
