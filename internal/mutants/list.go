package main

// mutant is a deliberate bug: old, which must be in the file once, becomes new.
// test are arguments of go test for tests that must find it.
type mutant struct {
	name, file, old, new, test string
}

var mutants = []mutant{
	// The page commit: internal/shim
	{"the page commit is not synced", "internal/shim/pagecommit.c",
		"if (rc == SQLITE_OK) rc = p->wal->pMethods->xSync(p->wal, SQLITE_SYNC_FULL);\n    if (rc == SQLITE_OK) rc = publish",
		"if (rc == SQLITE_OK) rc = publish", "./internal/sim"},
	{"off by one at a block of the wal-index", "internal/shim/pagecommit.c",
		"(frame + ENTRIES - ENTRIES_FIRST - 1) / ENTRIES", "(frame + ENTRIES - ENTRIES_FIRST) / ENTRIES", "./internal/shim"},
	{"a block of the wal-index is not cleared before use", "internal/shim/pagecommit.c",
		"if (entry == 1) {", "if (entry == 0) {", "./internal/shim"},
	{"what a dead writer left in the wal-index stays", "internal/shim/pagecommit.c",
		"if (b.hash[i] > keep) b.hash[i] = 0;", "(void)keep;", "./internal/shim"},
	{"the change counter does not count a page commit", "internal/shim/pagecommit.c",
		"p->hdr.iChange++;", "", "./internal/shim"},
	{"a database may grow by pages that nobody wrote", "internal/shim/pagecommit.c",
		"return p->grown < need;", "return 0;", "./internal/shim"},
	{"a page commit does not take the write lock", "internal/shim/pagecommit.c",
		"rc = f->pMethods->xShmLock(f, LOCK_WRITE, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);", "rc = SQLITE_OK;", "./internal/shim"},
	{"the WAL is not compared with the wal-index", "internal/shim/pagecommit.c",
		"  rc = check_wal(p);\n", "", "./internal/shim"},

	// Capture: internal/shim, cdc, hooks
	{"DELETE without WHERE is not captured", "internal/shim/capture_authorize.c",
		"      return SQLITE_IGNORE;\n    case A_CREATE_TABLE:", "      return SQLITE_OK;\n    case A_CREATE_TABLE:", "./cdc"},
	{"a row replaced under its rowid counts as new", "internal/shim/capture_hooks.c",
		"op == SQLITE_INSERT && !c->replace ? E_INSERTED : 0", "op == SQLITE_INSERT ? E_INSERTED : 0", "./cdc"},
	{"a row displaced by REPLACE is not logged", "cdc/prepare.go",
		"return st.ready == nil || st.ready.replace }", "return false }", "./cdc"},
	{"log rows undone by ROLLBACK TO are not missed", "internal/shim/capture_flush.c",
		"if (rc != SQLITE_OK || max >= c->next_id - 1) return rc;", "if (rc != SQLITE_OK || max >= 0) return rc;", "./cdc"},
	{"what the transaction logged of a row before is forgotten", "internal/shim/capture_flush.c",
		"for (i = 0; i < n && c->nlogged > 0; i++) {", "for (i = 0; i < n && c->nlogged > 1000000; i++) {", "./cdc"},
	{"deletes are not logged first", "internal/shim/capture_flush.c",
		"for (i = 0; i < n && (any_gone || c->rekey) && rc == SQLITE_OK; i++) {", "for (i = 0; i < 0; i++) {", "./cdc"},
	{"a new row whose key moves on after it was logged counts as an update", "internal/shim/capture_flush.c",
		"(!(e->flags & E_INSERTED) || e->last >= 0)", "!(e->flags & E_INSERTED)", "./cdc"},
	{"what DROP of a TEMP trigger and ROLLBACK leave is not looked at", "cdc/session.go",
		"		if s.temp {\n", "		if false {\n", "./cdc"},
	{"commits behind the session's back pass", "internal/shim/capture_hooks.c",
		"if (c->commit_ok && !c->poisoned) return 0;", "return 0;", "./cdc"},

	// Mutations and replay: cdc
	{"an update overwrites the columns that it did not change", "cdc/row.go",
		"if i == r.Shape.RowIDAlias || set != nil && !set[i] {", "if i == r.Shape.RowIDAlias {", "./cdc"},
	{"changes collapse across a changed key", "cdc/collapse.go",
		"if r.Type == Update && r.keyChanged() {", "if false {", "./cdc"},
	{"one statement holds a key twice", "cdc/multirow.go",
		"if _, ok := m.keys[key]; ok {", "if false {", "./cdc"},
	{"swapped unique values are not replayed in another order", "cdc/replay.go",
		"if err != nil && uniqueViolation(err) {", "if false {", "./cdc"},
	{"triggers fire during the replay", "internal/replica/stage.go",
		"[]shim.Config{shim.EnableTrigger, shim.EnableFKey, shim.Defensive}", "[]shim.Config{shim.EnableFKey, shim.Defensive}", "./internal/replica"},

	// Pull and rebase: internal/replica
	{"the redo file is dropped early", "internal/replica/commit.go",
		"	if err := p.Commit(b.stage.pageCount); err != nil {", "	if b.delta != nil {\n		_ = remove(b.delta.path)\n	}\n	if err := p.Commit(b.stage.pageCount); err != nil {", "./internal/replica"},
	{"the redo file is not synced", "internal/replica/delta.go",
		"if d.lost = d.file.Sync(); d.lost == nil {", "if d.lost == nil {", "./internal/replica"},
	{"base is not synced", "internal/replica/base.go",
		"	if err := b.file.Sync(); err != nil {\n		return fmt.Errorf(\"write base: %w\", err)\n	}\n", "", "./internal/sim"},
	{"base keeps the pages that the remote cut off", "internal/replica/base.go",
		"	if err := b.file.Truncate(int64(d.count) * page.Size); err != nil {\n		return fmt.Errorf(\"write base: %w\", err)\n	}\n", "", "./internal/replica"},
	{"the schema cookie is forgotten", "internal/replica/commit.go",
		"	if !slices.Equal(before, after) {\n		cookie", "	if was < 0 && !slices.Equal(before, after) {\n		cookie", "./internal/replica"},
	{"ids are given twice once the log is empty", "internal/replica/commit.go",
		"to.exec(putState, lastIDKey, int64(last))", "to.exec(putState, lastIDKey, int64(last-last))", "./internal/replica"},
	{"frames lost in a reset of the WAL are not missed", "internal/replica/dirty.go",
		"if commits != ws.Change-d.mark.change {", "if commits > ws.Change {", "./internal/replica"},
	{"writes of other programs go unnoticed", "internal/replica/dirty.go",
		"if ws.Change != r.log.Expected() || r.log.Foreign() {", "if r.log.Foreign() {", "./internal/replica"},
	{"a row of another program's counts as one of base", "cdc/replay.go",
		"known = values != nil && bytes.Equal(", "known = true || bytes.Equal(", "./internal/replica -run Foreign"},
	{"what another program wrote after the comparison is pushed", "internal/replica/push.go",
		"case !foreign || r.gated || st.basePages == 0:", "case !foreign || true:", "./internal/replica -run Foreign"},
	{"a remote that went back in time is followed", "internal/replica/follow.go",
		"if !ok || now.generation < was.generation || now.generation == was.generation && now.id < was.id {", "if false && !ok && now == was {", "./internal/replica"},
	{"any watermark under our id is believed", "internal/replica/follow.go",
		"	if !slices.Contains(s.intents, mark) {\n		return false\n	}\n", "", "./internal/replica"},
	{"the intended watermark is not noted", "internal/replica/push.go",
		"		st := r.state()\n		if slices.Contains(st.intents, last) ||", "		st := r.state()\n		if true || slices.Contains(st.intents, last) ||", "./internal/replica"},
	{"records of the redo file are not checked", "internal/replica/delta.go",
		"binary.LittleEndian.Uint32(record[4:]) != d.recordSum(no, record[8:]) || d.pages.Has(no)", "d.pages.Has(no)", "./internal/replica"},

	// Push: syncer, internal/remote
	{"triggers that a later batch drops fire", "syncer/build.go",
		"needed = needed || behind", "_ = behind", ". -run TestHistories"},
	{"the watermark moves before the rows", "syncer/push.go",
		"	result, err := l.currentRemote().Push(ctx, batch)\n", "	if err := l.replica.Acknowledge(ctx, batch.Last); err != nil {\n		return err\n	}\n	result, err := l.currentRemote().Push(ctx, batch)\n", "./syncer"},
	{"the fence lets everything pass", "internal/remote/push.go",
		"WHERE client_id = ?1) IS NOT ?2\"", "WHERE client_id = ?1) IS NOT ?2 AND 0\"", "./internal/remote"},

	// The server
	{"the history misses changed pages", "server/history.go",
		"	h.changed[no-1] = seq\n", "	if no == 1 {\n		h.changed[no-1] = seq\n	}\n", "./server"},
	{"checkpoints of other programs go unnoticed", "server/history.go",
		"if old.Change+uint32(commits) != now.Change {", "if false {", "./server"},
	{"a record of another WAL is believed", "server/history.go",
		"if [2]uint32{be.Uint32(b[16:]), be.Uint32(b[20:])} == w.checksum {", "if w.frames > 0 {", "./server"},
	{"REPLACE deletes without the right to", "server/auth/allow.go",
		"	if a.Replaces {\n		need |= DataDelete\n	}\n	return r.May", "	return r.May", "./server/auth"},

	// The WAL's format
	{"frames without a commit count", "internal/wal/wal.go",
		"if count := binary.BigEndian.Uint32(b[4:]); count != 0 {", "if count := binary.BigEndian.Uint32(b[4:]); count != 0 || no > 1 {", "./internal/wal"},
}
