// Uses what @libsql/client offers, against the database whose URL it is given, and
// fails at the first thing that is not as expected.
//
//	node tour.mjs FOLDER-WITH-PACKAGES URL TOKEN
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , dir, url, authToken] = process.argv;
const require = createRequire(dir + "/package.json");
const { createClient } = await import(pathToFileURL(require.resolve("@libsql/client/http")));

const db = createClient({ url, authToken, intMode: "bigint" });
await db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)");

// Values, by position and by name.
const values = [null, 1n, -(2n ** 63n), 0.5, "text é \"'", new Uint8Array([0, 255]).buffer];
for (const v of values) {
  const r = await db.execute({ sql: "INSERT INTO t(v) VALUES (?)", args: [v] });
  assert.equal(r.rowsAffected, 1);
}
const all = await db.execute("SELECT id, v FROM t ORDER BY id");
assert.deepEqual(all.columns, ["id", "v"]);
assert.deepEqual(all.rows.map((r) => r.v), values);
const named = await db.execute({ sql: "SELECT v FROM t WHERE id = :id", args: { id: 5 } });
assert.equal(named.rows[0].v, values[4]);
const inserted = await db.execute("INSERT INTO t(v) VALUES ('last')");
assert.equal(inserted.lastInsertRowid, 7n);

// Errors have codes.
await assert.rejects(db.execute("SELECT * FROM missing"), (e) => /no such table: missing/.test(e.message) && e.code === "SQLITE_ERROR");
await assert.rejects(db.execute("INSERT INTO t(id) VALUES (1)"), (e) => e.code === "SQLITE_CONSTRAINT" || e.code === "SQLITE_CONSTRAINT_PRIMARYKEY");

// Batches are transactions.
await assert.rejects(db.batch(["DELETE FROM t", "INSERT INTO missing VALUES (1)"], "write"));
assert.equal((await db.execute("SELECT count(*) AS n FROM t")).rows[0].n, 7n);
const results = await db.batch([{ sql: "INSERT INTO t(v) VALUES (?)", args: ["batch"] }, "SELECT max(id) AS m FROM t"], "write");
assert.equal(results[1].rows[0].m, 8n);
await db.migrate(["CREATE TABLE child (p REFERENCES t(id))", "INSERT INTO child VALUES (99)"]);

// Interactive transactions.
const kept = await db.transaction("write");
await kept.execute("INSERT INTO t(v) VALUES ('kept')");
assert.equal((await kept.execute("SELECT count(*) AS n FROM t")).rows[0].n, 9n);
assert.equal((await db.execute("SELECT count(*) AS n FROM t")).rows[0].n, 8n);
await kept.batch(["UPDATE t SET v = 'changed' WHERE id = 1", "SELECT 1"]);
await assert.rejects(kept.execute("INSERT INTO t(id) VALUES (1)"));
await kept.commit();
assert.equal((await db.execute("SELECT v FROM t WHERE id = 1")).rows[0].v, "changed");

const lost = await db.transaction("deferred");
await lost.executeMultiple("DELETE FROM t; DELETE FROM child");
await lost.rollback();
const left = await db.transaction("write");
await left.execute("DELETE FROM t");
left.close();
assert.equal((await db.execute("SELECT count(*) AS n FROM t")).rows[0].n, 9n);

const read = await db.transaction("read");
await assert.rejects(read.execute("DELETE FROM t"));
read.close();

// Many at a time.
await db.executeMultiple("CREATE TABLE n (v INTEGER); INSERT INTO n VALUES (0);");
await Promise.all(Array.from({ length: 40 }, () => db.execute("UPDATE n SET v = v + 1")));
assert.equal((await db.execute("SELECT v FROM n")).rows[0].v, 40n);
db.close();

// Streams as their own library has them. It speaks version 2 only: of version 3 it
// has a form in protobuf.
const hrana = await import(pathToFileURL(require.resolve("@libsql/hrana-client")));
const client = hrana.openHttp(url, authToken);
client.intMode = "bigint";
const stream = client.openStream();
assert.equal((await stream.queryValue("SELECT 1 + 1")).value, 2n);
await stream.run("CREATE TEMP TABLE tmp (v)");
assert.equal((await stream.run(["INSERT INTO tmp VALUES (?), (?)", [1, 2]])).affectedRowCount, 2);
const stored = stream.storeSql("SELECT sum(v) FROM tmp");
assert.equal((await stream.queryValue(stored)).value, 3);
stored.close();
const described = await stream.describe("SELECT v AS x FROM t WHERE id = :id");
assert.deepEqual(described.paramNames, [":id"]);
assert.equal(described.isReadonly, true);
await stream.sequence("INSERT INTO tmp VALUES (3); INSERT INTO tmp VALUES (4)");
const batch = stream.batch();
const begin = batch.step();
const began = begin.run("BEGIN");
const step = batch.step().condition(hrana.BatchCond.ok(begin));
const rows = step.query("SELECT v FROM tmp ORDER BY v");
await batch.execute();
await began;
assert.deepEqual((await rows).rows.map((r) => r.v), [1, 2, 3n, 4n]); // its numbers are floats
await stream.run("ROLLBACK");
stream.close();
client.close();
console.log("ok");
