--@ setup
CREATE TABLE s(a INT) STRICT;
CREATE TABLE t(a);
CREATE TABLE u(a UNIQUE ON CONFLICT FAIL, b);
CREATE TABLE deep(a UNIQUE, b);
CREATE TABLE source(a);
INSERT INTO source VALUES (1), (2), (-9223372036854775808);
--@ conn main
INSERT INTO s VALUES (1), (2), ('text');
INSERT INTO t SELECT abs(a) FROM source;
UPDATE source SET a = abs(a) + 5;
DELETE FROM source WHERE abs(a) > 1;
CREATE TABLE copy AS SELECT abs(a) AS a FROM source;
CREATE INDEX i ON source(abs(a));
INSERT INTO t(rowid, a) VALUES (1, 1), ('text', 2);
INSERT INTO u SELECT 1, a FROM source;
INSERT INTO u SELECT a + 10, abs(a) FROM source;
CREATE TRIGGER d AFTER INSERT ON deep BEGIN INSERT INTO deep(a) VALUES (NEW.a + 1); END;
PRAGMA recursive_triggers = on;
INSERT INTO deep VALUES (1, 'deep');
REPLACE INTO deep VALUES (1, 'deep');
PRAGMA recursive_triggers = off;
BEGIN;
INSERT INTO t VALUES ('before');
INSERT INTO s VALUES (3), (4), ('text');
INSERT INTO t SELECT abs(a) FROM source;
COMMIT;
INSERT INTO t VALUES ('behind');
