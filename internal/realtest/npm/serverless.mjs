// Uses what @tursodatabase/serverless offers, against the database whose URL it is
// given, and fails at the first thing that is not as expected. It runs every
// statement through a cursor, and has pipelines for describe, sequence and close.
//
//	node serverless.mjs FOLDER-WITH-PACKAGES URL TOKEN
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const [, , dir, url, authToken] = process.argv;
const { connect } = await import(pathToFileURL(dir + "/node_modules/@tursodatabase/serverless/dist/index.js"));

const db = connect({ url, authToken });
db.defaultSafeIntegers(true);
await db.exec("CREATE TABLE s (id INTEGER PRIMARY KEY, v); CREATE TABLE u (k TEXT UNIQUE);");

// Values, by position and by name; what a statement did.
const values = [null, 1n, -(2n ** 63n), 0.5, "text é \"'\n", Buffer.from([0, 255])];
for (const v of values) {
  const r = await db.execute("INSERT INTO s(v) VALUES (?)", [v]);
  assert.equal(r.rowsAffected, 1);
}
assert.equal((await db.execute("INSERT INTO s(v) VALUES ('last')")).lastInsertRowid, 7);
const all = await db.execute("SELECT id, v FROM s WHERE id <= 6 ORDER BY id");
assert.deepEqual(all.columns, ["id", "v"]);
assert.deepEqual(all.columnTypes, ["INTEGER", ""]);
assert.deepEqual(all.rows.map((r) => r[1]), values);
assert.equal((await db.execute("SELECT v FROM s WHERE id = :id", { id: 5 })).rows[0].v, values[4]);

// Errors: their codes, and that the stream goes on.
await assert.rejects(db.execute("SELECT * FROM missing"), (e) => /no such table: missing/.test(e.message) && e.code === "SQLITE_ERROR");
await assert.rejects(db.execute("SELEC"), (e) => /syntax error/.test(e.message));
await db.execute("INSERT INTO u VALUES ('a')");
await assert.rejects(db.execute("INSERT INTO u VALUES ('a')"), (e) => e.code.startsWith("SQLITE_CONSTRAINT"));
await assert.rejects(db.batch(["INSERT INTO u VALUES ('b')", "INSERT INTO missing VALUES (1)"]), /no such table/);
assert.equal((await db.batch(["INSERT INTO u VALUES ('c')", "UPDATE u SET k = k || '!'"])).rowsAffected, 4);

// Prepared statements and a row at a time.
const stmt = await db.prepare("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i, 'row ' || i AS t FROM n");
assert.deepEqual(stmt.columns().map((c) => c.name), ["i", "t"]);
let n = 0;
for await (const row of stmt.iterate([20000])) {
  n++;
  assert.equal(row.t, "row " + n);
}
assert.equal(n, 20000);
await assert.rejects(db.prepare("SELECT x FROM missing"), /no such table/);

// Transactions: those of one connection are not seen by another before the end.
const other = connect({ url, authToken });
const count = async (c) => (await c.execute("SELECT count(*) AS n FROM s")).rows[0].n;
await db.transaction(async () => {
  await db.execute("INSERT INTO s(v) VALUES ('kept')");
  assert.equal(Number(await count(db)), 8);
  assert.equal(Number(await count(other)), 7);
})();
assert.equal(Number(await count(other)), 8);
await assert.rejects(db.transaction(async () => {
  await db.execute("DELETE FROM s");
  throw new Error("back");
}).immediate(), /back/);
assert.equal(Number(await count(other)), 8);
await db.exec("BEGIN; DELETE FROM s");
await db.close(); // rolls back
assert.equal(Number(await count(other)), 8);

// Many connections at a time.
await other.exec("CREATE TABLE c (v INTEGER); INSERT INTO c VALUES (0)");
await Promise.all(Array.from({ length: 20 }, async () => {
  const c = connect({ url, authToken });
  await c.execute("UPDATE c SET v = v + 1");
  await c.close();
}));
assert.equal(Number((await other.execute("SELECT v FROM c")).rows[0].v), 20);
await other.close();

// A token that nobody knows.
await assert.rejects(connect({ url, authToken: "wrong" }).execute("SELECT 1"), /401/);
console.log("ok");
