-- +goose Up
ALTER TABLE people ADD COLUMN mail TEXT;
CREATE UNIQUE INDEX people_by_mail ON people (mail);

-- +goose Down
DROP INDEX people_by_mail;
ALTER TABLE people DROP COLUMN mail;
