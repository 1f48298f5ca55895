// Package syncer decides when, and in which order, a replica and its remote
// exchange changes. It sees both through interfaces of its own (ports.go) and
// has no SQL, files or HTTP.
//
// A [Scheduler] bounds the work of a process. Each replica has a [Loop]: one
// goroutine that owns the replica's sync state. Requests (Push, Pull, Wait …),
// commits and timers only leave a note and wake it, so nothing ever runs twice
// at once for a replica, and a request takes the same path as the background.
//
//	commit ──▶ Committed ──┐                       ┌──▶ push.go   Pending → Mutations → Remote.Push
//	Push, Wait, Pull … ────┼──▶ decide (pure) ──▶ step ──▶ pull.go   Replica.Pull(Fetch)
//	timers, backoff ───────┘                       └──▶ checkpoint, Do
package syncer
