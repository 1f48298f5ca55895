// The official client's side of BenchmarkOfficialClient: node official.mjs PACKAGES URL FILE ROUNDS
// Prints one JSON object of arrays: nanoseconds for one autocommit insert and update,
// milliseconds for a push of 20000 rows and for a pull under 5000 pending changes.
import { pathToFileURL } from 'node:url';

const [packages, url, path, rounds] = process.argv.slice(2);
const { connect } = await import(pathToFileURL(packages + '/node_modules/@tursodatabase/sync/dist/promise.js'));
const db = await connect({ path, url, clientName: 'bench' });
const now = () => process.hrtime.bigint();
const ms = (from) => Number(now() - from) / 1e6;

async function remote(sql) {
  const r = await fetch(url + '/v2/pipeline', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ baton: null, requests: [{ type: 'execute', stmt: { sql, args: [], want_rows: false } }] }),
  });
  const body = await r.json();
  if (body.results[0].type !== 'ok') throw new Error(JSON.stringify(body));
}

const out = { insert: [], update: [], push: [], pull: [] };
await db.exec('CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT NOT NULL, qty INTEGER, price REAL)');
await db.push();
await db.pull();
const insert = await db.prepare('INSERT INTO items(name, qty, price) VALUES (?, ?, ?)');
const update = await db.prepare('UPDATE items SET qty = ?, price = price + 1 WHERE id = ?');

for (let r = 0; r < Number(rounds); r++) {
  let t = now();
  for (let i = 0; i < 300; i++) await insert.run('a new item', i, 9.5);
  out.insert.push((ms(t) * 1e6) / 300);
  t = now();
  for (let i = 0; i < 300; i++) await update.run(i, 1 + i);
  out.update.push((ms(t) * 1e6) / 300);
  await db.push();

  await db.exec('BEGIN');
  for (let i = 0; i < 20000; i++) await insert.run('a pushed item', i, 9.5);
  await db.exec('COMMIT');
  t = now();
  await db.push();
  out.push.push(ms(t));
  await db.pull();

  await db.exec('BEGIN');
  for (let i = 0; i < 5000; i++) await update.run(i, 1 + i);
  await db.exec('COMMIT');
  await remote(`INSERT INTO items(name, qty) VALUES ('from afar', ${r})`);
  t = now();
  await db.pull();
  out.pull.push(ms(t));
  await db.push();
  await db.pull();
}
await db.close();
console.log(JSON.stringify(out));
