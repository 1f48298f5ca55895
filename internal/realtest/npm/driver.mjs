// Runs the official sync client for tests: one JSON request per line on standard
// input, one JSON answer per line on standard output. Values travel as in SQL
// over HTTP. It ends when its input does.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The script lives outside of the folder with the packages.
const require = createRequire(process.argv[2] + "/package.json");
const { connect } = await import(pathToFileURL(require.resolve("@tursodatabase/sync")));

const databases = new Map();

function toWire(v) {
  if (v === null || v === undefined) return { type: "null" };
  if (typeof v === "bigint") return { type: "integer", value: v.toString() };
  if (typeof v === "number") return { type: "float", value: v };
  if (typeof v === "string") return { type: "text", value: v };
  return { type: "blob", base64: Buffer.from(v).toString("base64").replace(/=+$/, "") };
}

function fromWire(v) {
  switch (v.type) {
    case "null": return null;
    case "integer": return BigInt(v.value);
    case "float": return v.value;
    case "text": return v.value;
    case "blob": return Buffer.from(v.base64, "base64");
  }
  throw new Error("unknown type of value: " + v.type);
}

// hook makes the transform hook: what becomes of the changes of a table is "skip" or
// a statement with the row's columns, by name, as its parameters.
function hook(rules) {
  return (m) => {
    const rule = rules[m.tableName];
    if (rule === undefined) return null;
    if (rule.skip) return { operation: "skip" };
    return { operation: "rewrite", stmt: { sql: rule.sql, values: rule.columns.map((c) => (m.after ?? m.before)[c]) } };
  };
}

const verbs = {
  async open(r) {
    const { transform, ...options } = r.options;
    if (transform) options.transform = hook(transform);
    databases.set(r.db, await connect(options));
  },
  async exec(r, db) {
    await db.exec(r.sql);
  },
  async query(r, db) {
    const stmt = await db.prepare(r.sql);
    stmt.safeIntegers(true);
    stmt.raw(true);
    const rows = await stmt.all(...(r.args ?? []).map(fromWire));
    return rows.map((row) => row.map(toWire));
  },
  async push(r, db) {
    await db.push();
  },
  async pull(r, db) {
    return await db.pull();
  },
  async checkpoint(r, db) {
    await db.checkpoint();
  },
  async stats(r, db) {
    return await db.stats();
  },
  async close(r, db) {
    await db.close();
    databases.delete(r.db);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const r = JSON.parse(line);
  let answer;
  try {
    const result = await verbs[r.op](r, databases.get(r.db));
    answer = { result: result ?? null };
  } catch (e) {
    answer = { error: String(e?.message ?? e) };
  }
  process.stdout.write(JSON.stringify(answer, (k, v) => (typeof v === "bigint" ? Number(v) : v)) + "\n");
}
process.exit(0);
