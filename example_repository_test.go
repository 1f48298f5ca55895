package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
)

// A service written against database/sql does not know which driver it has, so
// its tests may choose: tursosync on :memory: (plain SQLite, nothing to clean up) for
// what the SQL does, go-sqlmock for what SQL cannot be made to do on demand.

type noteRepository struct{ db *sql.DB }

func (r noteRepository) add(ctx context.Context, title string) (id int64, err error) {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if err := tx.QueryRowContext(ctx, `INSERT INTO notes(title) VALUES (?) RETURNING id`, title).Scan(&id); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE totals SET notes = notes + 1`); err != nil {
		return 0, err
	}
	return id, tx.Commit()
}

func TestRepositoryOnSQLite(t *testing.T) {
	db := openDB(t, ":memory:")
	db.SetMaxOpenConns(1) // each connection has a database of its own
	mustExec(t, db, `CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); CREATE TABLE totals(notes INT); INSERT INTO totals VALUES (0)`)
	id, err := noteRepository{db}.add(t.Context(), "milk")
	if err != nil || id != 1 {
		t.Fatalf("add = %d, %v", id, err)
	}
	if n := count(t, db, `SELECT notes FROM totals`); n != 1 {
		t.Errorf("totals %d, want 1", n)
	}
}

func TestRepositoryOnMock(t *testing.T) {
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	broken := errors.New("disk is full")
	mock.ExpectBegin()
	mock.ExpectQuery(`INSERT INTO notes`).WithArgs("milk").WillReturnRows(sqlmock.NewRows([]string{"id"}).AddRow(7))
	mock.ExpectExec(`UPDATE totals`).WillReturnError(broken)
	mock.ExpectRollback()
	if _, err := (noteRepository{db}).add(t.Context(), "milk"); !errors.Is(err, broken) {
		t.Errorf("add = %v, want %v", err, broken)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}
