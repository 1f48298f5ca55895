package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

// Rejected returns the transactions that were put aside, oldest first, with the
// reasons.
func (r *Replica) Rejected(ctx context.Context) (list []syncer.Rejection, err error) {
	err = r.locked("read rejected transactions", func() error {
		list, err = r.readRejected(ctx)
		return err
	})
	return list, err
}

// readRejected decodes turso_sync_rejected the way the log is decoded: its rows
// are those of a log, with a reason.
func (r *Replica) readRejected(ctx context.Context) (list []syncer.Rejection, err error) {
	reader, err := r.readerConn()
	if err != nil {
		return nil, err
	}
	s, err := r.newSpool()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := reader.beginRead(); err != nil {
		return nil, err
	}
	defer reader.rollback()
	err = reader.query(`SELECT key, +value FROM turso_sync_state WHERE key LIKE 'shape.%'`, nil, func(row []driver.Value) error {
		return s.conn.exec(putState, row[0], row[1])
	})
	if err != nil {
		return nil, err
	}
	why := make(map[cdc.ID]syncer.Rejection)
	err = reader.query(`SELECT change_id, change_time, change_txn_id, change_type, +table_name, +id, +"before", +"after", shape, +reason, rejected_at
		FROM turso_sync_rejected ORDER BY change_id`, nil, func(row []driver.Value) error {
		txn, _ := row[2].(int64)
		reason, _ := row[9].(string)
		at, _ := row[10].(int64)
		why[cdc.ID(txn)] = syncer.Rejection{Txn: cdc.ID(txn), Reason: reason, Time: time.Unix(at, 0)}
		args := make([]any, 9)
		for i := range args {
			args[i] = row[i]
		}
		return s.conn.exec(`INSERT INTO turso_cdc(change_id, change_time, change_txn_id, change_type, table_name, id, "before", "after", shape)
			VALUES (?,?,?,?,?,?,?,?,?)`, args...)
	})
	if err != nil {
		return nil, err
	}
	err = cdc.LoadTxns(s.conn.SQLiteConn, 0, func(txn []cdc.Change) error {
		rejection := why[txn[0].Txn]
		rejection.Changes = txn
		list = append(list, rejection)
		return ctx.Err()
	})
	return list, err
}
