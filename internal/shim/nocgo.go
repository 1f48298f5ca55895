//go:build !cgo

package shim

// SQLite is C. Without cgo nothing here would compile, for reasons that say nothing;
// this says what is the matter.
var _ = tursosync_needs_cgo__install_a_C_compiler_and_build_with_CGO_ENABLED_1
