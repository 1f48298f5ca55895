// Package sim is a world in one process: several replicas (the real driver, real
// SQLite, real files), the real server, a network in memory, and simulated time. A seed
// makes a script of what happens in it, and checkers that know no SQL say whether it
// was right.
//
//	go test ./internal/sim                                     a fixed part; -short: a few seeds
//	TURSOSYNC_SEED=7 go test ./internal/sim -run TestSim/steps one seed, told step by step
//	TURSOSYNC_SIM_TIME=2h go test ./internal/sim -run TestSim -timeout 0
//	                                                           new seeds for so long
//	TURSOSYNC_SIM_REPORT=file                                  … and what was done, into a file
//	TURSOSYNC_SIM_SCRIPT=file.json                             a script that was made smaller
//	TURSOSYNC_SIM_NOSHRINK=1                                   what fails is not made smaller
//	TURSOSYNC_SIM_FORKS=1                                      files with pending changes are copied too
//
// A seed that fails prints the command that repeats it. Then steps and faults are left
// out of its script as long as it fails without them, for a minute; what remains is
// printed and left in the temporary folder.
//
// # Two kinds of scripts
//
// In "steps" replicas sync when they are told to, one step after the other, on one
// goroutine: a seed does the same every time, but for client ids, revisions and the gap
// in the change ids, which are truly random. All checkers run after each step.
//
// In "background" replicas sync by themselves, by interval or long poll, while the
// script commits, crashes and waits, and readers look on. What meets what also depends
// on Go's scheduler, so that a seed repeats most of it.
//
// # Time
//
// Both run in a bubble of testing/synctest: hours pass at once when everybody waits.
// SQLite's calls are in there as well. Its busy handler sleeps in C, in real time, which
// is no more than slow; all of the product's own waiting is on channels and timers. The
// bubble's clock only goes forward, as that does which counts intervals. The wall clock
// (fault.Now) is set off from it and jumps both ways; files carry the times of the
// real one, and so does change_time in the log, which is C's. A goroutine that is left over is a deadlock of the bubble,
// which ends the test; files left open are counted.
//
// # Crashes
//
// A process that dies, at a fault point (internal/fault) or between steps, leaves its
// files as they are at that moment. So they are copied then, the network is cut, the
// handles are closed (which changes the originals, at which nobody looks any more) and
// the copy is opened. When the machine loses power, the copy holds what was synced
// (internal/faultfs reports syncs), and of what was written since all, nothing, or some
// sectors; names in the folder likewise. The server dies in the same way; in one script
// of three it syncs what it writes, and its machine may lose power. Failing files are those of internal/faultfs.
//
// # Model
//
// Every transaction leaves a token in the table journal. That says, without asking the
// product, which transactions a base, a live or the remote holds. The model (model.go)
// is what docs/semantics.md says of rows, in maps, and is applied to each side:
//
//	remote  all transactions in the order in which their tokens came
//	base    is one of the states that the remote was in
//	live    base, and on top the transactions that base has never held
//
// A file that is adopted is one transaction of inserts. A table that is rebuilt is one
// operation, which replaces all of its rows by those that were copied.
//
// What is not in the model keeps out of the workloads' way: a script in which the remote
// goes back in time has no migrations, for those are then for people to decide. The
// column that a rebuild adds is added once in a world: a replica that goes on to rebuild
// the old form puts that in the place of the new one. And while another program's rows
// wait for a comparison, transactions keep to rows of their owner: what is found may be
// logged with them, as a difference.
//
// # Known holes
//
// Two replicas rebuild a table, with the same name for the new one, one of them in two
// transactions. When the first half is on the remote, another replica that pulls it
// takes its own CREATE of the new table for done, and forgets it. Once somebody has
// renamed that table, its rebuild counts as done as well (its rows are written), and
// half a rebuild halts as a disagreement. Nothing is lost, but it is not what the model
// says.
//
// A copy of files with pending changes, opened after or beside the original, pushes
// these changes again if the original has pushed them since: the fence tells that
// something is wrong, and the copy goes on under a new client id with all of its pending
// changes. Rows without a key are then there twice, and rows with one go back to what
// they were. Scripts copy files only when nothing is pending, unless
// TURSOSYNC_SIM_FORKS is set.
package sim
