CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, -- the id
  email VARCHAR(255) NOT NULL UNIQUE,
  "name" TEXT DEFAULT 'x''y' COLLATE NOCASE,
  age INT CHECK(age>=0 AND age != 7 or age==8),
  bal DECIMAL( 10 , 2 ) default -1.50,
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  b BLOB DEFAULT x'AB', e default (1+2), n default NULL, tt default true
)
--
create table if not exists [orders] ( id integer not null primary key on conflict replace, user_id int references users ( id ) on delete cascade on update set null deferrable initially deferred, constraint uq unique (id, user_id) on conflict ignore, foreign key(user_id) references "users"("id"), check (id > 0 and user_id is not null), CHECK ((id)) );
--
CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	)
--
CREATE TABLE `gorm_users` (`id` integer PRIMARY KEY AUTOINCREMENT,`created_at` datetime,`name` text,CONSTRAINT `uni_gorm_users_name` UNIQUE (`name`))
--
CREATE INDEX IF NOT EXISTS ix1 ON users(email, name COLLATE BINARY DESC)
--
CREATE UNIQUE INDEX "ix2" on users (lower(email)) where age is not null and age<>3 AND age NOT IN (1,2) and name not like 'a%' and age between 1 and 3
--
CREATE INDEX main.ix3 ON orders(user_id) WHERE user_id NOTNULL
--
CREATE VIEW v1 AS SELECT id, email||'x' AS e, count(*) n, cast(age as text), case when age>1 then 'a' else 'b' end, -age, NOT age FROM users WHERE age IS NOT NULL GROUP BY 1 HAVING n>1 ORDER BY id desc LIMIT 10 OFFSET 2
--
CREATE VIEW v2(a,b) AS WITH c AS (SELECT 1 x UNION ALL SELECT 2) SELECT c.x, u.id FROM c LEFT JOIN users u ON u.id=c.x INNER JOIN orders o USING(id)
--
CREATE TRIGGER tr1 INSERT ON users WHEN new.age>3 BEGIN UPDATE users SET age=age+1 WHERE id=new.id; DELETE FROM orders WHERE user_id=NEW.id; INSERT OR REPLACE INTO orders(id,user_id) VALUES(1,2),(3,4) ON CONFLICT DO NOTHING; SELECT RAISE(ABORT,'no') WHERE 0; END
--
CREATE TRIGGER IF NOT EXISTS tr2 AFTER UPDATE OF email , name ON users FOR EACH ROW BEGIN SELECT 1; END;
--
CREATE TABLE st (a INTEGER PRIMARY KEY, b TEXT, c ANY) STRICT
--
CREATE TABLE t3(a,b,primary key(a,b desc))
--
CREATE TABLE "we""ird ""t"("c 1" text, [select] int, `x``y` real, 'str' text)
--
ALTER TABLE t3 ADD COLUMN c INTEGER NOT NULL DEFAULT 0
--
ALTER TABLE t3 ADD d
--
CREATE TABLE t4(a DOUBLE PRECISION, b UNSIGNED BIG INT, c CHARACTER VARYING(20), d, e NOT NULL ON CONFLICT FAIL, f DEFAULT +5, g default 1e3, h default 'a' not null, i DEFAULT "dq", j INTEGER DEFAULT 0x1F, k NULL, l UNIQUE ON CONFLICT IGNORE)
--
CREATE TABLE t5 AS SELECT 1 AS a, 'x' AS b
--
ALTER TABLE t4 RENAME COLUMN a TO aa
--
ALTER TABLE t4 RENAME TO t44
