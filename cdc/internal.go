package cdc

import "strings"

// The tables that every replica keeps beside the user's own, and the one in
// which the remote keeps every client's watermark.
const (
	LogTable       = "turso_cdc"
	StateTable     = "turso_sync_state"
	RejectedTable  = "turso_sync_rejected"
	WatermarkTable = "turso_sync_last_change_id"
)

// Internal tells whether a table belongs to the synchronisation itself or to
// SQLite or tursodb: such tables are neither captured nor pushed, and a user may
// not write to them. Names compare as SQLite compares them, without regard to
// the case of ASCII letters. A user's table turso_mine is a table like any other.
func Internal(table string) bool {
	switch len(table) {
	case len(LogTable), len(StateTable), len(RejectedTable), len(WatermarkTable):
		if strings.EqualFold(table, LogTable) || strings.EqualFold(table, StateTable) ||
			strings.EqualFold(table, RejectedTable) || strings.EqualFold(table, WatermarkTable) {
			return true
		}
	}
	return hasPrefixFold(table, "sqlite_") || hasPrefixFold(table, "__turso_internal_")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
